"""``fasti3d.export``: a network as a file that runs where fasti3d is not installed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fasti3d.exporting.clips import cases, noise
from fasti3d.exporting.formats import FORMATS, check_file, check_tools, format_of
from fasti3d.exporting.onnx_file import OPSET, to_onnx
from fasti3d.exporting.parity import LIMITS, Comparison, Skipped, compare
from fasti3d.exporting.program import MIN_FRAMES, Endpoints, plain_program
from fasti3d.exporting.record import KEY, record_of
from fasti3d.exporting.torch_files import to_archive, to_package
from fasti3d.i3d import I3D
from fasti3d.inputs import RGB_CHANNELS
from fasti3d.network import TIME_STRIDE, check_endpoints
from fasti3d.two_stream import CHANNELS, TwoStreamI3D
from fasti3d.utils.files import write_atomically
from fasti3d.widths import in_width

_CLIP = (64, 224, 224)


@dataclass(frozen=True)
class Export:
    """What ``export`` wrote, and how far its results are from the network's.

    Attributes:
        path: the file.
        format: onnx, torch-export or aoti.
        inputs, outputs: their names.
        comparisons: the file's runs beside the network.
        skipped: runtimes that are not installed, in which it was not run.
        record: what the file says of itself: classes, preprocessing, hash of the weights.
    """

    path: Path
    format: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    skipped: tuple[Skipped, ...]
    record: dict[str, Any]


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    clip: Sequence[int] = _CLIP,
    outputs: Sequence[str] | None = None,
    fixed_time: bool = False,
    uint8: bool = False,
    video: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a network to a file that runs without fasti3d, after comparing what it computes.

    The file holds the ordinary network, with batch norm folded into convolutions. The number of clips is
    dynamic, height and width are fixed, and the number of frames is any multiple of 8 (in ``torch-export``
    from 24 on), or fixed. In ``aoti`` it is always fixed, and sizes are only checked at run time with
    AOTI_RUNTIME_CHECK_INPUTS=1.

    Before it is written, the file is run beside the network on noise and on a moving picture, at the exported
    shape and three others, in each installed runtime of its format. Its results may differ by 1e-4 of the
    largest value, in half precision 2e-2. Whether the runtimes were there tells ``Export.skipped``.

    Args:
        model: in eval mode on the CPU, in float32, bfloat16 or float16, for clips (N, C, T, H, W): an
            ``I3D``, ``I3DResNet`` or ``TwoStreamI3D`` (which takes two), or any other network, fused or not,
            that torch.export can follow.
        path: the file; its folder must exist.
        format: ``onnx``, ``torch-export`` (for ``torch.export.load``) or ``aoti`` (compiled by AOTInductor
            for CPUs like this one, for C++ too). None goes by the name: .onnx, or .pt2 for ``torch-export``.
        clip: T, H and W; T is a multiple of 8 if it is not fixed.
        outputs: of an ``I3D``, endpoints: ``Logits`` (None is that), ``Features``, ``Predictions`` or
            maps such as ``Mixed_5c``. None takes what another network returns.
        fixed_time: whether the number of frames is fixed.
        uint8: whether clips are bytes (RGB), which the file scales as the network does.
        video: of the moving picture; None generates one.
        overwrite: whether to replace a file that is there.

    Raises:
        TypeError: model is no ``nn.Module``.
        ValueError: another argument is wrong, or the network cannot be exported.
        OSError: the file cannot be written there, or is there already.
        ImportError: a package that writes this format is not installed.
        fasti3d.exporting.ParityError: the file would not compute what the network does. Nothing is written.

    Example:
        >>> model = fasti3d.I3D(weights="kinetics400-rgb").eval()  # doctest: +SKIP
        >>> fasti3d.export(model, "i3d.onnx").comparisons[0].error < 1e-4  # doctest: +SKIP
        True
    """
    kind = format_of(path, format)
    target = check_file(path, overwrite)
    dtype = _check_model(model)
    if kind == "onnx" and dtype == torch.bfloat16:
        raise ValueError(
            "model must be in float32 or float16 for ONNX, got torch.bfloat16, of which opset "
            f"{OPSET} has no convolution: call model.half(), or export another format"
        )
    fixed_time = fixed_time or FORMATS[kind].fixed_time
    size = _check_clip(clip, fixed_time)
    check_tools(kind)
    channels = _channels(model)
    if uint8 and channels != (RGB_CHANNELS,):
        raise ValueError(f"uint8 is for networks of RGB clips, but this one takes {channels} channels")
    given = torch.uint8 if uint8 else dtype
    network, names = _with_outputs(model, outputs)
    # Where the length may vary, a trace of a short clip costs least.
    traced = (size[0] if fixed_time else MIN_FRAMES, *size[1:])
    program = plain_program(
        network, tuple(noise((2, c, *traced), given) for c in channels), fixed_time=fixed_time
    )
    if not names:
        results = len(program.graph_signature.user_outputs)
        names = ("output",) if results == 1 else tuple(f"output_{i}" for i in range(results))
    inputs = tuple(CHANNELS) if len(channels) > 1 else ("clip",)
    record = record_of(model, inputs, channels, names, size, given, fixed_time)
    metadata = {KEY: json.dumps(record)}
    if kind == "onnx":
        data = to_onnx(program, inputs, names, metadata)
    else:
        data = (to_archive if kind == "torch-export" else to_package)(program, metadata)
    clips = cases(channels, size, fixed_time=fixed_time, dtype=given, video=video)
    comparisons, skipped = compare(data, kind, network, clips, LIMITS[dtype])
    write_atomically(target, data)
    return Export(target, kind, inputs, names, tuple(comparisons), tuple(skipped), record)


