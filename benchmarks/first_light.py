"""What a GPU that the kernels have not run on is asked first; every line is printed as soon as it is known.

``python -m benchmarks.first_light PART OUTDIR`` runs one of ``PARTS``, ``gpu_check.sh OUTDIR first`` each.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import gpu_timing, peers
from benchmarks.predicted import Gpu, Launch, predict
from fasti3d.engine.describe.inception import graph_of
from fasti3d.engine.plan import Plan
from fasti3d.inspect import tune
from fasti3d.ops.conv3d_bn_relu.config import choose
from fasti3d.runtime import gpu

DEVICE = torch.device("cuda")
CLIP = (3, 64, 224, 224)
# What the defaults are checked on: batches and dtypes.
CHECKED = ((8, torch.float16), (1, torch.float16), (1, torch.bfloat16), (1, torch.float32))
TIMED = ((8, torch.float16), (1, torch.float16), (8, torch.float32))
# A race shows now and then.
REPEATS = 3
_WALL_RUNS = 30
_L2_BYTES = 20 << 20
_BLOCKS_PER_SM = 4
_BLOCK = 4096
# Of one flow, (height, width) and pairs.
FLOWS = (((256, 340), 64), ((256, 340), 1), ((1080, 1920), 8))
FLOW_PAIRS = 4


def say(*words: object) -> None:
    print(*words, flush=True)


def microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:9.1f} us"


def machine(out: Path) -> None:
    """Versions, clocks and what the GPU reaches: products, its memory, its L2 cache."""
    import triton

    properties = torch.cuda.get_device_properties(DEVICE)
    say(
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} SMs, L2 cache {properties.L2_cache_size >> 20} MiB"
    )
    say(
        f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, "
        f"triton {triton.__version__}"
    )
    say("clocks", gpu_timing.clocks())
    best = gpu_timing.ceilings()
    say(f"product of 8192x8192 float16 {best.flop_per_s / 1e12:.0f} TFLOP/s")
    say(f"copy of 3 GiB {best.bytes_per_s / 1e12:.2f} TB/s")
    rate = l2_bytes_per_second(properties.multi_processor_count)
    say(f"L2 cache to SMs {rate / 1e12:.2f} TB/s")
    found = {"flop_per_s": best.flop_per_s, "bytes_per_s": best.bytes_per_s, "l2_bytes_per_s": rate}
    (out / "machine.json").write_text(json.dumps(found, indent=1) + "\n")


def l2_bytes_per_second(sms: int) -> float:
    """The rate at which all SMs together read 20 MB that are in the L2 cache."""
    from benchmarks.triton_kernels import _read_kernel

    x = torch.randint(8, (_L2_BYTES // 4,), device=DEVICE, dtype=torch.int32)
    sums = torch.empty(_BLOCKS_PER_SM * sms, device=DEVICE, dtype=torch.int32)
    seconds = gpu_timing.device_seconds(
        lambda: _read_kernel[(len(sums),)](x, sums, x.numel() // _BLOCK, BLOCK=_BLOCK)
    )
    assert (sums == x.sum()).all(), "a wrong sum has no rate"
    return len(sums) * x.nbytes / seconds


def overlap(out: Path) -> None:
    """Whether the driver takes a tensor map of rows that overlap, which may be the end of the process."""
    from benchmarks.conv3d_variants import QUESTIONS
    from benchmarks.test_gpu_questions import asked

    (layer,), variants = QUESTIONS["stem"].layers, QUESTIONS["stem"].variants
    _, work, expected = asked(layer, 1)
    for name, variant in variants.items():
        with torch.no_grad():
            work.out.fill_(torch.nan)
            variant(work)()
        say(f"stem, {name}: {tune.fault(work, expected) or 'right'}")


def _plans(cases: tuple[tuple[int, torch.dtype], ...]) -> Iterator[tuple[peers.Case, Plan]]:
    """A plan of Triton kernels for each case, as far as there are kernels for its dtype."""
    model = peers.our_network().to(DEVICE)
    for batch, dtype in cases:
        if why := gpu.why_not(DEVICE, dtype):
            say(f"{dtype}: {why}")
            continue
        yield peers.Case((batch, *CLIP), dtype, "cuda"), Plan(graph_of(model), dtype, DEVICE)


def warm(out: Path) -> None:
    """Every kernel of the clips below, compiled side by side."""
    for dtype in dict.fromkeys(dtype for _, dtype in (*CHECKED, *TIMED)):
        if why := gpu.why_not(DEVICE, dtype):
            say(f"{dtype}: {why}")
            continue
        batches = {batch for batch, its in (*CHECKED, *TIMED) if its == dtype}
        start = time.perf_counter()
        done = tune.warm([(batch, *CLIP) for batch in sorted(batches)], dtype, DEVICE)
        say(f"{dtype}: {done.compiled} of {done.kernels} kernels in {time.perf_counter() - start:.1f} s")


def parity(out: Path) -> None:
    """Every convolution of the network as it is launched, at full size, against products of float32."""
    from fasti3d.ops.conv3d_bn_relu import launch

    wrong = 0
    for case, plan in _plans(CHECKED):
        seen = set()
        for convolution in tune.convolutions(plan, torch.zeros(case.shape, dtype=case.dtype, device=DEVICE)):
            if not isinstance(convolution, tune.Convolution):
                continue  # a pool too: ``pooled`` is about these
            work = convolution.prepare()
            if work.problem in seen:
                continue
            seen.add(work.problem)
            config = choose(work.problem)
            expected = tune.reference(work)
            faults = []
            for _ in range(REPEATS):
                for written in (work.out, work.second):
                    if written is not None:
                        written.fill_(torch.nan)
                launch.run(config, work)
                faults.append(tune.fault(work, expected))
            fault = next(filter(None, faults), None)
            wrong += fault is not None
            say(f"{case} {convolution.layer}: {config.short}: {fault or 'right'}")
    if wrong:
        raise SystemExit(f"{wrong} launches are wrong")


def network(out: Path) -> None:
    """Logits against the float32 reference, the GPU's time of a pass, and the wall time of a call."""
    rows = []
    for batch, dtype in TIMED:
        case = peers.Case((batch, *CLIP), dtype, "cuda")
        model, x = peers.our_network().to(DEVICE, dtype), peers.clip(case)
        with torch.no_grad():
            error = peers.relative_error(model(x), peers.expected_logits(case))
            say(f"{case}: relative error of the logits {error:.2e}")
            plan = model.current_plan(x, dtype)
            if plan is None:
                say(f"{case}: no plan: {model.why_not_fused()}")
                continue
            device = gpu_timing.device_seconds(lambda plan=plan, x=x: plan.compute(x, {"Logits"}, x.dtype))
            say(f"{case}: {microseconds(device)} of the GPU per pass")
            wall, host = _wall(model, x)
            say(f"{case}: {microseconds(wall)} per call, of which {microseconds(host)} until it returns")
        row = {"case": str(case), "relative_error": error, "device_seconds": device, "wall_seconds": wall}
        rows.append(row | {"host_seconds": host})
        (out / "network.json").write_text(json.dumps(rows, indent=1) + "\n")


