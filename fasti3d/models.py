"""Networks as jobs need them: loaded by name, checked for their streams, and in eval mode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fasti3d import weights
from fasti3d.backbone import Backbone
from fasti3d.i3d import I3D, clip_for
from fasti3d.i3d_resnet import I3DResNet
from fasti3d.preprocessing import NORMALIZATIONS, PREPROCESSINGS, Preprocessing
from fasti3d.runtime.devices import resolve_device, resolve_dtype
from fasti3d.two_stream import check_channels
from fasti3d.video_resnet.fused import FusedVideoResNet
from fasti3d.video_resnet.reference import on_meta

DEFAULT_WEIGHTS = "kinetics400-rgb"

# Clips per forward pass. A GPU needs several to be busy; a CPU is busy with one, and a second would only cost
# memory.
BATCH = {"cuda": 8, "cpu": 1}

# What jobs run.
VideoNetwork: TypeAlias = I3D | I3DResNet | FusedVideoResNet

# A network, the name or path of weights, or what gives a network when it is called.
Model = VideoNetwork | str | PathLike[str] | Callable[[], VideoNetwork]

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


def load_backbone(
    source: str | PathLike[str], backbone: Backbone, *, device: str = "auto", dtype: str = "auto"
) -> VideoNetwork:
    """Load a network of a name in eval mode.

    Args:
        source: A name in ``fasti3d.weights.registry()``, or the path of a checkpoint.
        backbone: Which network the weights have to be of.
        device, dtype: As for ``load_model``.

    Raises:
        ValueError: As ``load_model``.
        fasti3d.weights.WeightsError: The weights cannot be downloaded or read, or are of another network.
    """
    if backbone.family == "i3d":
        return load_model(source, device=device, dtype=dtype)
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    if backbone.family == "i3d-resnet":
        resnet = I3DResNet.from_pretrained(os.fspath(source), backbone.variant, backbone.non_local)
        if resnet.depth != backbone.kind.depth:
            raise weights.WeightsError(
                f"the weights of {source} have depth {resnet.depth}, but network is {backbone.network!r}: "
                f"use 'i3d-r{resnet.depth}'"
            )
        return resnet.to(where, precision)
    checkpoint = weights.load_video_resnet(source)
    if checkpoint.network != backbone.network:
        raise weights.WeightsError(
            f"the weights of {source} are of {checkpoint.network}, but network is {backbone.network!r}: use "
            f"{checkpoint.network!r}"
        )
    model = on_meta(checkpoint.network, checkpoint.num_classes)
    model.load_state_dict(checkpoint.state_dict, assign=True)
    return FusedVideoResNet(model.eval(), checkpoint.labels).to(where, precision)


def backbone_of(model: object) -> Backbone:
    """Return which network this is, or the name of public weights is of; of all else, an I3D."""
    if isinstance(model, I3DResNet):
        return Backbone(f"i3d-r{model.depth}", model.variant, model.non_local)
    if isinstance(model, FusedVideoResNet):
        return Backbone(model.network)
    entry = weights.registry().get(model) if isinstance(model, str) else None
    return Backbone() if entry is None else entry.backbone


def preprocessing_of(model: VideoNetwork) -> Preprocessing:
    """Return how clips for a network's weights are prepared."""
    if isinstance(model, I3DResNet):
        return model.table.preprocessing
    return model.preprocessing if isinstance(model, FusedVideoResNet) else PREPROCESSINGS["i3d"]


def network_clip(model: VideoNetwork, clip: Tensor, normalization: str) -> Tensor:
    """Return a clip as a network takes it.

    Args:
        model: The network.
        clip: (N, 3, T, H, W), uint8 RGB; or for an I3D also (N, 2, T, H, W) in [-1, 1].
        normalization: A name in ``NORMALIZATIONS``; of an I3D, its own.
    """
    if isinstance(model, I3D):
        return clip_for(model, clip)
    if type(model) is I3DResNet and preprocessing_of(model).normalization == normalization:
        return clip  # which it normalizes itself
    mean, std = (torch.tensor(v, device=clip.device).view(3, 1, 1, 1) for v in NORMALIZATIONS[normalization])
    return clip.to(torch.float32).sub_(mean).div_(std).to(next(model.parameters()).dtype)


def load_streams(
    models: Mapping[str, Model | None],
    streams: Iterable[str],
    *,
    backbone: Backbone,
    device: str = "auto",
    dtype: str = "auto",
) -> dict[str, VideoNetwork]:
    """Return the networks of these streams; weights given by name or path are loaded.

    Args:
        models: The network, its weights, or what loads it, by the name of the stream: ``rgb`` or ``flow``.
        streams: The streams that are needed; the others are not loaded.
        backbone: Which network they are; one that is given has to be of the same name and variant.
        device: Where weights are loaded.
        dtype: In which precision.

    Raises:
        ValueError: As ``load_model`` and ``check_models``.
        fasti3d.weights.WeightsError: The weights cannot be downloaded or read.
    """
    found: dict[str, VideoNetwork] = {}
    for stream in streams:
        given = models[stream]
        if given is None:
            raise ValueError(f"the {stream} stream needs {_ARGUMENTS[stream]}, got None")
        if isinstance(given, VideoNetwork):
            found[stream] = given
        elif callable(given):
            found[stream] = given()
        else:
            found[stream] = load_backbone(given, backbone, device=device, dtype=dtype)
        _check_backbone(_ARGUMENTS[stream], found[stream], backbone)
    check_models(found)
    return found


def _check_backbone(argument: str, model: VideoNetwork, backbone: Backbone) -> None:
    """ValueError for a network of another name or variant than was asked for."""
    its = backbone_of(model)
    if (its.family, its.variant, its.kind.depth) != (
        backbone.family,
        backbone.variant,
        backbone.kind.depth,
    ) or (its.family == "video-resnet" and its.network != backbone.network):
        raise ValueError(
            f"{argument} is a network {its.says!r}, but network is {backbone.says!r}: leave network and "
            "variant out, or give a network of that kind"
        )


def check_models(models: Mapping[str, VideoNetwork]) -> None:
    """Check that networks take the channels of their streams, and are in one place.

    Raises:
        ValueError: They do not, or are on different devices or in different dtypes.
    """
    for stream, model in models.items():
        if isinstance(model, I3D):
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
