"""The benchmarks' own logic: what they count, and what report.py makes of a record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import memory, peers, report, work
from fasti3d import network, reference

SCRIPT = Path(report.__file__)


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
            _row("max_pool3d_same x", 0.0123, candidate="fasti3d", gb_per_s=12.34, **pool),
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
    assert "| case |  | time | ratio | rate | MB |" in text
    assert "| 1x3x9x224x224 float32 cpu | fasti3d | 500 ms |  | 444 GFLOP/s |  |" in text
    assert "|  | reference | 1.25 s | 2.50 (2.25 to 3.00) | 178 GFLOP/s | 310 / 250 |" in text
    assert "takes 2.50 s: 125 ms (100 ms to 250 ms) more than" in text


def test_report_leaves_out_empty_columns_and_sections(record: dict[str, Any]) -> None:
    text = report.report(record)
    assert "| case |  | time | rate |\n|---|---|---|---|\n| a pool | fasti3d | 12.3 ms | 12.3 GB/s |" in text
    assert "conv3d" not in text


def test_report_script_writes_both_files(record: dict[str, Any], tmp_path: Path) -> None:
    source, output, chart = tmp_path / "a.json", tmp_path / "a.md", tmp_path / "a.png"
    source.write_text(json.dumps(record))
    command = [sys.executable, str(SCRIPT), str(source), "--output", str(output), "--plot", str(chart)]
    subprocess.run(command, check=True)
    assert output.read_text() == report.report(record)
    assert chart.read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.md", "a.png"]


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "cut short"])
def test_report_script_names_an_unreadable_record(tmp_path: Path, content: str | None) -> None:
    source = tmp_path / "a.json"
    if content is not None:
        source.write_text(content)
    result = subprocess.run([sys.executable, str(SCRIPT), str(source)], capture_output=True, text=True)
    assert result.returncode == 1
    assert str(source) in result.stderr
    assert "Traceback" not in result.stderr


def test_flop_of_a_64_frame_clip() -> None:
    # The published count; two-channel clips save a third of the stem's 52.9 GFLOP.
    assert work.network_flop((1, 3, 64, 224, 224)) == pytest.approx(222.3e9, rel=5e-4)
    assert work.network_flop((2, 3, 64, 224, 224)) == 2 * work.network_flop((1, 3, 64, 224, 224))
    rgb, flow = (work.network_flop((1, c, 64, 224, 224)) for c in (3, 2))
    assert rgb - flow == pytest.approx(52.9e9 / 3, rel=1e-3)


def test_layers_are_those_the_reference_runs() -> None:
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
        for layer in work.layers(2, (9, 209, 193), num_classes=7)
    }
    assert walked == seen


def test_flop_of_one_layer_by_hand() -> None:
    conv = work.Layer("a", network.Conv(4, (1, 3, 3), (1, 2, 2)), 5, (2, 7, 8))
    assert conv.out_size == (2, 4, 4)
    assert conv.flop == 2 * (4 * 2 * 4 * 4) * (5 * 3 * 3)
    assert conv.elements == 5 * 2 * 7 * 8 + 4 * 2 * 4 * 4
    assert work.Layer("b", network.Pool((3, 3, 3), (2, 2, 2)), 5, (2, 7, 8)).flop == 0


def test_relative_error() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert peers.relative_error(expected.bfloat16(), expected) == 0
    assert peers.relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)


def test_logits_of_the_random_network_depend_on_the_clip() -> None:
    """Otherwise a candidate that ignores its input would pass the check before its timing."""
    case = peers.Case((2, 3, 9, 193, 193), torch.float32)
    first, second = peers.expected_logits(case)
    assert peers.relative_error(second, first) > 2 * peers.LOGITS_TOLERANCE[torch.bfloat16]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_peak_memory_sees_an_allocation_that_is_gone_after_the_pass() -> None:
    def pass_of_100_mb() -> torch.Tensor:
        return torch.ones(25_000_000).sum()

    assert memory._cpu_peak(pass_of_100_mb) == pytest.approx(100, abs=5)
    # The earlier peak must not count again.
    assert memory._cpu_peak(lambda: torch.ones(1)) < 5
