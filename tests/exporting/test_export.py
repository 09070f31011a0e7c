"""Exported files: what they compute, hold and say, where fasti3d cannot be imported, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from i3d_making import make_i3d, random_clip, randomise
from torch import Tensor, nn

import fasti3d
from fasti3d import I3D, TwoStreamI3D, compat, reference
from fasti3d.exporting import ParityError, decompositions, formats, parity
from fasti3d.exporting.fold import folded_copy
from fasti3d.exporting.record import record_of
from fasti3d.exporting.runtimes import RUNTIMES, Runtime
from fasti3d.extraction.identity import weights_digest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("short")

# What the head takes, and what takes least.
CLIP, SMALL = (24, 193, 200), (24, 12, 14)


class Small(nn.Module):
    """A network that is no I3D."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, stride=(1, 2, 2), padding=1, bias=False)
        self.bn = nn.BatchNorm3d(6)
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(torch.relu(self.bn(self.conv(x)))).mean(dim=(2, 3, 4)))


def small() -> Small:
    model = Small()
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[I3D, Any]:
    """A narrow I3D as ONNX."""
    model = make_i3d()
    model.labels = [f"class {i}" for i in range(7)]
    path = tmp_path_factory.mktemp("onnx") / "i3d.onnx"
    return model, fasti3d.export(model, path, clip=CLIP)


def run_onnx(path: Path, *clips: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path))
    names = [given.name for given in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, clips, strict=True)})


def error(actual: Any, expected: Tensor) -> float:
    actual = torch.as_tensor(actual)
    assert actual.shape == expected.shape
    return float((actual.float() - expected.float()).abs().max() / expected.float().abs().max())


@torch.no_grad()
def test_onnx_computes_the_logits_at_other_batches_and_lengths(exported: tuple[I3D, Any]) -> None:
    model, result = exported
    for n, frames in ((1, 16), (3, 24), (2, 48)):
        x = random_clip(n, 3, frames, *CLIP[1:], seed=n)
        (logits,) = run_onnx(result.path, x)
        assert error(logits, model(x)) < 1e-4
    for frames in (17, 20):
        with pytest.raises(Exception, match=r"(?i)reshape"):
            run_onnx(result.path, random_clip(1, 3, frames, *CLIP[1:]))


def test_onnx_pads_and_normalizes_in_its_convolutions(exported: tuple[I3D, Any]) -> None:
    file = onnx.load(exported[1].path)
    onnx.checker.check_model(file, full_check=True)
    assert file.opset_import[0].version >= 18
    kinds = Counter(node.op_type for node in file.graph.node)
    network = {"Conv", "Relu", "MaxPool", "Concat", "AveragePool", "ReduceMean"}
    assert kinds.keys() - network == {"Shape", "Squeeze", "Div", "Reshape"}  # which check the length
    assert kinds["Conv"] == 3 + 3 * 6 + 1
    pads = {
        tuple(attribute.ints)
        for node in file.graph.node
        for attribute in node.attribute
        if attribute.name == "pads" and node.op_type in ("Conv", "MaxPool")
    }
    assert (2, 3, 2, 3, 3, 3) in pads  # of the stem: 24 frames and 200 columns are even, 193 rows odd
    assert (0, 1, 0, 0, 1, 1) in pads  # of a pool
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in file.graph.input]
    assert sizes == [["n", 3, "8*k", 193, 200]]


def test_the_file_says_its_classes_preprocessing_and_weights(exported: tuple[I3D, Any]) -> None:
    model, result = exported
    (noted,) = onnx.load(result.path).metadata_props
    record = json.loads(noted.value)
    assert record == result.record
    assert record["classes"] == list(model.labels or ())
    assert record["weights_sha256"] == weights_digest(model)
    assert record["preprocessing"]["values"] == {"clip": "RGB: (byte - 127.5) / 127.5"}
    assert record["preprocessing"]["crop"] == [193, 200]
    data = result.path.read_bytes()
    assert str(Path(fasti3d.__file__).parent).encode() not in data
    shapes = {comparison.shape for comparison in result.comparisons}
    assert len(shapes) == 4
    assert (1, 3, *CLIP) in shapes
    assert {comparison.clips for comparison in result.comparisons} == {"noise", "a generated clip"}


