"""The benchmarks' own logic: what they count, and what report.py makes of a record."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import conftest as measuring
from benchmarks import flow_data, flow_memory, flow_peers, flow_work, memory, peers, report, two_stream_work
from fasti3d import network, reference
from fasti3d.flow import PRESETS, TVL1Params, average_endpoint_error, tvl1, write_flo
from fasti3d.inspect.layers import Layer, layers, network_flop
from fasti3d.ops.tvl1.reference import Settings, _Iteration
from fasti3d.runtime import extension


def _row(group: str, median: float, **info: Any) -> dict[str, Any]:
    return {"group": group, "stats": {"median": median}, "extra_info": info}


@pytest.fixture
def record() -> dict[str, Any]:
    versions = {"threads": 2, "isa": "avx2", "torch": "2.13.0", "openvino": None, "gpu": None}
    forward = {"case": "1x3x9x224x224 float32 cpu"}
    pool = {"case": "a pool"}
    return {
        "machine_info": {
            "machine": "x86_64",
            "cpu": {"brand_raw": "Some CPU"},
            "fasti3d": versions | {"cuda": None, "cudnn": None, "triton": None},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [
            _row("I3D forward x", 0.5, candidate="fasti3d", gflop_per_s=444.4, **forward),
            _row(
                "I3D forward x",
                1.25,
                candidate="reference",
                ratio=2.5,
                ratio_min=2.25,
                ratio_max=3.0,
                gflop_per_s=177.6,
                peak_mb=310.2,
                later_peak_mb=250.0,
                **forward,
            ),
            _row("ResNet x", 0.25, candidate="fasti3d", case="a-8x8 x", working_mb=47.2),
            _row("max_pool3d_same x", 0.0123, candidate="fasti3d", gb_per_s=12.34, **pool),
            _row("mixed_block x", 0.001, candidate="fasti3d", case="a block"),
            _row(
                "import",
                2.5,
                candidate="fasti3d",
                case="import fasti3d",
                extra_seconds=0.125,
                extra_seconds_min=0.1,
                extra_seconds_max=0.25,
            ),
        ],
    }


def test_report_holds_every_number(record: dict[str, Any]) -> None:
    text = report.report(record)
    assert "Some CPU, 2 threads, isa avx2, torch 2.13.0, commit 0123456789, 2026-01-02" in text
    assert "| a-8x8 x | fasti3d | 250 ms | 47 |" in text
    assert "| case |  | time | ratio | rate | MB |" in text
    assert "| 1x3x9x224x224 float32 cpu | fasti3d | 500 ms |  | 444 GFLOP/s |  |" in text
    assert "|  | reference | 1.25 s | 2.50 (2.25 to 3.00) | 178 GFLOP/s | 310 / 250 |" in text
    assert "## Mixed blocks on a GPU" in text
    assert "| a block | fasti3d | 1 ms |" in text
    assert "takes 2.50 s: 125 ms (100 ms to 250 ms) more than" in text


def test_parts_of_a_two_stream_pass_add_up_to_the_clock() -> None:
    start = time.perf_counter()
    watch = two_stream_work.Stopwatch(torch.device("cpu"))
    for name, seconds in (("long", 0.05), ("short", 0.0)):
        time.sleep(seconds)
        watch.mark(name)
    parts = watch.seconds()
    assert list(parts) == ["long", "short"]
    assert parts["long"] >= 0.05
    assert sum(parts.values()) <= time.perf_counter() - start


def test_made_clips_differ() -> None:
    clips = two_stream_work.made_clips(8, 3, 20, 30)
    assert (clips.shape, clips.dtype) == ((8, 3, 20, 30, 3), torch.uint8)
    assert len({clip.numpy().tobytes() for clip in clips}) == 8
    assert clips[0].float().mean(dim=(0, 1, 2)).diff().lt(-5).all()  # red before green before blue


def run_report(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
    report.main()


def test_report_script_writes_both_files(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output, chart = tmp_path / "a.json", tmp_path / "a.md", tmp_path / "a.png"
    source.write_text(json.dumps(record))
    run_report(monkeypatch, source, "--output", output, "--plot", chart)
    assert output.read_text() == report.report(record)
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.md", "a.png"]


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "cut short"])
def test_report_script_names_an_unreadable_record(
    tmp_path: Path, content: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "a.json"
    if content is not None:
        source.write_text(content)
    with pytest.raises(SystemExit, match=str(source)):
        run_report(monkeypatch, source)


def test_flop_of_a_64_frame_clip() -> None:
    # The published count; two-channel clips save a third of the stem's 52.9 GFLOP.
    assert network_flop((1, 3, 64, 224, 224)) == pytest.approx(222.3e9, rel=5e-4)
    assert network_flop((2, 3, 64, 224, 224)) == 2 * network_flop((1, 3, 64, 224, 224))
    rgb, flow = (network_flop((1, c, 64, 224, 224)) for c in (3, 2))
    assert rgb - flow == pytest.approx(52.9e9 / 3, rel=1e-3)


def test_layers_are_those_the_reference_runs(narrow: None) -> None:
    """Names, input shapes and output shapes, on an odd clip, by hooks on the reference's own modules."""
    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    model = reference.I3D(num_classes=7, in_channels=2).eval()
    for name, module in model.named_modules():
        if isinstance(module, reference.Unit3D | reference.MaxPool3dSame):
            module.register_forward_hook(
                lambda _, x, y, name=name: seen.update({name: (tuple(x[0].shape), tuple(y.shape))})
            )
    with torch.no_grad():
        model(torch.zeros(1, 2, 9, 209, 193))
    walked = {
        layer.name: ((1, layer.in_channels, *layer.in_size), (1, layer.out_channels, *layer.out_size))
        for layer in layers(2, (9, 209, 193), num_classes=7)
    }
    assert walked == seen


