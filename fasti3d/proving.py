"""The proofs: each kernel runs once on random values, into memory filled with NaN, against PyTorch's result.

Memory around the outputs must stay unchanged, and memory around the inputs is NaN too.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.flow.params import TVL1Params
from fasti3d.inputs import Scaling, as_floats, without_autocast
from fasti3d.ops.conv3d_bn_relu import plain
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.ops.i3d_head.reference import average_head_reference
from fasti3d.ops.max_pool3d_same.op import max_pool3d_compiled
from fasti3d.ops.max_pool3d_same.reference import max_pool3d_reference
from fasti3d.ops.max_pool3d_taps.reference import (
    max_pool3d_taps_backward_reference,
    max_pool3d_taps_reference,
)
from fasti3d.ops.pooled_conv3d.plain import pooled_conv3d
from fasti3d.ops.tiling import Triple
from fasti3d.proof.subject import Layout, Subject
from fasti3d.runtime.precision import Precision, full_float32

ONE = (1, 1, 1)

# Max error of statistics, relative to the maximum: means may lie near 0.
_STATS_LIMIT = 1e-3
_BESIDE = 1234.0
# What outputs of bytes are filled with before; around them is 0.
_NO_BYTE = 255
# Max error of float32 sums that are rounded once, relative to the maximum value: two unit roundoffs. The
# head's sums are not rounded. Convolutions have the limits of their precision.
_LIMITS = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 1e-5}
# Mean and max error of flow in pixels after a few iterations, with approximate divisions and roots.
_FLOW_LIMITS = 1e-3, 0.05
_FLOW_SIDE, _FLOW_PAIRS = 64, 4
# Of TV-L1, which solves no more pairs at a time than it has blocks.
_BLOCKS_PER_SM = 2


def prove(subject: Subject, device: torch.device) -> tuple[str, str]:
    """Return the kind of verdict and the fault; ``unsure`` if the GPU has no memory for the proof."""
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), without_autocast(device), torch.random.fork_rng(gpus):
            torch.manual_seed(0)
            fault = CASES[subject.operator](device, **json.loads(subject.details))
    except torch.OutOfMemoryError:
        return "unsure", ""
    except Exception as error:  # of a compiler, a linker, a launch
        text = " ".join(str(error).split())
        return ("broken" if _works(device) else "crashed"), f"{type(error).__name__}: {text[:500]}"
    return ("wrong", fault) if fault else ("good", "")


def _works(device: torch.device) -> bool:
    """Whether this process can still use the device."""
    try:
        return torch.zeros(1, device=device).item() == 0
    except Exception:
        return False


def _conv3d(
    device: torch.device,
    *,
    x: Any,
    weight: Any,
    out: Any,
    geometry: Any,
    start: int,
    residual: Any,
    config: Any,
) -> str | None:
    # Imported here, since triton is slow to import and may be missing.
    from fasti3d.ops.conv3d_bn_relu import launch
    from fasti3d.ops.conv3d_bn_relu.config import Config

    its = _geometry(geometry)
    clip, (written, memory) = _random(Layout(*x), device), _poisoned(Layout(*out), device)
    packed, bias = _weights(Layout(*weight), clip.shape[1], device, its.kernel, its.stride)
    added = None if residual is None else _random(Layout(*residual), device)
    work, chosen = launch.prepare(clip, packed, bias, its, written, start, added), Config.of(config)
    with torch.cuda.device_of(clip):
        launch.run(chosen, work)
    limit = chosen.precision.max_error(written.dtype)
    return _compare_convolved(clip, packed, bias, its, written, memory, start, added, limit)


def _conv3d_fold(device: torch.device, *, x: Any, cells: Any, geometry: Any, scaling: Any) -> str | None:
    from fasti3d.ops.conv3d_bn_relu.fold import run_fold

    clip, (written, memory) = _random(Layout(*x), device), _poisoned(Layout(*cells), device)
    its, scaled = _geometry(geometry), None if scaling is None else Scaling(*scaling)
    with torch.cuda.device_of(clip):
        run_fold(clip, its, written, scaled)
    expected = torch.empty_like(written)
    plain.fold_into(clip, its, expected, scaled)
    # Bytes are multiplied by what others divide by.
    rounded = clip.dtype == torch.uint8 and written.dtype == torch.float32
    return _compare([(written, expected.float(), memory)], limit=2e-7 if rounded else 0.0)


def _conv3d_slab(
    device: torch.device,
    *,
    x: Any,
    out: Any,
    dtype: str,
    geometry: Any,
    start: int,
    residual: Any,
    config: Any,
) -> str | None:
    from fasti3d.ops.conv3d_slab import describe, launch
    from fasti3d.ops.conv3d_slab.config import Config

    its, layout = _geometry(geometry), Layout(*out)
    clip, (written, memory) = _random(Layout(*x), device), _poisoned(layout, device)
    weight = _filters(layout.shape[1], clip.shape[1], device, its.kernel)
    bias = torch.randn(len(weight), device=device)
    added = None if residual is None else _random(Layout(*residual), device)
    slab = describe.pack(weight, its, getattr(torch, dtype))
    launch.run(Config.of(config), clip, slab, bias, its, written, start, added)
    packed = pack_triton(weight, its.stride, slab.dtype)
    limit = Precision.HALF.max_error(written.dtype)
    return _compare_convolved(clip, packed, bias, its, written, memory, start, added, limit)


def _compare_convolved(
    clip: Tensor,
    packed: Tensor,
    bias: Tensor,
    geometry: Geometry,
    written: Tensor,
    memory: Tensor,
    start: int,
    added: Tensor | None,
    limit: float,
) -> str | None:
    """With torch's own; ``packed`` is what ``pack_triton`` made."""
    frames = start, written.shape[2]
    exact = as_floats(clip, packed.dtype).float(), packed.float()
    with full_float32():
        expected = plain.conv3d(*exact, bias, geometry, frames, torch.float32, added)
    return _compare([(written, expected, memory)], limit)