ALONE = """
import sys
sys.modules["fasti3d"] = None
import numpy as np, torch
folder = sys.argv[1]
x = torch.from_numpy(np.load(folder + "/x.npy"))
found = {}
import onnxruntime
session = onnxruntime.InferenceSession(folder + "/a.onnx")
found["onnx"] = session.run(None, {"clip": x.numpy()})[0]
with torch.no_grad():
    found["export"] = torch.export.load(folder + "/b.pt2").module()(x).numpy()
    package = torch._inductor.aoti_load_package(folder + "/c.pt2")
    found["aoti"] = package(x).numpy()
    print(package.get_metadata()["fasti3d"])
np.savez(folder + "/y.npz", **found)
"""


def test_files_run_where_fasti3d_cannot_be_imported(tmp_path: Path) -> None:
    model, x = fasti3d.fuse(small()), random_clip(3, 3, *SMALL)
    one = nn.Sequential(nn.Conv3d(3, 4, 1)).eval()  # AOTInductor compiles little of it
    fasti3d.export(model, tmp_path / "a.onnx", clip=SMALL)
    archive = fasti3d.export(model, tmp_path / "b.pt2", clip=SMALL)
    package = fasti3d.export(one, tmp_path / "c.pt2", "aoti", clip=SMALL)
    np.save(tmp_path / "x.npy", x.numpy())
    done = subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "y.npz")
    with torch.no_grad():
        for name, network in {"onnx": model, "export": model, "aoti": one}.items():
            assert error(found[name], network(x)) < 1e-5, name
    noted = {"fasti3d.json": ""}
    torch.export.load(str(tmp_path / "b.pt2"), extra_files=noted)
    assert json.loads(noted["fasti3d.json"]) == archive.record
    assert json.loads(done.stdout) == package.record


@torch.no_grad()
def test_archives_refuse_lengths_that_are_no_multiple(tmp_path: Path) -> None:
    fasti3d.export(small(), tmp_path / "a.pt2", clip=SMALL)
    network = torch.export.load(str(tmp_path / "a.pt2")).module()
    assert network(random_clip(1, 3, 40, *SMALL[1:])).shape == (1, 5)
    with pytest.raises(Exception, match="8"):
        network(random_clip(1, 3, 41, *SMALL[1:]))


@torch.no_grad()
def test_endpoints_and_bytes_with_a_fixed_time(tmp_path: Path) -> None:
    model, path = make_i3d(), tmp_path / "features.onnx"
    size = (9, 193, 193)
    result = fasti3d.export(
        model, path, clip=size, outputs=["Features", "Mixed_5c"], fixed_time=True, uint8=True
    )
    assert result.outputs == ("Features", "Mixed_5c")
    x = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    expected = model.forward_endpoints(x, result.outputs)
    for name, actual in zip(result.outputs, run_onnx(path, x), strict=True):
        assert error(actual, expected[name]) < 1e-4