def _wall(model: nn.Module, x: Tensor) -> tuple[float, float]:
    """Median seconds of a call and of its Python, one call at a time."""
    whole, host = [], []
    for _ in range(_WALL_RUNS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(x)
        returned = time.perf_counter()
        torch.cuda.synchronize()
        whole.append(time.perf_counter() - start)
        host.append(returned - start)
    return statistics.median(whole), statistics.median(host)


def launches(out: Path) -> None:
    """Every kernel of a pass in a trace of one replay, beside what the model predicts."""
    for case, plan in _plans(TIMED[:2]):
        x = peers.clip(case)
        expected = predict(graph_of(peers.our_network()), case.shape, Gpu.of(DEVICE))
        with torch.no_grad():
            replay = gpu_timing.captured(lambda plan=plan, x=x: plan.compute(x, {"Logits"}, x.dtype))
            measured = traced(replay)
        rows = beside(expected, measured)
        for row in rows:
            say(f"{row['step']:24} {row['kernel']:28} {row['measured_us']:8.1f} {row['predicted_us']:8.1f}")
        for name, found in (
            ("measured", measured),
            ("predicted", [(one.kernel, 1e6 * one.seconds) for one in expected]),
        ):
            say(f"{case}: {len(found)} launches {name}, {sum(us for _, us in found):.0f} us")
        record = {"measured": measured, "predicted": expected, "rows": rows}
        (out / f"launches-{case.shape[0]}.json").write_text(json.dumps(record, indent=1) + "\n")


def traced(replay: Callable[[], object]) -> list[tuple[str, float]]:
    """Names and microseconds of the kernels of a run, in the order in which they started."""
    replay()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        replay()
        torch.cuda.synchronize()
    kernels = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    return [(e.name, e.device_time) for e in sorted(kernels, key=lambda e: e.time_range.start)]


def beside(expected: Sequence[Launch], measured: Sequence[tuple[str, float]]) -> list[dict[str, str | float]]:
    """What was measured beside what was predicted, launch by launch, as far as both have the same kernels:
    those of the library, whose names start with an underscore.
    """
    ours = [(name, us) for name, us in measured if name.startswith("_")]
    rows: list[dict[str, str | float]] = []
    for one, (name, us) in zip(expected, ours, strict=False):
        if _kind(one.kernel) != _kind(name):
            say(f"after {len(rows)} launches comes {name}, where {one.kernel} of {one.step} was predicted")
            break
        predicted = 1e6 * one.seconds
        rows.append({"step": one.step, "kernel": name, "measured_us": us, "predicted_us": predicted})
    return rows


def _kind(kernel: str) -> str:
    """Kernels of one kind may stand for each other: which convolves is decided by a race, or a table."""
    if kernel.startswith("_pooled_conv3d"):
        return "pooled convolution"
    return "convolution" if kernel.startswith("_conv3d") and "fold" not in kernel else kernel


def baseline(out: Path) -> None:
    """Tuned cuDNN, then plain PyTorch, each beside a pass of ours."""
    names = {8: (peers.TUNED, "reference"), 1: (peers.TUNED,)}
    for batch, candidates in names.items():
        case = peers.Case((batch, *CLIP), torch.float16, "cuda")
        ours = peers.CANDIDATES[peers.OURS](case)
        for name in candidates:
            candidate = peers.CANDIDATES[name](case)
            error = peers.relative_error(candidate(), peers.expected_logits(case))
            times = [(_timed(ours), _timed(candidate)) for _ in range(gpu_timing.ROUNDS)]
            ratio = statistics.median(theirs / mine for mine, theirs in times)
            theirs = statistics.median(theirs for _, theirs in times)
            say(f"{case} {name}: {microseconds(theirs)} per call, {ratio:.2f} times ours, error {error:.1e}")


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def flow(out: Path) -> None:
    """TV-L1 in each design: its flow against the CPU's, then pairs per second."""
    import os

    from benchmarks.test_tvl1_gpu import DESIGNS, TOLERANCE, clip, frames
    from fasti3d.flow import average_endpoint_error, tvl1_video

    images = frames(FLOWS[0][0])[: FLOW_PAIRS + 1]
    expected = tvl1_video(images)
    for design in DESIGNS:
        os.environ["FASTI3D_TVL1_CUDA_DESIGN"] = design
        try:
            error = average_endpoint_error(tvl1_video(images.to(DEVICE)).cpu(), expected)
            say(f"TV-L1 {design}: endpoint error {error:.4f} pixels, at most {TOLERANCE}")
            for size, pairs in FLOWS:
                batch = clip(size, pairs)
                seconds = statistics.median(_timed(functools.partial(tvl1_video, batch)) for _ in range(5))
                say(f"TV-L1 {design} {size[1]}x{size[0]} {pairs} at once: {pairs / seconds:.0f} pairs/s")
        except RuntimeError as error:  # a design that this GPU, or this size, does not take
            say(f"TV-L1 {design}: {error}")


def pooled(out: Path) -> None:
    """Pools and convolutions over slabs beside Triton's: whether they are right, and what they take."""
    from benchmarks import pooled_slabs

    pooled_slabs.report(out, say)


PARTS: dict[str, Callable[[Path], None]] = {
    "machine": machine,
    "warm": warm,
    "parity": parity,
    "network": network,
    "launches": launches,
    "baseline": baseline,
    "overlap": overlap,
    "pooled": pooled,
    "flow": flow,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path, help="the folder of records")
    args = parser.parse_args()
    PARTS[args.part](args.out)


if __name__ == "__main__":
    main()
