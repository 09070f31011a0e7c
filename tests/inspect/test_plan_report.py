"""What ``fasti3d plan`` says of a forward pass is what the pass does."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fasti3d
from fasti3d import I3D
from fasti3d.cli import app
from fasti3d.engine.layout import Layout
from fasti3d.inspect.layers import layers, network_flop
from fasti3d.inspect.plan_report import PlanReport, report_plan
from fasti3d.inspect.roofline import CHIPS, Chip, floor_seconds

CPU = torch.device("cpu")
SHAPE = (2, 3, 10, 200, 210)


@pytest.fixture(scope="module")
def report() -> PlanReport:
    return report_plan(SHAPE, torch.float32, CPU)


def test_the_steps_write_the_maps_of_the_network(report: PlanReport) -> None:
    model = I3D().eval()
    names = [step.name.split(" + ")[-1] for step in report.steps]
    with torch.no_grad():
        maps = model.forward_endpoints(torch.rand(SHAPE) * 2 - 1, names)
    assert {name: tuple(maps[name].shape) for name in names} == {
        name: step.shape for name, step in zip(names, report.steps, strict=True)
    }


def test_nothing_is_left_out(report: PlanReport) -> None:
    parts = [part for step in report.steps for part in step.name.split(" + ")]
    wanted = [layer.name.split(".")[0] for layer in layers(3, SHAPE[2:])]
    assert parts == ["Logits" if part == "logits" else part for part in dict.fromkeys(wanted)]
    assert report.flop == network_flop(SHAPE)


def test_the_arena_is_as_large_as_said(report: PlanReport, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = Layout.run

    def record(self: Layout, maps: Any, block: torch.Tensor, keep: Any, **options: Any) -> Any:
        sizes.append(block.nbytes)
        return real(self, maps, block, keep, **options)

    monkeypatch.setattr(Layout, "run", record)
    model = I3D().eval()
    with torch.no_grad():
        model(torch.rand(SHAPE) * 2 - 1)
    assert sizes == [report.arena_bytes]
    assert model._plan is not None
    convs = model._plan.plan.convs().values()
    assert report.weight_bytes == sum(conv.weight.nbytes + conv.bias.nbytes for conv in convs)


def test_traffic_of_a_convolution_and_of_a_block(report: PlanReport) -> None:
    values = {step.name: step.values for step in report.steps}
    pixels = math.prod((5, 50, 53))
    assert values["Conv3d_2b_1x1"] == 2 * pixels * (64 + 64) + 64 * 64
    pixels = math.prod((3, 13, 14))
    read = 480 + 480 + 96 + 480 + 16 + 480
    written = 192 + 96 + 208 + 16 + 48 + 64
    filters = 480 * (192 + 96 + 16 + 64) + 27 * (96 * 208 + 16 * 48)
    assert values["Mixed_4b"] == 2 * pixels * (read + written) + filters
    assert values["Logits"] == 2 * (2 * 7 * 7 * 1024 + 400) + 1024 * 400


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(16, 16, 3, padding=1), nn.Conv3d(16, 16, 1)
        self.bn, self.relu = nn.BatchNorm3d(16), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.bn(self.b(self.relu(self.a(x)))) + x).sigmoid()


def make_residual() -> nn.Module:
    return Residual()


@pytest.mark.parametrize("change", [lambda m: m, fasti3d.fuse], ids=["as it is", "fused"])
def test_any_network(change: Any) -> None:
    report = fasti3d.plan(change(Residual().eval()), (1, 16, 4, 8, 8))
    assert [step.name for step in report.steps] == ["a", "b", "sigmoid"]
    assert report.flop == 2 * 4 * 8 * 8 * 16 * (27 * 16 + 16)
    assert [rewrite.nodes for rewrite in report.rewrites][-1] == 3
    # The sum takes the place of nothing that is read later: the clip is not in the block.
    assert report.arena_bytes == 2 * 4 * 16 * 4 * 8 * 8
    with pytest.raises(ValueError, match="in eval mode, but it is in training mode"):
        fasti3d.plan(Residual(), (1, 16, 4, 8, 8))


def test_a_network_that_cannot_be_planned() -> None:
    model = I3D().eval()
    model.Mixed_3b.register_forward_hook(print)
    with pytest.raises(ValueError, match=r"cannot be planned: Mixed_3b \(Mixed\) has hooks"):
        fasti3d.plan(model, (1, 3, 16, 224, 224))

    class Branching(Residual):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(ValueError, match="cannot be planned as a whole: its forward cannot be traced"):
        fasti3d.plan(Branching().eval(), (1, 16, 4, 8, 8))


def test_rewrites(report: PlanReport) -> None:
    names = [rewrite.name for rewrite in report.rewrites]
    assert names[:2] == ["as described", "batch norms into convolutions"]
    nodes = [rewrite.nodes for rewrite in report.rewrites]
    assert [before - after for before, after in itertools.pairwise(nodes)][:3] == [57, 57, 0]
    assert report.rewrites[-1].values == sum(step.values for step in report.steps)


def test_floors() -> None:
    chip = Chip("a", 100.0, 10.0)
    assert floor_seconds(1000, 10, chip) == 10.0
    assert floor_seconds(10, 1000, chip) == 100.0
    report = report_plan((8, 3, 64, 224, 224), torch.bfloat16, CPU)
    # 8 clips of 222.3 GFLOP at the peak of arithmetic alone, and not more than twice that.
    for chip in CHIPS:
        least = 8 * 222.3e9 / chip.flop_per_s
        assert least * 0.999 < report.floor_seconds(chip) < 2 * least


def test_verb() -> None:
    runner = CliRunner(env={"NO_COLOR": "1"})
    done = runner.invoke(app, ["plan", "--shape", "2,3,10,200,210", "--device", "cpu"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:6] == ["step", "writes", "convolutions", "GFLOP", "MB", "moved"]
    assert any("Conv3d_2c_3x3" in line and "F(4,2,2)" in line for line in lines)
    assert any(line.startswith("Conv3d_2b_1x1") and "2x64x5x50x53" in line for line in lines)
    assert "MB in one block; packed weights:" in lines[-1]
    whole = json.loads(runner.invoke(app, ["plan", "--dtype", "bfloat16", "--json"]).stdout)
    assert whole["flop"] == network_flop((1, 3, 64, 224, 224))
    assert whole["floor_seconds"].keys() == {chip.name for chip in CHIPS}


def test_verb_of_another_network() -> None:
    runner = CliRunner(env={"NO_COLOR": "1"})
    network = f"{__name__}:make_residual"
    done = runner.invoke(app, ["plan", "--network", network, "--shape", "1,16,4,8,8", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert [line.split()[0] for line in done.stdout.splitlines()[:4]] == ["step", "a", "b", "sigmoid"]
    assert any(line.startswith("sums into convolutions") for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shape", "1,3,8,224,224"], "at least 9 frames"),
        (["--shape", "1,3,64,224"], "(N, C, T, H, W)"),
        (["--shape", "1,4,64,224,224"], "3 channels"),
        (["--shape", "a"], "five whole numbers"),
        (["--shape", "1,3,-9,224,224"], "must not be below 0"),
        (["--dtype", "int8"], "must be one of float32, bfloat16, float16, got 'int8'"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    done = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, ["plan", *options])
    assert done.exit_code == 2
    assert said in done.stderr