@torch.no_grad()
def test_two_streams_are_two_inputs(tmp_path: Path) -> None:
    model = TwoStreamI3D(make_i3d(), make_i3d(in_channels=2)).eval()
    size = (9, 193, 193)
    result = fasti3d.export(model, tmp_path / "both.onnx", clip=size, fixed_time=True)
    assert result.inputs == ("rgb", "flow")
    clips = [random_clip(1, c, *size, seed=c) for c in (3, 2)]
    (logits,) = run_onnx(result.path, *clips)
    assert error(logits, model(*clips)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / ("a.onnx" if dtype == torch.float16 else "a.pt2")
    result = fasti3d.export(small().to(dtype), path, clip=SMALL)
    assert max(comparison.error for comparison in result.comparisons) < 2e-2
    assert result.record["inputs"]["clip"]["dtype"] == str(dtype).removeprefix("torch.")


MADE: dict[str, Callable[[], nn.Module]] = {
    "I3D": lambda: I3D(5),
    "reference": lambda: reference.I3D(5),
    "pytorch-i3d": lambda: compat.InceptionI3d(5),
    "hassony2": lambda: compat.I3D(5),
}


@pytest.mark.parametrize("kind", MADE)
def test_folded_copies_hold_no_batch_norm_and_compute_the_same(kind: str) -> None:
    model = MADE[kind]()
    randomise(model)
    model.eval().requires_grad_(False)
    plain, x = folded_copy(model), random_clip(1, 3, 9, 193, 193)
    assert not any(isinstance(part, nn.BatchNorm3d) for part in plain.modules())
    expected, actual = model(x), plain(x)
    if isinstance(expected, tuple):
        expected, actual = expected[0], actual[0]
    assert error(actual, expected) < 1e-5
    assert any(isinstance(part, nn.BatchNorm3d) for part in model.modules())


@torch.no_grad()
@pytest.mark.parametrize("fused", [False, True])
def test_programs_of_torch_export_lose_our_operators_by_decompositions(fused: bool) -> None:
    model: Any = fasti3d.fuse(small()) if fused else make_i3d()
    x = random_clip(2, 3, *(SMALL if fused else (9, 193, 193)))
    program = torch.export.export(model, (x,))
    assert any("fasti3d" in str(node.target) for node in program.graph.nodes)
    plain = program.run_decompositions(decompositions())
    assert not any("fasti3d" in str(node.target) for node in plain.graph.nodes)
    assert error(plain.module()(x), model(x)) < 1e-5


RIGHT = RUNTIMES["onnx"][0]


def wrong(data: bytes) -> Any:
    """A runtime that is off by a thousandth."""
    run = RIGHT.open(data)
    return lambda clips: [1.001 * y for y in run(clips)]


def test_a_file_that_is_off_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.onnx"
    monkeypatch.setitem(parity.RUNTIMES, "onnx", (Runtime("onnxruntime", wrong, ""),))
    with pytest.raises(ParityError, match=r"off in onnxruntime .* on noise at \(1, 3, 24, 12, 14\)"):
        fasti3d.export(small(), path, clip=SMALL)
    assert list(tmp_path.iterdir()) == []


def test_without_a_runtime_the_file_is_written_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Runtime("onnxruntime_that_is_not_there", wrong, "pip install it")
    monkeypatch.setitem(parity.RUNTIMES, "onnx", (absent,))
    result = fasti3d.export(small(), tmp_path / "a.onnx", clip=SMALL)
    assert result.path.stat().st_size > 0
    assert result.comparisons == ()
    assert [skipped.why for skipped in result.skipped] == ["not installed: pip install it"]


def batch_dependent() -> nn.Module:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    return nn.Sequential(nn.Conv3d(3, 3, 1), Branching()).eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "a.tflite"}, r"must end in \.onnx or \.pt2"),
        ({"path": "a.pt2", "format": "onnx"}, r"must end in \.onnx"),
        ({"format": "tflite"}, "format must be one of onnx, torch-export, aoti"),
        ({"path": "gone/a.onnx"}, "is not a folder: create it"),
        ({"path": "there.onnx"}, "is there already"),
        ({"model": None}, "model must be a torch.nn.Module, got NoneType"),
        ({"model": small().train()}, "model must be in eval mode"),
        ({"model": small().double()}, "model must be in torch.float32"),
        ({"model": small().bfloat16()}, "model must be in float32 or float16 for ONNX"),
        ({"model": nn.Sequential(nn.ReLU()).eval()}, "does not say how many channels"),
        ({"model": batch_dependent()}, "model cannot be exported by torch.export"),
        ({"clip": (24, 12)}, r"clip must be three sizes above 0"),
        ({"clip": (20, 12, 14)}, "a multiple of 8"),
        ({"outputs": ["Logits"]}, "outputs are for an I3D"),
        ({"uint8": True, "model": nn.Sequential(nn.Conv3d(2, 3, 1)).eval()}, "uint8 is for networks of RGB"),
    ],
)
def test_what_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_bytes(b"mine")
    given: dict[str, Any] = {"model": small(), "path": "a.onnx", "clip": SMALL} | change
    model, path = given.pop("model"), tmp_path / given.pop("path")
    with pytest.raises((ValueError, OSError, TypeError), match=message):
        fasti3d.export(model, path, **given)
    assert [file.name for file in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"


def test_missing_tools_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(formats.shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxscript: pip install 'fasti3d\[export\]'"):
        fasti3d.export(small(), tmp_path / "a.onnx", clip=SMALL)
    with pytest.raises(ImportError, match=r"no C\+\+ compiler"):
        fasti3d.export(small(), tmp_path / "a.pt2", "aoti", clip=SMALL)


def test_i3d_resnets_say_their_preprocessing(tmp_path: Path) -> None:
    model = fasti3d.I3DResNet("mmaction2-32x2", num_classes=3).eval()
    result = fasti3d.export(model, tmp_path / "resnet.pt2", clip=(8, 64, 64), fixed_time=True, uint8=True)
    assert max(comparison.error for comparison in result.comparisons) < 1e-4
    its = result.record["preprocessing"]
    assert (its["name"], its["frame_step"]) == ("mmaction2-32x2", 2)
    assert its["values"] == {"clip": "RGB bytes"}
    said = record_of(model, ["clip"], [3], ["logits"], (8, 64, 64), torch.float32, True)
    assert said["preprocessing"]["values"] == {
        "clip": "RGB: (byte - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]"
    }
