"""The command as a whole: version, help, pipes; and doctor and weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import fasti3d
from fasti3d import weights
from fasti3d.cli import app


def invoke(*arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a call in this process."""
    done = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_version(run) -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fasti3d {fasti3d.__version__}\n", "")


def test_help_names_every_verb() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    for verb in ("classify", "demo", "doctor", "flow", "plan", "tune", "weights"):
        assert verb in out


def test_an_unknown_verb_is_wrong_usage() -> None:
    code, _, err = invoke("clasify")
    assert code == 2
    assert "clasify" in err


@pytest.mark.skipif(os.name != "posix", reason="pipes differ")
def test_a_reader_that_leaves_hears_no_complaint() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "fasti3d", "weights", "list"]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_doctor_as_text_and_json(run, tmp_path: Path) -> None:
    done = run("doctor", FASTI3D_HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    for word in (torch.__version__, "Extension", "bfloat16", "Known problems", str(tmp_path)):
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []
    code, out, _ = invoke("doctor", "--json")
    assert code == 0
    assert json.loads(out)["versions"]["torch"] == torch.__version__


def test_doctor_of_a_broken_extension_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasti3d.extension.load_error", lambda: "undefined symbol [x]")
    code, out, _ = invoke("doctor")
    assert code == 1
    assert "undefined symbol [x]" in out


def test_weights_list_names_all() -> None:
    code, out, _ = invoke("weights", "list")
    assert code == 0
    for name in weights.registry():
        assert name in out


def test_weights_convert(random_weights: Path, tmp_path: Path) -> None:
    code, out, _ = invoke("weights", "convert", random_weights, tmp_path / "out.safetensors")
    assert (code, out) == (0, f"{tmp_path / 'out.safetensors'}\n")
    before, after = load_file(random_weights), load_file(tmp_path / "out.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_weights_convert_of_nothing_fails(tmp_path: Path) -> None:
    code, out, err = invoke("weights", "convert", tmp_path / "none.pt", tmp_path / "out.safetensors")
    assert (code, out) == (1, "")
    assert "none.pt" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["get", "verify"])
def test_an_unknown_name_is_wrong_usage(verb: str) -> None:
    code, _, err = invoke("weights", verb, "kinetics-rgb")
    assert code == 2
    assert "kinetics400-rgb" in err