def _conv3d_stats(
    device: torch.device, *, x: Any, weight: Any, out: Any, kernel: Any, stride: Any, config: Any
) -> str | None:
    from fasti3d.ops.conv3d_bn_relu.config import Config
    from fasti3d.ops.conv3d_training import launch

    clip, (written, memory) = _random(Layout(*x), device), _poisoned(Layout(*out), device)
    geometry = Geometry(tuple(kernel), tuple(stride), None, False)
    packed, bias = _weights(Layout(*weight), clip.shape[1], device, geometry.kernel, geometry.stride)
    stats, chosen = torch.full((2, len(packed)), math.nan, device=device), Config.of(config)
    with torch.cuda.device_of(clip):
        launch.run(chosen, clip, packed, geometry, written, stats[0], stats[1])
    with full_float32():
        frames = 0, written.shape[2]
        exact = plain.conv3d(
            clip.float(), packed.float(), torch.zeros_like(bias), geometry, frames, torch.float32
        )
    expected = torch.var_mean(exact, (0, 2, 3, 4), correction=0)[::-1]
    found = [(its, right, None) for its, right in zip(stats, expected, strict=True)]
    limit = chosen.precision.max_error(written.dtype)
    return _compare([(written, exact, memory)], limit) or _compare(found, _STATS_LIMIT)


def _conv3d_split(
    device: torch.device, *, x: Any, weight: Any, outs: Any, relu: bool, config: Any
) -> str | None:
    from fasti3d.ops.conv3d_bn_relu import launch
    from fasti3d.ops.conv3d_bn_relu.config import Config

    clip, both = _random(Layout(*x), device), [_poisoned(Layout(*out), device) for out in outs]
    packed, bias = _weights(Layout(*weight), clip.shape[1], device)
    work, chosen = launch.prepare_split(clip, packed, bias, relu, both[0][0], both[1][0]), Config.of(config)
    with torch.cuda.device_of(clip):
        launch.run(chosen, work)
    geometry, frames = Geometry(ONE, ONE, None, relu), (0, clip.shape[2])
    with full_float32():
        y = plain.conv3d(clip.float(), packed.float(), bias, geometry, frames, torch.float32)
    parts = y.split([out.shape[1] for out, _ in both], dim=1)
    limit = chosen.precision.max_error(clip.dtype)
    return _compare([(out, part, memory) for (out, memory), part in zip(both, parts, strict=True)], limit)