def test_flop_of_one_layer_by_hand() -> None:
    conv = Layer("a", network.Conv(4, (1, 3, 3), (1, 2, 2)), 5, (2, 7, 8))
    assert conv.out_size == (2, 4, 4)
    assert conv.flop == 2 * (4 * 2 * 4 * 4) * (5 * 3 * 3)
    assert conv.elements == 5 * 2 * 7 * 8 + 4 * 2 * 4 * 4
    assert Layer("b", network.Pool((3, 3, 3), (2, 2, 2)), 5, (2, 7, 8)).flop == 0


def test_relative_error() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert peers.relative_error(expected.bfloat16(), expected) == 0
    assert peers.relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)


@pytest.mark.usefixtures("narrow_peers")
def test_logits_of_the_random_network_depend_on_the_clip() -> None:
    """Otherwise a candidate that ignores its input would pass the check before its timing."""
    case = peers.Case((2, 3, 9, 193, 193), torch.float32)
    first, second = peers.expected_logits(case)
    assert peers.relative_error(second, first) > 2 * peers.LOGITS_TOLERANCE[torch.bfloat16]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_peak_memory_sees_an_allocation_that_is_gone_after_the_pass() -> None:
    def pass_of_100_mb() -> torch.Tensor:
        return torch.ones(25_000_000).sum()

    assert memory.cpu_peak(pass_of_100_mb) == pytest.approx(100, abs=5)
    # The earlier peak must not count again.
    assert memory.cpu_peak(lambda: torch.ones(1)) < 5


# TV-L1.


def _accuracy(candidate: str, error: float, pairs_per_s: float, **info: Any) -> dict[str, Any]:
    info |= {"candidate": candidate, "case": "FlyingChairs", "pairs": 4}
    return _row("TV-L1 accuracy", 1.0, endpoint_error=error, pairs_per_s=pairs_per_s, **info)


@pytest.fixture
def flow_record(record: dict[str, Any]) -> dict[str, Any]:
    clip = {"case": "a clip"}
    varied = {"preset": "i3d", "field": "epsilon", "default": 0.01}
    batch = {"ratio_batch": 20.125, "ratio_batch_min": 18.0, "ratio_batch_max": 22.0}
    single = {"ratio_single": 8.5, "ratio_single_min": 4.0, "ratio_single_max": 12.0}
    record["machine_info"]["fasti3d"]["opencv"] = "5.0"
    record["benchmarks"] = [
        _row(
            "TV-L1 clip x",
            1.0,
            candidate="fasti3d",
            pairs=20,
            pairs_per_s=31.25,
            gpixel_iterations_per_s=1.234,
            peak_mb=38.5,
            later_peak_mb=31.2,
            **clip,
        ),
        _row("TV-L1 clip x", 1.0, candidate="OpenCV", pairs=20, pairs_per_s=1.5, **batch, **single, **clip),
        _row(
            "TV-L1 iterations",
            0.1,
            case="alone",
            candidate="300",
            gpixel_iterations_per_s=1.5,
            gflop_per_s=88.4,
            gb_per_s=96.0,
        ),
        _row("TV-L1 GPU y", 0.004, case="y", candidate="8 at once", pairs=8, pairs_per_s=2e3, device_mb=99.6),
        _accuracy("zero flow", 5.25, 1e4),
        _accuracy("fasti3d i3d", 2.5, 8.0),
        _accuracy("fasti3d i3d, epsilon 0.1", 3.0, 40.0, value=0.1, **varied),
        _accuracy("OpenCV", 2.75, 0.5, **single),
    ]
    return record


