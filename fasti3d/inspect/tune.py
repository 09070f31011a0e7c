"""Measures the candidates for each convolution of the network on a GPU, and keeps the fastest.

A convolution that slabs may run has one candidate more, their tile: a table tells which of the forms runs.
One behind a pool is measured with it where slabs may do both.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fasti3d import network
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.plan import Plan
from fasti3d.i3d import I3D
from fasti3d.inputs import check_clip
from fasti3d.inspect.tune_pools import ByTriton, PooledConvolution, Work
from fasti3d.ops.conv3d_bn_relu import geometry as conv3d
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.config import Config, Problem
from fasti3d.ops.conv3d_bn_relu.space_to_depth import is_folded
from fasti3d.ops.conv3d_bn_relu.tables import Entry, Gpu, Pooled, Slab, Table, TableError, read
from fasti3d.ops.conv3d_slab import config as slabs
from fasti3d.ops.pooled_conv3d_slab import config as pooled_slabs
from fasti3d.runtime import builds, gpu

if TYPE_CHECKING:
    from fasti3d.ops.conv3d_bn_relu.launch import Prepared

# A configuration that saves less than this is not worth another: as much may be noise.
_WORTH = 0.02
_WARM_RUNS = 3
_RUNS = 25
# Written between runs, so that each finds the L2 cache without its data; and long enough a write
# that the next launch is queued before it ends, else its way there would be measured too: Python takes some
# 0.1 ms over a launch with its descriptors, and this takes 0.25 ms at 4.3 TB/s.
_FLUSH_BYTES = 1 << 30


AnyConfig: TypeAlias = Config | slabs.Config | pooled_slabs.Config | ByTriton


class Geometry(NamedTuple):
    """Where the values of a clip lie: ``offset`` in values from a multiple of 16 bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @staticmethod
    def of(x: Tensor) -> Geometry:
        return Geometry(tuple(x.shape), x.stride(), x.data_ptr() % 16 // x.element_size())

    def fill(self, like: Tensor) -> Tensor:
        """A clip of noise that lies so, in ``like``'s dtype and device."""
        extent = 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        memory = torch.empty(self.offset + extent, dtype=like.dtype, device=like.device).normal_()
        return memory[self.offset :].as_strided(self.shape, self.strides)


class Candidate(NamedTuple):
    """A configuration of either form, and what launches it."""

    config: AnyConfig
    run: Callable[[], None]


@dataclass(frozen=True)
class Convolution:
    """A launch of the plan: the layer that it is of, and all but the values that it reads."""

    layer: str
    x: Geometry
    outputs: tuple[Geometry, ...]  # two, where the channels go to two clips
    residual: Geometry | None
    weight: Tensor
    slab_weight: Tensor | None  # where slabs may run
    rest: dict[str, Any]  # what else launch.prepare, or prepare_split, takes
    flop: int

    def prepare(self) -> Prepared:
        """The launch over noise of its own."""
        # Here and not at the top: triton is slow to import, and absent where there is no GPU.
        from fasti3d.ops.conv3d_bn_relu import launch

        x, *outputs = (geometry.fill(self.weight) for geometry in (self.x, *self.outputs))
        if len(outputs) == 2:
            return launch.prepare_split(x, self.weight, out=outputs[0], second=outputs[1], **self.rest)
        residual = self.residual and self.residual.fill(self.weight)
        return launch.prepare(x, self.weight, out=outputs[0], residual=residual, **self.rest)

    def candidates(self, work: Prepared) -> list[Candidate]:
        """Those for what ``prepare`` made: Triton's, first the one that would be chosen, then a tile of slabs
        if one is proved.
        """
        # Here and not at the top: as in prepare.
        from fasti3d.ops.conv3d_bn_relu import launch

        its = [Candidate(config, partial(launch.run, config, work)) for config in candidates(work.problem)]
        if (slab := self._slab(work)) is not None:
            its.append(slab)
        return its

    def _slab(self, work: Prepared) -> Candidate | None:
        if self.slab_weight is None:
            return None
        # Here and not at the top: as in prepare.
        from fasti3d.ops.conv3d_slab import launch

        rest = {**self.rest, "out": work.out, "residual": work.residual}
        if is_folded(self.x.shape[1], rest["geometry"].kernel):
            # Of the cells: to write them is no part of what is timed of the other candidates either.
            cells = conv3d.Geometry(work.kernel, work.stride, work.pad, work.relu)
            rest |= {"geometry": cells, "start": 0}
        its = launch.prepare(work.x, self.weight, self.slab_weight, **rest)
        return its and Candidate(*its)


class Trial(NamedTuple):
    """A candidate and its seconds, or why it is out of the question."""

    config: AnyConfig
    found: float | str


# Checks, then times each candidate: seconds, or why it is out of the question.
Measure = Callable[["Prepared | Work", Sequence[Candidate]], list[float | str]]


class Right(NamedTuple):
    """A form of a convolution that is right, for tables that people read.

    ``gain`` is how many times as fast it is as the configuration of Triton's that would have been chosen.
    """

    short: str
    microseconds: float
    tflops: float
    gain: float


@dataclass(frozen=True)
class Result:
    """What was measured of a convolution, perhaps behind a pool; ``entry`` is None where no configuration of
    Triton's is right.
    """

    layer: str
    problem: Problem | pooled_slabs.Problem
    flop: int
    trials: tuple[Trial, ...]
    entry: Entry | Pooled | None

    @property
    def right(self) -> list[Right]:
        """The fastest of Triton's configurations and the tile of slabs, as far as they are right; the one
        that runs is first.
        """
        its = self.entry
        if its is None:
            return []
        slab: Slab | Pooled | None
        if isinstance(its, Pooled):
            found, expected, slab = [(ByTriton().short, its.otherwise_seconds)], its.otherwise_seconds, its
        else:
            found, expected, slab = [(its.config.short, its.seconds)], its.expected_seconds, its.slab
        if slab is not None and slab.seconds is not None:
            found.insert(0 if its.over_slabs else 1, (slab.tile.short, slab.seconds))
        return [Right(short, 1e6 * s, self.flop / s / 1e12, expected / s) for short, s in found]


def convolutions(plan: Plan, x: Tensor) -> list[Convolution | PooledConvolution]:
    """The launches of a run of a plan of Triton kernels up to the logits, none of which is made."""
    layers = {conv.weight.data_ptr(): name for name, conv in plan.convs().items()}
    found: list[Convolution | PooledConvolution] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            outputs: tuple[Tensor, ...]
            rest: dict[str, Any]
            slab_weight: Tensor | None = None
            over_slabs = func is torch.ops.fasti3d.conv3d_slab_or_triton_.default
            if over_slabs or func is torch.ops.fasti3d.conv3d_triton_.default:
                x, weight, *others = args
                if over_slabs:
                    slab_weight, *others = others
                bias, kernel, stride, padding, relu, out, start, *residual = others
                outputs, taps = (out,), math.prod(kernel)
                window = conv3d.Geometry(tuple(kernel), tuple(stride), padding and tuple(padding), relu)
                rest = {"geometry": window, "start": start}
                added = Geometry.of(residual[0]) if residual else None
            elif func is torch.ops.fasti3d.conv3d_split_triton_.default:
                x, weight, bias, relu, *both = args
                outputs, taps, rest, added = tuple(both), 1, {"relu": relu}, None
            elif func is torch.ops.fasti3d.pooled_conv3d_slab_or_triton_.default:
                x, weight, slab_weight, bias, relu, out = args
                its = layers[weight.data_ptr()], Geometry.of(x), Geometry.of(out), weight.detach()
                flop = 2 * out.numel() * x.shape[1]
                found.append(PooledConvolution(*its, slab_weight, bias, relu, flop))
                return None
            else:
                return func(*args, **(kwargs or {}))
            flop = 2 * sum(out.numel() for out in outputs) * x.shape[1] * taps
            places = tuple(map(Geometry.of, outputs))
            rest["bias"] = bias
            layer = layers[weight.data_ptr()]
            both = weight.detach(), slab_weight
            found.append(Convolution(layer, Geometry.of(x), places, added, *both, rest, flop))
            return None

    with torch.no_grad(), Record():
        plan.compute(x, {"Logits"}, x.dtype)
    return found


def tune(
    shapes: Sequence[Sequence[int]],
    dtype: torch.dtype,
    device: torch.device,
    measure: Measure | None = None,
    progress: Callable[[float, float | None], None] | None = None,
) -> Iterator[Result]:
    """Measures the convolutions of clips (N, 3 or 2, T, H, W), each that is new as soon as it is asked for.

    Args:
        shapes: of the clips.
        dtype: float32, float16 or bfloat16.
        device: a GPU.
        measure: instead of ``Meter``.
        progress: called with the launches done and those there are.

    Raises:
        ValueError: a device or dtype that the Triton kernels do not serve, or a shape that the network
            does not take.
    """
    _check(shapes, dtype, device)
    found: list[Convolution | PooledConvolution] = []
    for shape in shapes:
        plan = Plan(graph_of(I3D(400, shape[1]).eval().to(device)), dtype, device)
        found += convolutions(plan, torch.zeros(tuple(shape), dtype=dtype, device=device))
    return _measure_all(found, measure or Meter(device), progress)


class Warmed(NamedTuple):
    """The kernels that clips of some shapes need, those of them that were compiled now, and the seconds."""

    kernels: int
    compiled: int
    seconds: float


def warm(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> Warmed:
    """Compiles the kernels of clips (N, 3 or 2, T, H, W), in floats and in bytes, side by side.

    Raises:
        ValueError: as of ``tune``.
    """
    _check(shapes, dtype, device)
    began = time.monotonic()
    found: dict[builds.Build, None] = {}
    for shape in shapes:
        plan = Plan(graph_of(I3D(400, shape[1]).eval().to(device)), dtype, device)
        for kind in (dtype, torch.uint8)[: 2 if shape[1] == 3 else 1]:
            x = torch.zeros(tuple(shape), dtype=kind, device=device)
            with torch.no_grad():
                its = builds.recorded(partial(plan.compute, x, {"Logits"}, dtype))
            found.update(dict.fromkeys(its))
    compiled = builds.compile_beside(list(found))
    return Warmed(len(found), compiled, time.monotonic() - began)


def _check(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: torch.device) -> None:
    if why := gpu.why_not(device, dtype):
        raise ValueError(f"nothing to tune for {dtype} on {device}: {why}")
    for shape in shapes:
        channels = shape[1] if len(shape) == 5 and shape[1] in (2, 3) else 3
        check_clip(
            torch.empty(tuple(shape), dtype=dtype, device="meta"), channels, None, window=network.HEAD_POOL
        )


def _measure_all(
    found: Sequence[Convolution | PooledConvolution],
    measure: Measure,
    progress: Callable[[float, float | None], None] | None,
) -> Iterator[Result]:
    seen: set[Problem | pooled_slabs.Problem] = set()
    for done, convolution in enumerate(found):
        if progress:
            progress(done, len(found))
        with torch.no_grad(), torch.cuda.device_of(convolution.weight):
            work = convolution.prepare()
            if work.problem in seen:
                continue
            seen.add(work.problem)
            its = convolution.candidates(work)  # type: ignore[arg-type]  # of its own kind
            if not its:
                continue  # there is nothing to choose between
            trials = tuple(
                map(Trial, (config for config, _ in its), measure(work, list(starmap(Candidate, its))))
            )
        yield Result(convolution.layer, work.problem, convolution.flop, trials, _entry(trials))


def select(trials: Sequence[Trial]) -> Entry | None:
    """The fastest right configuration of Triton's; the first, which would have been chosen, if it is as good
    as that. Beside it what was found of slabs.
    """
    taps = [(trial.config, trial.found) for trial in trials if isinstance(trial.config, Config)]
    right = [(found, config) for config, found in taps if isinstance(found, float)]
    if not right:
        return None
    seconds, config = min(right, key=lambda one: one[0])
    first, expected = taps[0]
    if not isinstance(expected, float):
        expected = seconds
    elif expected * (1 - _WORTH) <= seconds:
        config, seconds = first, expected
    return Entry(config, seconds, expected, _slab(trials))


def _entry(trials: Sequence[Trial]) -> Entry | Pooled | None:
    """What a table keeps of a convolution, perhaps behind a pool."""
    first, last = trials[0], trials[-1]
    if not isinstance(first.config, ByTriton):
        return select(trials)
    if not (isinstance(first.found, float) and isinstance(last.config, pooled_slabs.Config)):
        return None
    return Pooled(last.config, last.found if isinstance(last.found, float) else None, first.found)


def _slab(trials: Sequence[Trial]) -> Slab | None:
    for tile, found in trials:
        if isinstance(tile, slabs.Config):
            return Slab(tile, found if isinstance(found, float) else None)
    return None


def reference(work: Prepared | Work) -> Tensor:
    """What a launch should write, in float32: a GEMM per tap."""
    if isinstance(work, Work):
        return work.reference()
    (kt, kh, kw), (st, sh, sw) = work.kernel, work.stride
    size = work.out.shape[2:]
    edges: list[int] = []
    for n, k, s, pad, length in zip(size, work.kernel, work.stride, work.pad, work.x.shape[2:], strict=True):
        edges = [pad, (n - 1) * s + k - pad - length, *edges]  # the last axis first
    x = F.pad(work.x.float(), edges)
    weight = work.weight.float().view(work.weight.shape[0], kt * kh * kw, -1)
    y = work.bias.view(1, -1, 1, 1, 1).expand(len(x), -1, *size).clone()
    t, h, w = ((n - 1) * s + 1 for n, s in zip(size, work.stride, strict=True))
    for tap in range(kt * kh * kw):
        t0, h0, w0 = tap // (kh * kw), tap // kw % kh, tap % kw
        part = x[:, :, t0 : t0 + t : st, h0 : h0 + h : sh, w0 : w0 + w : sw]
        y += torch.einsum("oc,ncthw->nothw", weight[:, tap], part)
    if work.residual is not None:
        y += work.residual
    return y.relu_() if work.relu else y


def fault(work: Prepared | Work, expected: Tensor) -> str | None:
    """What is wrong with what a launch wrote."""
    out = work.out if work.second is None else torch.cat((work.out, work.second), dim=1)
    scale = expected.abs().max().item()
    error = (out.float() - expected).abs().max().item()
    if error <= work.problem.precision.max_error(out.dtype) * scale:  # which a NaN is not
        return None
    return f"wrong by {error:.3g}, where values are up to {scale:.3g}"


class Meter:
    """Times launches on a GPU by its own clock: the median of runs that find nothing in the cache."""

    def __init__(self, device: torch.device) -> None:
        cache = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(max(_FLUSH_BYTES, 2 * cache), dtype=torch.uint8, device=device)

    def __call__(self, work: Prepared | Work, found: Sequence[Candidate]) -> list[float | str]:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            expected = reference(work)
        finally:
            torch.set_float32_matmul_precision(precision)
        return [self._one(work, candidate.run, expected) for candidate in found]

    def _one(self, work: Prepared | Work, run: Callable[[], None], expected: Tensor) -> float | str:
        # Here and not at the top: as in prepare.
        from triton.errors import TritonError

        try:
            for out in (work.out, work.second):
                if out is not None:
                    out.fill_(math.nan)
            run()
        except TritonError as error:
            return f"does not run: {error}"
        if wrong := fault(work, expected):
            return wrong
        for _ in range(_WARM_RUNS):
            run()
        events = []
        for _ in range(_RUNS):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flush.zero_()
            start.record()
            run()
            end.record()
            events.append((start, end))
        torch.cuda.current_stream().synchronize()
        # After them, too: a race shows now and then.
        return fault(work, expected) or statistics.median(a.elapsed_time(b) for a, b in events) / 1e3


def to_table(results: Sequence[Result], its: Gpu, dtype: torch.dtype, path: Path) -> Table:
    """The table of what was measured, with what one at ``path`` has of other convolutions from the same
    releases of torch and triton.
    """
    recorded = {
        "torch": torch.__version__,
        "triton": version("triton"),
        "date": date.today().isoformat(),
        "dtype": str(dtype).removeprefix("torch."),
    }
    kept: Mapping[Problem, Entry] = {}
    kept_pools: Mapping[pooled_slabs.Problem, Pooled] = {}
    try:
        before = read(path, its)
        if all(before.recorded[name] == recorded[name] for name in ("torch", "triton")):
            kept, kept_pools = before.entries, before.pooled
    except (TableError, OSError):
        pass  # none, or none that could be used
    new: dict[Problem, Entry] = {}
    pools: dict[pooled_slabs.Problem, Pooled] = {}
    for result in results:
        if isinstance(result.entry, Pooled) and isinstance(result.problem, pooled_slabs.Problem):
            pools[result.problem] = result.entry
        elif isinstance(result.entry, Entry) and isinstance(result.problem, Problem):
            new[result.problem] = result.entry
    return Table(its, recorded, {**kept, **new}, {**kept_pools, **pools})