def _pooled_conv3d(
    device: torch.device, *, x: Any, weight: Any, out: Any, relu: bool, config: Any
) -> str | None:
    from fasti3d.ops.pooled_conv3d import launch
    from fasti3d.ops.pooled_conv3d.config import Config

    clip, (written, memory) = _random(Layout(*x), device), _poisoned(Layout(*out), device)
    packed, bias = _weights(Layout(*weight), clip.shape[1], device)
    chosen = Config.of(config)
    with torch.cuda.device_of(clip):
        launch.run(chosen, clip, packed, bias, relu, written)
    with full_float32():
        expected = pooled_conv3d(clip.float(), packed.float(), bias, relu)
    return _compare([(written, expected, memory)], chosen.precision.max_error(written.dtype))


def _pooled_conv3d_slab(device: torch.device, *, x: Any, out: Any, relu: bool, config: Any) -> str | None:
    from fasti3d.ops.conv3d_slab.pack import pack_slab
    from fasti3d.ops.pooled_conv3d_slab import launch
    from fasti3d.ops.pooled_conv3d_slab.config import Config

    clip, (written, memory) = _random(Layout(*x), device), _poisoned(Layout(*out), device)
    clip.relu_()  # as all maps are that it pools
    weight = _filters(written.shape[1], clip.shape[1], device, ONE).to(clip.dtype)
    bias = torch.randn(len(weight), device=device)
    launch.run(Config.of(config), clip, pack_slab(weight), bias, relu, written)
    with full_float32():
        expected = pooled_conv3d(clip.float(), weight.float().flatten(1)[:, None], bias, relu)
    return _compare([(written, expected, memory)], Precision.HALF.max_error(written.dtype))


def _max_pool3d(
    device: torch.device, *, x: Any, out: Any, ceil_mode: bool, config: Any, **geometry: Any
) -> str | None:
    clip, (written, memory) = _random(Layout(*x), device), _poisoned(Layout(*out), device)
    kernel, stride = tuple(geometry["kernel"]), tuple(geometry["stride"])
    padding = geometry["padding"] and tuple(geometry["padding"])
    if config is None:
        max_pool3d_compiled(clip, kernel, stride, padding, ceil_mode, written)
    else:
        from fasti3d.ops.max_pool3d_same import launch

        with torch.cuda.device_of(clip):
            launch.run(_pool_config(config), clip, kernel, stride, padding, written)
    expected = max_pool3d_reference(clip, kernel, stride, padding, ceil_mode)
    return _compare([(written, expected.float(), memory)], limit=0.0)


def _batch_norm_relu(device: torch.device, *, name: str, maps: Any, config: Any) -> str | None:
    from fasti3d.ops.batch_norm_relu import launch
    from fasti3d.ops.batch_norm_relu.config import Config

    its = launch.PASSES[name]
    read = [_random(Layout(*layout), device) for layout in maps[: its.maps]]
    channels = read[0].shape[1]
    read += torch.randn(its.vectors, channels, device=device)
    found = [_poisoned(Layout(*layout), device) for layout in maps[its.maps :]]
    if not found:
        layout = Layout((channels,), (1,), 0, "float32")
        found = [_poisoned(layout, device) for _ in range(2)]
    written = [it for it, _ in found]
    with torch.cuda.device_of(read[0]):
        its.run(Config(**config), *read, *written)
    expected = [torch.empty_like(it) for it in written]
    # A row is a clip of one pixel.
    its.plain(*(it[:, :, None, None, None] if it.dim() == 2 else it for it in (*read, *expected)))
    return _compare(
        [(it, right.float(), memory) for (it, memory), right in zip(found, expected, strict=True)]
    )