def test_report_script_draws_the_flow(
    flow_record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, chart = tmp_path / "a.json", tmp_path / "a.png"
    source.write_text(json.dumps(flow_record))
    run_report(monkeypatch, source, "--flow-plot", chart)
    assert chart.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="no I3D forward pass to plot"):
        run_report(monkeypatch, source, "--plot", chart)
    with pytest.raises(ValueError, match="no accuracy of TV-L1"):
        report.plot_flow(flow_record | {"benchmarks": []}, chart)


def test_flop_of_an_iteration_are_the_references() -> None:
    """Every arithmetic operation that the reference sends to torch in one iteration, at its pixels."""
    height, width = 200, 300
    weights = {"mul": 1, "add": 1, "sub": 1, "sqrt": 1, "reciprocal": 1, "div": 1, "clamp": 2, "sum": 1}

    class Count(TorchDispatchMode):
        flop = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__
            counted = args[0] if name == "sum" else result
            self.flop += weights.get(name, 0) * (counted.numel() if isinstance(counted, Tensor) else 0)
            return result

    iteration = _Iteration(torch.zeros(2, height, width), Settings(*flow_work.arguments(TVL1Params())))
    iteration.linearize(*torch.rand(1, height, width), torch.rand(3, height, width))
    with Count() as count:
        iteration.step()
    # The reference forms the change of u (2) twice, and a reciprocal in torch is 1 times one. The border
    # has a few differences less.
    assert count.flop / (height * width) - 2 - 1 == pytest.approx(flow_work.FLOP, abs=0.1)


def test_pixel_iterations_by_hand() -> None:
    params = TVL1Params(nscales=3, warps=2)
    counts = torch.tensor([[[1, 2], [10, 20], [0, 0]], [[3, 4], [5, 5], [0, 0]]], dtype=torch.int32)
    # 24x25 is under 16 at the third level: 19x20, then 15x16.
    assert flow_work.pixel_iterations(counts, (24, 25), params) == 10 * 24 * 25 + 40 * 19 * 20
    frames = flow_data.made_frames(3, 24, 25)
    fixed = TVL1Params(nscales=2, warps=2, epsilon=0.0, inner_iterations=3, outer_iterations=2)
    assert flow_work.solved(frames, fixed) == 2 * 2 * 6 * (24 * 25 + 19 * 20)


def test_made_frames_move_as_they_say() -> None:
    frames = flow_data.made_frames(2)
    assert torch.equal(frames, flow_data.made_frames(2))
    assert (frames.dtype, frames.shape) == (torch.uint8, (2, 256, 340))
    assert frames.float().std() > 15
    flow = tvl1(frames[0], frames[1])
    for part, motion in ((flow[:, 118:138, 160:180], (2.1, 1.2)), (flow[:, 20:50, 20:320], (-1.3, 0.6))):
        truth = torch.tensor(motion)[:, None, None].expand_as(part)
        assert average_endpoint_error(part, truth) < 0.15


def test_residual_is_small_along_the_motion() -> None:
    scene = flow_data._texture(60, 90, torch.Generator().manual_seed(3))[0, 0]
    frame0, frame1 = scene[5:45, 10:70], scene[3:43, 13:73]  # what was at (x, y) is now at (x - 3, y + 2)
    flow = torch.tensor([-3.0, 2.0])[:, None, None].expand(2, 40, 60)
    still = flow_data.residual(frame0, frame1, torch.zeros(2, 40, 60))
    assert flow_data.residual(frame0, frame1, flow) < 0.3 * still  # the border has no partner
    assert flow_data.residual(frame0, frame1, -flow) > still


def test_a_flow_without_motion_has_no_speed() -> None:
    frame0, frame1 = flow_data.made_frames(2, 60, 80)
    flow_peers.check("ours", flow_peers.fasti3d(), frame0, frame1)
    with pytest.raises(AssertionError, match="still does not follow the motion"):
        flow_peers.check("still", lambda a, b: torch.zeros(2, 60, 80), frame0, frame1)


