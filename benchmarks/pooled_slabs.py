"""Pools and convolutions over slabs beside Triton's kernels on a GPU: whether they are right, and times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import gpu_timing
from fasti3d.inspect.layers import layers
from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.ops.conv3d_slab.pack import pack_slab
from fasti3d.ops.pooled_conv3d_slab.config import Problem, candidates, nanoseconds, otherwise
from fasti3d.ops.pooled_conv3d_slab.op import COMPILED
from fasti3d.ops.pooled_conv3d_slab.reference import pooled_conv3d_slab_reference
from fasti3d.runtime import gpu
from fasti3d.runtime.precision import Precision, full_float32

DEVICE, DTYPE = torch.device("cuda"), torch.float16
CLIP = (64, 224, 224)
BATCHES = (8, 1)
# Of the tiles the best ones by the model. A race between threads shows now and then.
_TILES, _REPEATS = 3, 5


class Row(NamedTuple):
    """One way to compute a layer: what is wrong with its result, and microseconds if nothing is."""

    layer: str
    batch: int
    name: str
    expected_us: float
    fault: str | None
    us: float | None


def problems(sms: int) -> dict[str, Problem]:
    """Branch 3 of each Mixed block, of those alike the first, by its name; of one clip."""
    found = {
        layer.name: Problem(1, layer.in_channels, layer.out_channels, layer.in_size, sms)
        for layer in layers(3, CLIP)
        if layer.name.endswith(".b3b")
    }
    return {name: its for i, (name, its) in enumerate(found.items()) if its not in list(found.values())[:i]}


def rows() -> Iterator[Row]:
    """Each as soon as it is known."""
    if not COMPILED:
        raise SystemExit("fasti3d._C_sm90a is not built")
    for batch in BATCHES:
        for layer, problem in problems(gpu.gpu_traits(DEVICE).sms).items():
            yield from _layer(layer, replace(problem, batch=batch))


def _layer(layer: str, problem: Problem) -> Iterator[Row]:
    from fasti3d.ops.pooled_conv3d_slab import launch

    n, channels, size = problem.batch, problem.in_channels, problem.size
    torch.manual_seed(0)
    x = torch.randn(n, *size, channels, device=DEVICE).relu().to(DTYPE).permute(0, 4, 1, 2, 3)
    weight = torch.randn(problem.out_channels, channels, 1, 1, 1, device=DEVICE) / channels**0.5
    bias = torch.randn(problem.out_channels, device=DEVICE)
    packed, slab = pack_triton(weight, (1, 1, 1), DTYPE), pack_slab(weight.to(DTYPE))
    out = torch.empty(n, *size, problem.out_channels, dtype=DTYPE, device=DEVICE).permute(0, 4, 1, 2, 3)
    expected = torch.empty(out.shape, device=DEVICE)
    with full_float32():
        pooled_conv3d_slab_reference(x, slab, bias, True, expected)
    by_triton = partial(launch.otherwise, x, packed, bias, True, out)
    yield _row(layer, problem, "Triton", otherwise(problem), by_triton, out, expected)
    ranked = sorted(candidates(problem), key=lambda one: nanoseconds(problem, one))
    for config in ranked[:_TILES]:
        over_slabs = partial(launch.run, config, x, slab, bias, True, out)
        yield _row(layer, problem, config.short, nanoseconds(problem, config), over_slabs, out, expected)


def _row(
    layer: str,
    problem: Problem,
    name: str,
    expected_ns: float,
    run: Callable[[], None],
    out: Tensor,
    expected: Tensor,
) -> Row:
    scale, fault, us = expected.abs().max().item(), None, None
    for _ in range(_REPEATS):
        out.fill_(torch.nan)
        run()
        error = (out - expected).abs().max().item()
        if not error <= Precision.HALF.max_error(DTYPE) * scale:  # True for NaN
            fault = f"wrong by {error:.3g}, where values are up to {scale:.3g}"
    if fault is None:
        us = 1e6 * gpu_timing.device_seconds(run)
    return Row(layer, problem.batch, name, 1e-3 * expected_ns, fault, us)


def report(out: Path, say: Callable[[str], None]) -> None:
    """Every row as it comes, and all in OUT/pooled.json; SystemExit if one is wrong."""
    found = []
    for row in rows():
        taken = row.fault or f"{row.us:8.1f} us, {row.expected_us:.1f} by the model"
        say(f"{row.layer} batch {row.batch}, {row.name}: {taken}")
        found.append(row)
        (out / "pooled.json").write_text(json.dumps([its._asdict() for its in found], indent=1) + "\n")
    if wrong := sum(row.fault is not None for row in found):
        raise SystemExit(f"{wrong} of {len(found)} are wrong")