def _check_model(model: nn.Module) -> torch.dtype:
    """The dtype of the weights of a network that can be exported."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    training = next((name or "it" for name, part in model.named_modules() if part.training), None)
    if training is not None:
        raise ValueError(f"model must be in eval mode, but {training} is in training mode: call model.eval()")
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    elsewhere = next((t.device for t in tensors if t.device.type != "cpu"), None)
    if elsewhere is not None:
        raise ValueError(f"model must be on the CPU, got {elsewhere}: call model.cpu() first")
    # Batch norms of a network in half precision stay in float32.
    dtype = next((t.dtype for t in tensors if t.dim() == 5), torch.float32)
    if dtype not in LIMITS:
        raise ValueError(f"model must be in {', '.join(map(str, LIMITS))}, got {dtype}: call model.float()")
    return dtype


def _check_clip(clip: Sequence[int], fixed_time: bool) -> tuple[int, int, int]:
    size = tuple(clip)
    if len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise ValueError(f"clip must be three sizes above 0, (T, H, W), got {size}")
    if not fixed_time and (size[0] % TIME_STRIDE or size[0] < MIN_FRAMES):
        raise ValueError(
            f"clip must have {MIN_FRAMES} frames or more, a multiple of {TIME_STRIDE}, where their number is "
            f"not fixed, got {size[0]}: fix it with fixed_time"
        )
    return size


def _channels(model: nn.Module) -> tuple[int, ...]:
    """Of each clip that a network takes."""
    if isinstance(model, TwoStreamI3D):
        return tuple(CHANNELS.values())
    found = model.in_channels if isinstance(model, I3D) else in_width(model)
    if found is None:
        raise ValueError(f"model ({type(model).__name__}) does not say how many channels its clips have")
    return (found,)


def _with_outputs(model: nn.Module, outputs: Sequence[str] | None) -> tuple[nn.Module, tuple[str, ...]]:
    """The network that gives what is wanted, and the names of that; none if they are not known."""
    if isinstance(outputs, str):
        outputs = (outputs,)
    if outputs is None:
        own = isinstance(model, I3D) and type(model).forward is I3D.forward
        return model, ("Logits",) if own or isinstance(model, TwoStreamI3D) else ()
    if not isinstance(model, I3D):
        raise ValueError(f"outputs are for an I3D, got {type(model).__name__}: leave them out")
    check_endpoints(outputs)
    if not outputs:
        raise ValueError("outputs must name at least one endpoint, got none")
    return Endpoints(model, outputs).eval(), tuple(outputs)
