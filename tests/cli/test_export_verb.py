"""``fasti3d export``: what it prints and leaves, in process and with a network of a few channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fasti3d.cli import app
from fasti3d.exporting import Comparison, Export, ParityError, Skipped
from fasti3d.exporting import api as exporting


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What ``fasti3d.export`` was called with, which writes one byte."""
    seen: list[tuple[Any, ...]] = []

    def export(model: nn.Module, path: Path, kind: str, **options: Any) -> Export:
        seen.append((model, kind, options))
        path.write_bytes(b"x")
        ran = Comparison("torch 2", "noise", (1, 3, 24, 8, 8), 1e-7)
        return Export(path, kind, ("clip",), ("Logits",), (ran,), (Skipped("openvino", "not installed"),), {})

    monkeypatch.setattr(exporting, "export", export)
    return seen


def test_options_become_arguments(calls: list[tuple[Any, ...]], tmp_path: Path, narrow: None) -> None:
    options = "--aoti --output Features --output Logits --clip 16,200,208 --fixed-time --dtype bfloat16"
    done = CliRunner().invoke(app, ["export", "i3d_flow", "-o", str(tmp_path / "a.pt2"), *options.split()])
    assert done.exit_code == 0, done.output
    ((model, kind, given),) = calls
    assert (model.in_channels, model.training, model.Mixed_3b.b0.conv3d.weight.dtype) == (
        2,
        False,
        torch.bfloat16,
    )
    assert (kind, given["outputs"], given["clip"]) == ("aoti", ["Features", "Logits"], (16, 200, 208))
    assert (given["fixed_time"], given["uint8"], given["overwrite"]) == (True, False, False)
    assert "1x3x24x8x8" in done.output
    assert "openvino" in done.output


def test_two_weights_are_two_streams(calls: list[tuple[Any, ...]], tmp_path: Path, narrow: None) -> None:
    import fasti3d

    paths = [str(fasti3d.I3D(5, c).save_pretrained(tmp_path / str(c))) for c in (3, 2)]
    command = ["export", paths[0], "--flow-weights", paths[1], "-o", str(tmp_path / "a.onnx")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert type(calls[0][0]) is fasti3d.TwoStreamI3D


def test_a_file_that_is_off_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow: None
) -> None:
    def export(*arguments: Any, **options: Any) -> Export:
        raise ParityError("it is off")

    monkeypatch.setattr(exporting, "export", export)
    done = CliRunner().invoke(app, ["export", "i3d_rgb", "-o", str(tmp_path / "a.onnx")])
    assert done.exit_code == 1
    assert "it is off" in done.output
