"""Networks as jobs need them: loaded by name, checked for their streams, and in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike

import torch
from torch import nn

from fasti3d import weights
from fasti3d.i3d import I3D
from fasti3d.runtime.devices import resolve_device, resolve_dtype
from fasti3d.two_stream import check_channels

DEFAULT_WEIGHTS = "kinetics400-rgb"

# Clips per forward pass. A GPU needs several to be busy; a CPU is busy with one, and a second would only cost
# memory.
BATCH = {"cuda": 8, "cpu": 1}

# A network, the name or path of weights, or what gives a network when it is called.
Model = I3D | str | PathLike[str] | Callable[[], I3D]

_ARGUMENTS = {"rgb": "model", "flow": "flow_model"}


def load_model(
    source: str | PathLike[str] = DEFAULT_WEIGHTS, *, device: str = "auto", dtype: str = "auto"
) -> I3D:
    """Load an I3D in eval mode.

    Args:
        source: A name in ``fasti3d.weights.registry()``, or the path of a checkpoint.
        device: ``"auto"`` (a GPU if torch finds one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: ``"auto"`` (float16 on a GPU, float32 on a CPU), ``"float32"``, ``"bfloat16"`` or
            ``"float16"``.

    Raises:
        ValueError: The device or dtype is unknown, or torch does not find the GPU.
        fasti3d.weights.WeightsError: The weights cannot be downloaded or read.

    Example:
        >>> load_model("kinetics400-rgb", device="cpu").num_classes  # doctest: +SKIP
        400
    """
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    checkpoint = weights.load(source)
    with torch.device("meta"):  # so that no weights are drawn that none will see
        model = I3D(checkpoint.num_classes, checkpoint.in_channels)
    weights.load_into(model, checkpoint, assign=True)
    return model.to(where, precision).eval()


def load_streams(
    models: Mapping[str, Model | None], streams: Iterable[str], *, device: str = "auto", dtype: str = "auto"
) -> dict[str, I3D]:
    """Return the networks of these streams; weights given by name or path are loaded as by ``load_model``.

    Args:
        models: The network, its weights, or what loads it, by the name of the stream: ``rgb`` or ``flow``.
        streams: The streams that are needed; the others are not loaded.
        device: Where weights are loaded.
        dtype: In which precision.

    Raises:
        ValueError: As ``load_model`` and ``check_models``.
        fasti3d.weights.WeightsError: The weights cannot be downloaded or read.
    """
    found = {}
    for stream in streams:
        given = models[stream]
        if given is None:
            raise ValueError(f"the {stream} stream needs {_ARGUMENTS[stream]}, got None")
        if isinstance(given, I3D):
            found[stream] = given
        elif callable(given):
            found[stream] = given()
        else:
            found[stream] = load_model(given, device=device, dtype=dtype)
    check_models(found)
    return found


def check_models(models: Mapping[str, I3D]) -> None:
    """Check that networks take the channels of their streams, and are in one place.

    Raises:
        ValueError: They do not, or are on different devices or in different dtypes.
    """
    for stream, model in models.items():
        check_channels(_ARGUMENTS[stream], stream, model)
    places = {place(model) for model in models.values()}
    if len(places) > 1:
        raise ValueError(
            "model and flow_model must be on one device and in one dtype, got "
            + " and ".join(f"{device} in {dtype}" for device, dtype in map(place, models.values()))
        )


def place(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and dtype of a network's weights."""
    weight = next(model.parameters())
    return weight.device, weight.dtype


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for the block; each submodule gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
