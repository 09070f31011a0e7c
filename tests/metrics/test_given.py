"""FVD of clips in memory, and of files that are not what they say, in Python and on the command line."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_making import noise
from typer.testing import CliRunner

import fasti3d
from fasti3d import inputs
from fasti3d.cli import app
from fasti3d.metrics.side import Side

REAL, GENERATED = noise(6, frames=10), noise(5, frames=12)
OPTIONS: dict[str, Any] = {"frames": 9, "device": "cpu"}


def write(path: Path, array: np.ndarray[Any, Any]) -> Path:
    np.save(path, array)
    return path


@pytest.mark.usefixtures("colours")
@pytest.mark.filterwarnings("ignore::UserWarning")
class TestClipsInMemory:
    def test_the_score_is_that_of_the_same_clips_in_files(self, tmp_path: Path) -> None:
        files = [write(tmp_path / f"{i}.npy", x.numpy()) for i, x in enumerate((REAL, GENERATED))]
        expected = fasti3d.fvd(*files, **OPTIONS).score
        for real, generated in ((REAL, GENERATED), (REAL.numpy(), GENERATED), (files[0], GENERATED.numpy())):
            assert fasti3d.fvd(real, generated, **OPTIONS).score == expected
        assert fasti3d.fvd(REAL, GENERATED, clips=4, seed=3, **OPTIONS).score == (
            fasti3d.fvd(*files, clips=4, seed=3, **OPTIONS).score
        )

    @pytest.mark.parametrize("layout", ["NTHWC", "NCTHW", "NTCHW"])
    def test_layouts_and_ranges(self, layout: str) -> None:
        expected = fasti3d.fvd(REAL / 255, GENERATED / 255, value_range=(0, 1), **OPTIONS).score
        axes = ["NTHWC".index(axis) for axis in layout]
        sides = [(x / 255).permute(axes) for x in (REAL, GENERATED)]
        for given in (sides, [x.numpy() for x in sides], [x.contiguous() for x in sides]):
            score = fasti3d.fvd(*given, layout=layout, value_range=(0, 1), **OPTIONS).score
            assert score == pytest.approx(expected, rel=1e-9)

    def test_the_receipt_says_what_they_were(self) -> None:
        receipt = json.loads(json.dumps(fasti3d.fvd(REAL, GENERATED, **OPTIONS).receipt))
        assert (
            receipt["real"] | {"path": None, "kind": "array", "shape": [6, 10, *REAL.shape[2:]]}
            == (receipt["real"])
        )
        assert receipt["generated"]["array_dtype"] == "uint8"
        assert [one["name"] for one in receipt["real"]["chosen"]] == list("012345")

    @pytest.mark.parametrize(
        ("real", "options", "error", "said"),
        [
            ([REAL], {}, TypeError, "real must be a path, or a NumPy array or tensor of clips, got list"),
            (3, {}, TypeError, r"got int: give batches to fasti3d\.FrechetVideoDistance"),
            (REAL[0], {}, ValueError, r"real must hold RGB clips, NTHWC, got an array of shape \(10"),
            (REAL.movedim(-1, 1), {}, ValueError, "say layout NCTHW"),
            (REAL.int(), {}, ValueError, r"must hold uint8 or floating point, got torch\.int32"),
            (
                REAL.numpy().astype(object),
                {},
                TypeError,
                "real must be a NumPy array or a torch tensor of num",
            ),
            (REAL[:, :8], {}, ValueError, "real holds clips of 8 frames, fewer than 9"),
            (REAL[:1], {}, ValueError, "real gives at most 1 clip"),
            (REAL[:, :, :0], {}, ValueError, "real must hold clips with pixels"),
            (REAL / 255, {}, ValueError, "real holds floating point, whose range is not known"),
            (REAL, {"layout": "XYZ"}, ValueError, "layout must be one of NTHWC"),
            (REAL / 255, {"value_range": (0, 1)}, ValueError, "real holds float and generated uint8"),
            ("a\0b", {}, ValueError, "does not exist"),
        ],
    )
    def test_what_is_not_clips(
        self, real: Any, options: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            fasti3d.fvd(real, GENERATED, **OPTIONS, **options)


def test_clips_of_0_to_1_declared_otherwise_get_one_warning(random_weights: Path) -> None:
    """The network, which the clips reach as they were declared, has no say of its own."""
    clips = torch.rand(1, 9, 16, 16, 3)
    clips[0, 0, 0, 0, 0] = 0
    metric = fasti3d.FrechetVideoDistance(weights=random_weights, value_range=(-1, 1), device="cpu")
    inputs._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metric.update(clips, real=True)
        metric.update(clips / 2, real=False)
    (text,) = [str(item.message) for item in caught]
    assert "which look like 0 to 1 in their value_range of -1 to 1: if so, say (0, 1)" in text


# ---------------------------------------------------------------- files


def header(shape: str, descr: str = "|u1") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def zipped(members: dict[str, bytes], flag: int = 0, method: int | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    data = bytearray(buffer.getvalue())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.find(mark) + offset
        data[at : at + 2] = struct.pack("<H", flag)
        if method is not None:
            data[at + 2 : at + 4] = struct.pack("<H", method)
    return bytes(data)


def flipped(archive: bytes) -> bytes:
    """With other bits in the middle of what is compressed."""
    return archive[:60] + bytes(byte ^ 0xFF for byte in archive[60:80]) + archive[80:]


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def statistics(notes: Any = None, **arrays: Any) -> bytes:
    side = Side.of(torch.rand(5, 4, dtype=torch.float64), (8, 8), keep=False).state()
    said = {"preset": "tf", "weights": "0", "frames": 9, "kind": "uint8", "count": 5, "sizes": side["sizes"]}
    text = notes if isinstance(notes, str) else json.dumps(said | (notes or {}))
    members = {
        "fasti3d_fvd": np.array(text),
        "mean": side["mean"].numpy(),
        "scatter": side["scatter"].numpy(),
    }
    return zipped({f"{k}.npy": v if isinstance(v, bytes) else npy(v) for k, v in (members | arrays).items()})


CLIP = header("(2, 9, 8, 8, 3)")
FILES: dict[str, tuple[bytes, str]] = {
    "shape.npy": (header("(1, 1000000, 10000, 10000, 3)"), "cut off in clip 0 of 1"),
    "count.npy": (header("(1099511627776, 16, 32, 32, 3)"), "cut off in clip 0"),
    "overflow.npy": (header("(4611686018427387904, 9, 4611686018427387904, 9, 3)"), "cut off in clip 0"),
    "nothing.npy": (header("(1099511627776, 16, 0, 0, 3)"), "clips with pixels"),
    "negative.npy": (header("(-1, 16, 32, 32, 3)"), "only plain arrays are read"),
    "bool.npy": (header("(True, 16, 32, 32, 3)"), "only plain arrays are read"),
    "header.npy": (b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 31) + b"{", "header is damaged"),
    "deep.npy": (b"\x93NUMPY\1\0" + struct.pack("<H", 2000) + b"(" * 2000, "header is damaged"),
    "fields.npy": (npy(np.zeros((2, 9, 8, 8, 3), [("a", "u1")])), "header is damaged"),
    "encrypted.npz": (zipped({"a.npy": CLIP + bytes(3456)}, flag=1), "is encrypted"),
    "method.npz": (zipped({"a.npy": CLIP + bytes(3456)}, method=99), "is compressed by method 99"),
    "bits.npz": (flipped(zipped({"a.npy": CLIP + bytes(3456)})), "damaged"),
    "shape.npz": (zipped({"a.npy": header("(2, 9, 1048576, 1048576, 3)")}), "cut off in clip 0 of 2"),
    "two.npz": (zipped({"a.npy": CLIP, "b.npy": CLIP}), "must hold one array with 5 axes, got a.npy, b.npy"),
    "deep notes.npz": (statistics("[" * 100_000), "nested too deep"),
    "notes.npz": (statistics("[]"), "damaged"),
    "huge mean.npz": (statistics(mean=header("(1125899906842624,)", "<f8")), "cut off: shape"),
    "overflowing mean.npz": (statistics(mean=header("(4611686018427387904, 4)", "<f8")), "cut off: shape"),
    "objects.npz": (statistics(mean=header("(4,)", "|O")), "holds object"),
    "shapes.npz": (statistics(mean=np.zeros(5)), "have shapes"),
    "complex.npz": (statistics(mean=np.zeros(4, complex)), "arrays are not floating point"),
    "nan.npz": (statistics(mean=np.full(4, np.nan)), "NaN"),
    "huge.npz": (statistics(mean=np.full(4, 1e300)), "beyond float32 logits"),
    "negative.npz": (statistics(scatter=-np.eye(4)), "symmetric, with a diagonal"),
    "asymmetric.npz": (statistics(scatter=np.triu(np.ones((4, 4)))), "symmetric, with a diagonal"),
    "count.npz": (statistics({"count": 10**30}), "declares .* clips"),
    "negative count.npz": (statistics({"count": -5}), "declares .* clips"),
    "text count.npz": (statistics({"count": "5"}), "declares .* clips"),
    "no count.npz": (statistics({"count": float("nan")}), "declares .* clips"),
    "frames.npz": (statistics({"frames": "nine"}), "its header is"),
    "kind.npz": (statistics({"kind": [1]}), "its header is"),
}


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_what_they_say(name: str, tmp_path: Path, random_weights: Path) -> None:
    data, said = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    other = write(tmp_path / "good.npy", np.zeros((2, 9, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=said) as caught:
        fasti3d.fvd(path, other, weights=random_weights, **OPTIONS)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    done = CliRunner().invoke(
        app, ["fvd", str(other), str(path), "--frames", "9", "--weights", str(random_weights)]
    )
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["pipe.npy", "pipe.npz"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path, random_weights: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(OSError, match="a named pipe, and a file is needed"):
        fasti3d.fvd(tmp_path / name, REAL, weights=random_weights, **OPTIONS)


def test_statistics_of_other_weights_width(tmp_path: Path, random_weights: Path) -> None:
    metric = fasti3d.FrechetVideoDistance(weights=random_weights, device="cpu")
    path = tmp_path / "a.npz"
    path.write_bytes(statistics({"weights": metric._embedding.weights["sha256"]}))
    with pytest.raises(ValueError, match="of 4 logits, and these weights give 5"):
        metric.load_statistics(path)


def test_weights_of_any_kind_are_taken(random_weights: Path) -> None:
    for weights in (torch.load(random_weights), io.BytesIO(random_weights.read_bytes())):
        metric = fasti3d.FrechetVideoDistance(weights=weights, device="cpu")
        assert len(metric.state_dict()["real"]["mean"]) == 5