@pytest.mark.parametrize("name", flow_peers.PEERS)
def test_peers_give_flow_as_fasti3d_does(name: str) -> None:
    flow_peers.skip_without(name)
    frame0, frame1 = flow_data.made_frames(2, 60, 80)
    solve = flow_peers.PEERS[name]()
    flow_peers.check(name, solve, frame0, frame1)
    flow = solve(frame0, frame1)
    assert (flow.dtype, flow.shape) == (torch.float32, (2, 60, 80))
    assert average_endpoint_error(flow, tvl1(frame0, frame1)) < 0.4


def test_opencv_without_its_solvers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package opencv-python comes."""
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))
    with pytest.raises(pytest.skip.Exception, match="cv2 is installed without optflow"):
        flow_peers.skip_without(flow_peers.OPENCV)


def test_opencv_gets_our_parameters() -> None:
    flow_peers.skip_without(flow_peers.OPENCV)
    frame0, frame1 = flow_data.made_frames(2, 60, 80)
    params = TVL1Params(lambda_=0.05, warps=2, scale_step=0.6, median_filtering=3, epsilon=0.02)
    theirs = flow_peers.opencv(params)(frame0, frame1)
    same = average_endpoint_error(tvl1(frame0, frame1, params=params), theirs)
    assert same < 0.1 * average_endpoint_error(tvl1(frame0, frame1), theirs)
    with pytest.raises(ValueError, match="opencv-cuda"):
        flow_peers.opencv(PRESETS["opencv-cuda"])


def test_chairs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_data, "FOLDER", tmp_path)
    assert flow_data.chairs() == []
    folder = tmp_path / "flow"
    folder.mkdir()
    truth = np.arange(2 * 4 * 6, dtype=np.float32).reshape(2, 4, 6)
    write_flo(folder / "chairs7-gt.flo", truth)
    for i, grey in enumerate((10, 200)):
        (folder / f"chairs7-img{i}.ppm").write_bytes(b"P6 6 4 255\n" + bytes([grey]) * (3 * 4 * 6))
    (pair,) = flow_data.chairs()
    assert (pair.truth.numpy() == truth).all()
    assert (pair.frame0 == 10).all()
    assert (pair.frame1 == 200).all()
    assert pair.frame0.shape == (4, 6)


class _Recorded:
    """Stands in for pytest-benchmark: runs the rounds and reports times that were given to it."""

    def __init__(self, seconds: list[float]) -> None:
        self.extra_info: dict[str, Any] = {}
        self.stats = self
        self.data = seconds

    def pedantic(self, target: Any, setup: Any, rounds: int) -> None:
        self.stats = type("", (), {"stats": type("", (), {"data": self.data})})
        for _ in range(rounds):
            args, kwargs = setup()
            target(*args, **kwargs)


def test_pair_race_compares_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [8.0] * 4 + [1.0] * 4
    run: list[Any] = []
    costs = iter([4.0, 1.0, 1, 1, 1, 1, 1, 2.0, 0.5, 0.5])  # a batch before the first and the seventh

    def timed(call: Any) -> float:
        call()
        return next(costs)

    monkeypatch.setattr(measuring, "_seconds", timed)
    pairs = [(torch.tensor(i), torch.tensor(i + 1)) for i in range(8)]
    benchmark = _Recorded(seconds)
    measuring.PairRace(benchmark)(  # type: ignore[arg-type]
        lambda a, b: run.append(("theirs", int(a))),
        pairs,
        ours=lambda a, b: run.append(("ours", int(a))),  # type: ignore[arg-type, func-returns-value]
        our_batch=lambda: run.append("batch"),
    )
    turns: list[Any] = [(who, i) for i in range(8) for who in ("ours", "theirs")]
    turns.insert(12, "batch")
    assert run == ["batch", *turns]
    info = benchmark.extra_info
    assert (info["pairs"], info["pairs_per_s"]) == (8, 8 / 36)
    assert info["ratio_single"] == 36 / 7
    assert (info["ratio_single_min"], info["ratio_single_max"]) == (1, 8)
    assert (info["ratio_batch"], info["ratio_batch_min"], info["ratio_batch_max"]) == (12, 9, 18)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
@pytest.mark.skipif(extension.CORE is None, reason="the memory of the compiled solver")
def test_peak_memory_of_a_batch_holds_its_flow() -> None:
    peaks = flow_memory.measure(flow_memory.BATCH, 20, (150, 200))
    flow_mb = 20 * 2 * 150 * 200 * 4 / 1e6
    for mb in peaks.values():
        assert flow_mb < mb < 10 * flow_mb
