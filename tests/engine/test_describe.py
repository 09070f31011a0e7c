"""Why a network does not run fused, and what it is described as."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from i3d_making import SMALL, make_i3d, random_clip
from torch import nn
from typer.testing import CliRunner

from fasti3d import I3D
from fasti3d.cli import app
from fasti3d.engine.describe.inception import describe
from fasti3d.inspect.model_report import report_model
from fasti3d.network import TRUNK

NAMES = tuple(TRUNK)


def hooked(part: nn.Module) -> None:
    part.register_forward_hook(lambda *_: None)


# What is done to a network, and what is said of it.
CHANGES: dict[str, tuple[Callable[[I3D], Any], str]] = {
    "a hook": (lambda m: hooked(m.Mixed_3c.b1b), "Mixed_3c.b1b (Unit3D) has hooks"),
    "a hook inside": (
        lambda m: hooked(m.Mixed_3c.b1b.bn),
        "the batch norm of Mixed_3c.b1b (BatchNorm3d) has",
    ),
    "another class": (
        lambda m: setattr(m, "MaxPool3d_2a_3x3", nn.MaxPool3d(1)),
        "MaxPool3d_2a_3x3 (MaxPool3d)",
    ),
    "another part": (lambda m: setattr(m, "Mixed_4b", m.Conv3d_2b_1x1), "Mixed_4b (Unit3D) is not the kind"),
    "a missing part": (lambda m: setattr(m, "Mixed_5b", None), "Mixed_5b is missing"),
    "another pool": (
        lambda m: setattr(m.MaxPool3d_4a_3x3, "stride", (1, 2, 2)),
        "MaxPool3d_4a_3x3 is a pool of",
    ),
    "another window": (
        lambda m: setattr(m.Mixed_3b.b0, "conv3d", nn.Conv3d(192, 64, (3, 1, 1), bias=False)),
        "Mixed_3b.b0 is not a convolution of 192 channels, window (1, 1, 1)",
    ),
    "statistics of the batch": (lambda m: m.Mixed_3b.b0.bn.train(), "of Mixed_3b.b0 is in training mode"),
    "training": (lambda m: m.train(), "training mode: call model.eval()"),
    "two dtypes": (lambda m: m.Mixed_5c.half(), "the trunk holds both torch.float32 and torch.float16"),
    "dropout that drops": (lambda m: m.dropout.train(), "dropout is in training mode"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_is_in_the_way_is_named(what: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_i3d()
    assert model.why_not_fused() == ""
    change, said = CHANGES[what]
    change(model)
    assert said in model.why_not_fused()
    with caplog.at_level(logging.DEBUG, "fasti3d.i3d"), torch.no_grad():
        assert model.current_plan(random_clip(*SMALL), torch.float32) is None
    assert said in caplog.text
    (part,) = report_model(nn.ModuleDict({"backbone": model}))
    assert (part.path, part.runs) == ("backbone", "as an ordinary module")
    assert said in part.why


def test_a_head_that_is_not_known_is_named(model: I3D) -> None:
    assert [part.runs for part in report_model(model)] == ["fused"]
    replaced = make_i3d()
    replaced.logits = nn.Sequential(replaced.logits)
    (part,) = report_model(replaced)
    assert part.runs == "fused but for its head"
    assert "logits (Sequential)" in part.why


def test_a_code_is_the_graph(model: I3D) -> None:
    described = describe(model, NAMES)
    code, names = described.coded()
    graph = described.graph()
    assert graph.names == names
    assert len(code.paths) == len(graph.nodes) == 195
    assert {node.name.split(".")[0] for node in graph.nodes} == {*NAMES, "Logits", "Predictions"}


def test_doctor_of_a_model(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_detector.py").write_text(
        "import fasti3d\n\ndef make():\n    model = fasti3d.I3D(2)\n"
        "    model.Mixed_3b.register_forward_hook(print)\n    return model\n"
    )
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "200"})
    done = runner.invoke(app, ["doctor", "--model", "my_detector:make", "--json"])
    (part,) = json.loads(done.stdout)
    assert part["runs"] == "as an ordinary module"
    assert "Mixed_3b (Mixed) has hooks" in part["why"]
    for text, said in (("my_detector", "must be MODULE:FACTORY"), ("my_detector:made", "cannot be imported")):
        done = runner.invoke(app, ["doctor", "--model", text])
        assert done.exit_code == 2
        assert said in done.stderr