def _max_pool3d_taps(
    device: torch.device, *, x: Any, written: Any, kernel: Any, stride: Any, config: Any
) -> str | None:
    from fasti3d.ops.max_pool3d_taps import launch

    clip = _random(Layout(*x), device)
    (out, out_memory), (taps, taps_memory) = (_poisoned(Layout(*layout), device) for layout in written)
    with torch.cuda.device_of(clip):
        launch.run(_pool_config(config), clip, tuple(kernel), tuple(stride), out, taps)
    expected, right = torch.empty_like(out), torch.empty_like(taps)
    max_pool3d_taps_reference(clip, kernel, stride, expected, right)
    return _compare([(out, expected.float(), out_memory), (taps, right.float(), taps_memory)], limit=0.0)


def _max_pool3d_taps_backward(
    device: torch.device, *, read: Any, out: Any, kernel: Any, stride: Any, config: Any
) -> str | None:
    from fasti3d.ops.max_pool3d_taps import launch

    grad, taps = (_random(Layout(*layout), device) for layout in read)
    taps.remainder_(math.prod(kernel))
    written, memory = _poisoned(Layout(*out), device)
    with torch.cuda.device_of(grad):
        launch.run_backward(_pool_config(config), grad, taps, tuple(kernel), tuple(stride), written)
    expected = torch.empty_like(written)
    max_pool3d_taps_backward_reference(grad, taps, kernel, stride, expected)
    return _compare([(written, expected.float(), memory)])


def _geometry(fields: Any) -> Geometry:
    kernel, stride, padding = (fields[k] and tuple(fields[k]) for k in ("kernel", "stride", "padding"))
    return Geometry(kernel, stride, padding, fields["relu"])


def _pool_config(config: Any) -> Any:
    from fasti3d.ops.max_pool3d_same.config import Config

    return Config(tuple(config["box"]), config["block_c"])


def _average_head(device: torch.device, *, x: Any, classes: int, window: Sequence[int]) -> str | None:
    from fasti3d.ops.i3d_head.launch import head

    clip = _random(Layout(*x), device)
    weight, bias = torch.randn(classes, clip.shape[1], device=device), torch.randn(classes, device=device)

    def poisoned(shape: Any, **options: Any) -> Tensor:
        return torch.full(shape, math.nan, **options)

    found = head(clip, weight, bias, (window[0], window[1], window[2]), empty=poisoned)
    # On the CPU, whose products in float32 no setting rounds.
    exact = average_head_reference(clip.cpu(), weight.cpu(), bias.cpu(), window)
    return _compare([(y.cpu(), z, None) for y, z in zip(found, exact, strict=True) if y.numel()])


def _tvl1(device: torch.device, *, designs: Sequence[str], **code: Any) -> str | None:
    """The GPU's solver against the CPU's, on pairs of frames of smooth noise, the second one shifted.

    There are five levels, as coarse and fine ones need, and more pairs than the GPU solves at a time.
    """
    its = TVL1Params(epsilon=0.0, warps=2, inner_iterations=5, outer_iterations=2, **code)
    noise = F.interpolate(torch.rand(1, 1, 16, 16), 2 * _FLOW_SIDE, mode="bicubic")[0, 0].clamp(0, 1)
    crops = noise.unfold(0, _FLOW_SIDE, 1).unfold(1, _FLOW_SIDE, 1)
    rows = torch.arange(8, 8 + _FLOW_PAIRS)
    frame0, frame1 = crops[rows, 8].contiguous(), crops[rows - 1, 9].contiguous()
    values = (
        its.mode, its.tau, its.lambda_, its.theta, its.nscales, its.warps, its.epsilon, its.inner_iterations,
        its.outer_iterations, its.scale_step, its.gamma, its.median_filtering,
    )  # fmt: skip
    expected = torch.ops.fasti3d.tvl1(frame0, frame1, None, *values)[0]
    at_once = 1
    if device.type == "cuda":
        at_once = _BLOCKS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
    many = torch.arange(at_once + 1) % _FLOW_PAIRS
    on_device = frame0[many].to(device), frame1[many].to(device)
    for design in designs:
        try:
            with _design(design):
                found = torch.ops.fasti3d.tvl1(*on_device, None, *values)[0]
        except RuntimeError as error:
            if "FASTI3D_TVL1_CUDA_DESIGN" in str(error):
                continue  # the solver refuses this design here, as it will the user
            raise
        off = (found.cpu() - expected[many]).square().sum(1).sqrt()
        if not (off.mean() <= _FLOW_LIMITS[0] and off.max() <= _FLOW_LIMITS[1]):  # True for NaN
            return f"its flow is wrong by {off.mean():.3g} pixels on the average and {off.max():.3g} at most"
    return None


