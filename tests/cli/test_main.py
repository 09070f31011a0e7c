"""The command as a whole: version, help, pipes; and doctor and weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from safetensors.torch import load_file
from typer.testing import CliRunner
from waiting import PATIENCE

import fasti3d
from fasti3d import weights
from fasti3d.cli import app

OPTION = re.compile(r"(?<!\S)--?[a-z][a-z0-9-]*")


def invoke(*arguments: object, width: int = 300) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a call in this process."""
    done = CliRunner(env={"COLUMNS": str(width), "NO_COLOR": "1"}).invoke(app, [*map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def verbs(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, those of groups too, by the words that call it."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, *path, name)


VERBS = dict(verbs(typer.main.get_command(app)))


def test_version(run) -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fasti3d {fasti3d.__version__}\n", "")


def test_help_names_every_verb() -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert len(VERBS) > 10
    for verb, *_ in filter(None, VERBS):
        assert verb in out


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_explains_every_option_and_argument(verb: tuple[str, ...]) -> None:
    code, out, _ = invoke(*verb, "--help", width=1000)
    assert code == 0
    assert VERBS[verb].help.splitlines()[0] in out
    for parameter in VERBS[verb].params:
        assert parameter.help, parameter.name
        assert parameter.help in out
        assert all(f" {option} " in out for option in parameter.opts if option.startswith("-"))


def test_the_readme_s_commands_have_the_options_that_are_given() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"(?m)(?:^|`)fasti3d ((?:weights |dataset )?[a-z]+)\b((?:\\\n|[^\n`#])*)", text)
    given = [(tuple(verb.split()), option) for verb, rest in commands for option in OPTION.findall(rest)]
    assert len({verb for verb, _ in given}) > 3
    known = {
        verb: {"--help"}.union(*(parameter.opts for parameter in command.params))
        for verb, command in VERBS.items()
    }
    assert [(verb, option) for verb, option in given if option not in known.get(verb, ())] == []


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
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def test_doctor_as_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))
    code, out, err = invoke("doctor")
    assert (code, err) == (0, "")
    for word in (torch.__version__, "Extension", "bfloat16", "Known problems", str(tmp_path)):
        assert word in out
    assert list(tmp_path.iterdir()) == []
    code, out, _ = invoke("doctor", "--json")
    assert code == 0
    assert json.loads(out)["versions"]["torch"] == torch.__version__


def test_doctor_of_a_broken_extension_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasti3d.runtime.extension.load_error", lambda: "undefined symbol [x]")
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


@pytest.mark.parametrize(
    ("variable", "value", "verb", "said"),
    [
        ("FASTI3D_HOME", "~nosuchuser", ["weights", "verify"], "must be a folder of an existing user"),
        ("FASTI3D_ISA", "sse9", ["doctor"], "must be 'baseline', 'avx2', 'avx512', 'avx512_bf16' or 'amx'"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(variable: str, value: str, verb: list[str], said: str) -> None:
    code = f"import sys; from fasti3d.cli import main; sys.argv[1:] = {verb!r}; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {variable: value}, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: the environment variable {variable} {said}")
    assert line.endswith(f"got {value!r}: change it, or unset it")


@pytest.mark.parametrize("path", ["~nosuchuser/x.pt", "x" * 5000, "a/" * 3000])
def test_weights_that_cannot_be_are_wrong_usage(path: str) -> None:
    for verb in (["classify", "video.mp4"], ["fvd", "a", "b"]):
        code, _, err = invoke(*verb, "--weights", path)
        assert code == 2
        assert "is neither a file nor a name" in err
        assert "Traceback" not in err
