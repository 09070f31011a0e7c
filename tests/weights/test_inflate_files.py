"""Files of 2-D weights become files that I3D loads, from Python and from the command line."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from googlenet_making import CLASSIFIER, blank, googlenet_weights, same, to_slim, without
from typer.testing import CliRunner
from weights_making import Tensors

from fasti3d import I3D
from fasti3d.cli import app
from fasti3d.inflate import inflate, inflate_file
from fasti3d.utils.hashing import sha256
from fasti3d.weights import WeightsError, load


@pytest.fixture(scope="module")
def files(weights_2d: Tensors, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    torch.save(weights_2d, folder / "googlenet.pth")
    safetensors.torch.save_file(weights_2d, folder / "googlenet.safetensors")
    np.savez(folder / "slim.npz", **to_slim(weights_2d, gamma=True))
    return {path.suffix[1:]: path for path in folder.iterdir()}


def test_a_file_becomes_one_that_i3d_loads(
    files: dict[str, Path], weights_2d: Tensors, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    seed = torch.random.get_rng_state()
    report = inflate_file(files["pth"], out)
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert report.new == CLASSIFIER
    model, expected = I3D(weights=out), blank(400)
    inflate(weights_2d, expected)
    assert same(without(dict(model.state_dict()), "logits"), without(dict(expected.state_dict()), "logits"))
    classifier = model.logits.conv3d
    assert 0.005 < classifier.weight.std() < 0.015
    assert classifier.bias.count_nonzero() == 0
    assert model.labels is None
    checkpoint = load(out)
    assert checkpoint.format == "torchvision-googlenet"
    assert checkpoint.source == f"{files['pth']}, inflated (average)"
    assert checkpoint.sha256 == sha256(files["pth"])
    first = out.read_bytes()
    inflate_file(files["pth"], out)
    assert out.read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_flow_from_the_command_line(kind: str, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "flow.safetensors"
    arguments = ["weights", "inflate", files[kind], "-o", out, "--flow", "--mode", "centre"]
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert "342 tensors filled; new, to be trained: logits.conv3d.weight, logits.conv3d.bias" in done.stderr
    model, expected = I3D(in_channels=2, weights=out), blank(400, 2)
    inflate(googlenet_weights(), expected, "centre")
    for name, tensor in without(dict(model.state_dict()), "logits").items():
        if not (kind == "npz" and name.endswith("num_batches_tracked")):
            assert torch.equal(tensor, expected.state_dict()[name]), name


@pytest.mark.parametrize(
    ("src", "out", "options", "code", "said"),
    [
        (
            "pth",
            "there.safetensors",
            ["--mode", "mean"],
            2,
            "Invalid value for --mode: mode must be one of average, centre",
        ),
        ("nothing.pth", "there.safetensors", [], 1, "nothing.pth cannot be read: nothing is at that path"),
        ("junk.pth", "there.safetensors", [], 1, "junk.pth: not a weights file"),
        (
            "short.pth",
            "there.safetensors",
            [],
            1,
            "short.pth: it has torchvision-googlenet names but does not",
        ),
        ("pth", "no/where.safetensors", [], 1, "no/where.safetensors cannot be written: No such file"),
        ("pth", "folder", [], 1, "folder cannot be written: Is a directory"),
    ],
)
def test_what_fails_leaves_the_output_as_it_was(
    src: str,
    out: str,
    options: list[str],
    code: int,
    said: str,
    files: dict[str, Path],
    weights_2d: Tensors,
    tmp_path: Path,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.safetensors").write_bytes(b"old")
    (tmp_path / "junk.pth").write_bytes(b"<html>")
    torch.save(without(weights_2d, "conv2"), tmp_path / "short.pth")
    before = sorted(tmp_path.iterdir())
    command = ["weights", "inflate", str(files.get(src, tmp_path / src)), "-o", str(tmp_path / out), *options]
    done = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, command)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in done.stderr
    assert (tmp_path / "there.safetensors").read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_is_not_inflated_onto_itself(files: dict[str, Path]) -> None:
    before = files["npz"].read_bytes()
    with files["npz"].open("rb") as file:
        for src in (files["npz"], file):
            with pytest.raises(WeightsError, match="give the result another name"):
                inflate_file(src, files["npz"])
    assert files["npz"].read_bytes() == before


def test_what_is_in_memory_becomes_the_same_file(
    files: dict[str, Path], weights_2d: Tensors, tmp_path: Path
) -> None:
    out = tmp_path / "out.safetensors"
    expected = inflate_file(files["pth"], out)
    tensors = load(out).state_dict
    for src, name in (
        (io.BytesIO(files["pth"].read_bytes()), "the open file"),
        ({"state_dict": weights_2d}, "the state dict"),
    ):
        report = inflate_file(src, out)
        assert report.filled == expected.filled
        checkpoint = load(out)
        assert same(checkpoint.state_dict, tensors)
        assert checkpoint.source == f"{name}, inflated (average)"
        assert (checkpoint.sha256 == sha256(files["pth"])) == (name == "the open file")


def test_nothing_else_is_read_of_a_file(weights_2d: Tensors, tmp_path: Path) -> None:
    """A tensor that inflation does not need may be of a kind that is not read."""
    data = safetensors.torch.save(
        {"model." + key: t for key, t in weights_2d.items()} | {"ema": torch.ones(1)}
    )
    path = tmp_path / "some.safetensors"
    path.write_bytes(data.replace(b'"ema":{"dtype":"F32"', b'"ema":{"dtype":"F99"'))
    assert "ema" in inflate(path, blank()).unused


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, os.strerror(errno.EMFILE))], ids=repr)
@pytest.mark.parametrize("where", ["sha256", "torch.frombuffer"])
def test_what_ran_out_passes_as_it_is(
    error: Exception, where: str, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"fasti3d.weights.containers.{where}", fail)
    with pytest.raises(type(error)) as caught:
        inflate_file(files["safetensors"], tmp_path / "out")
    assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["~nosuchuser/x", "a\0b", "x" * 5000, ""], ids=["user", "NUL", "long", "empty"]
)
def test_paths_that_cannot_be(path: str, files: dict[str, Path], tmp_path: Path) -> None:
    for src, dst in ((path, tmp_path / "out"), (files["npz"], path)):
        with pytest.raises(WeightsError, match=r"cannot be (read|written): ") as caught:
            inflate_file(src, dst)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 1000
    assert list(tmp_path.iterdir()) == []