@contextmanager
def _design(name: str) -> Iterator[None]:
    """Have TV-L1's CUDA solver use this design."""
    before = os.environ.get("FASTI3D_TVL1_CUDA_DESIGN")
    os.environ["FASTI3D_TVL1_CUDA_DESIGN"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTI3D_TVL1_CUDA_DESIGN"]
        else:
            os.environ["FASTI3D_TVL1_CUDA_DESIGN"] = before


def _triton(device: torch.device) -> str | None:
    """The simplest kernel: a fault of it is one of Triton on this machine."""
    from fasti3d.ops.max_pool3d_same import launch
    from fasti3d.ops.max_pool3d_same.config import Config

    clip = torch.randn(1, 2, 2, 16, 8, device=device).permute(0, 4, 1, 2, 3)
    out = torch.full((1, 2, 2, 16, 8), math.nan, device=device).permute(0, 4, 1, 2, 3)
    with torch.cuda.device_of(clip):
        launch.run(Config((1, 1, 4, 4), 8), clip, ONE, ONE, None, out)
    return _compare([(out, clip, None)], limit=0.0)


CASES: dict[str, Callable[..., str | None]] = {
    "triton": _triton,
    "conv3d": _conv3d,
    "conv3d_fold": _conv3d_fold,
    "conv3d_slab": _conv3d_slab,
    "conv3d_split": _conv3d_split,
    "conv3d_stats": _conv3d_stats,
    "pooled_conv3d": _pooled_conv3d,
    "pooled_conv3d_slab": _pooled_conv3d_slab,
    "max_pool3d": _max_pool3d,
    "max_pool3d_taps": _max_pool3d_taps,
    "max_pool3d_taps_backward": _max_pool3d_taps_backward,
    "batch_norm_relu": _batch_norm_relu,
    "average_head": _average_head,
    "tvl1": _tvl1,
}


def _random(layout: Layout, device: torch.device) -> Tensor:
    clip, _ = layout.memory(device, math.nan)
    # Along an axis whose places are one and the same, the first is written.
    once = clip[tuple(slice(None if stride else 1) for stride in layout.strides)]
    if clip.is_floating_point():
        once.copy_(torch.randn(once.shape, device=device))
    else:
        once.copy_(torch.randint(0, 256, once.shape, device=device))
    return clip


def _weights(
    layout: Layout, channels: int, device: torch.device, kernel: Triple = ONE, stride: Triple = ONE
) -> tuple[Tensor, Tensor]:
    weight = _filters(layout.shape[0], channels, device, kernel)
    packed = pack_triton(weight, stride, getattr(torch, layout.dtype))
    return packed, torch.randn(layout.shape[0], device=device)


def _filters(out_channels: int, channels: int, device: torch.device, kernel: Triple) -> Tensor:
    return torch.randn(out_channels, channels, *kernel, device=device) / (channels * math.prod(kernel)) ** 0.5


def _poisoned(layout: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
    out, memory = layout.memory(device, _BESIDE)
    return out.fill_(math.nan if out.is_floating_point() else _NO_BYTE), memory


def _compare(
    results: Sequence[tuple[Tensor, Tensor, Tensor | None]], limit: float | None = None
) -> str | None:
    """The fault of results (written, expected, memory around it); None if they are right."""
    for written, expected, memory in results:
        share = _LIMITS[written.dtype] if limit is None else limit
        scale = expected.abs().max().item()
        error = (written.float() - expected).abs().max().item()
        if not error <= share * scale:  # True for NaN
            return f"it is wrong by {error:.3g}, where values are up to {scale:.3g}"
        if memory is not None:
            beside = _BESIDE if written.is_floating_point() else 0
            written.fill_(beside)
            if not (memory == beside).all():
                return "it writes beside its output"
    return None
