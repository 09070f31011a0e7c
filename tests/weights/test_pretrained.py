"""``from_pretrained`` and ``save_pretrained``: a network from a folder, and back bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from i3d_making import make_i3d

from fasti3d import I3D, compat
from fasti3d.utils.hashing import sha256
from fasti3d.weights import WeightsError, load


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """The same names, dtypes and bits."""
    found, expected = first.state_dict(), second.state_dict()
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    model = make_i3d(5, 2)
    model.Mixed_3b.b0.bn.num_batches_tracked.fill_(9)
    model.labels = ["a", "b", "c", "d", "é"]
    path = model.save_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "model.safetensors"
    for source in (path, path.parent, str(path.parent)):
        found = I3D.from_pretrained(source, dropout=0.1)
        assert (found.num_classes, found.in_channels, found.dropout.p) == (5, 2, 0.1)
        assert found.labels == ("a", "b", "c", "d", "é")
        assert not any(module.training for module in found.modules())
        assert_same(found, model)
    content = path.read_bytes()
    assert found.save_pretrained(path.parent).read_bytes() == content, "the same network, the same file"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_after_its_cast(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make_i3d().to(dtype)
    found = I3D.from_pretrained(model.save_pretrained(tmp_path))
    assert found.logits.conv3d.weight.dtype == torch.float32
    assert_same(found.to(dtype), model)


def test_a_state_dict_of_torch_in_a_folder(tmp_path: Path) -> None:
    """A snapshot of a hub, where files are links into another folder; safetensors come first."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    (snapshot / "config.json").write_text("{}")
    (snapshot / "README.md").write_text("Weights.")
    torch.save(make_i3d(4).state_dict(), blobs / "1")
    (snapshot / "pytorch_model.bin").symlink_to(blobs / "1")
    assert_same(I3D.from_pretrained(snapshot), make_i3d(4))
    os.replace(make_i3d(6).save_pretrained(tmp_path), blobs / "2")
    (snapshot / "model.safetensors").symlink_to(blobs / "2")
    assert I3D.from_pretrained(snapshot).num_classes == 6
    assert I3D(weights=snapshot).num_classes == 6
    for i in range(5):
        (snapshot / f"part{i}.safetensors").touch()
    with pytest.raises(
        WeightsError, match=r"holds 6 weights files: give the path of one of model.*part2.*\.\.\."
    ):
        I3D.from_pretrained(snapshot)


def test_a_public_name(home: Path) -> None:
    (home / "weights").mkdir(parents=True)
    path = make_i3d(400).save_pretrained(home)
    path = path.rename(home / "weights" / "hassony2-rgb.safetensors")
    path.with_suffix(".json").write_text(json.dumps({"sha256": sha256(path)}))
    assert_same(I3D.from_pretrained("hassony2-rgb"), make_i3d(400))


def test_classes_of_the_ports(tmp_path: Path) -> None:
    make_i3d(5, 2).save_pretrained(tmp_path)
    first = compat.InceptionI3d.from_pretrained(tmp_path, spatial_squeeze=False)
    assert (type(first), first.num_classes, first._spatial_squeeze) == (compat.InceptionI3d, 5, False)
    second = compat.I3D.from_pretrained(tmp_path)
    assert (type(second), second.modality, second.num_classes) == (compat.I3D, "flow", 5)
    # Written under fasti3d's names, whatever the class calls its parts.
    second.save_pretrained(tmp_path / "again")
    assert_same(I3D.from_pretrained(tmp_path / "again"), make_i3d(5, 2))


def test_what_cannot_be_saved_is_said(tmp_path: Path) -> None:
    model = make_i3d()
    with torch.no_grad():
        model.logits.conv3d.bias[0] = float("nan")
    with pytest.raises(WeightsError, match=r"logits\.conv3d\.bias has infinite or NaN values"):
        model.save_pretrained(tmp_path)
    model = make_i3d()
    model.Mixed_5c = torch.nn.Identity()
    with pytest.raises(WeightsError, match=r"not a complete I3D: missing: Mixed_5c"):
        model.save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"the folder .*file cannot be created: File exists"):
        make_i3d().save_pretrained(tmp_path / "file")


def test_the_origin_is_of_the_numbers(tmp_path: Path) -> None:
    first = load(make_i3d(seed=1).save_pretrained(tmp_path / "1"))
    again = load(make_i3d(seed=1).save_pretrained(tmp_path / "2"))
    other = load(make_i3d(seed=2).save_pretrained(tmp_path / "3"))
    assert first.sha256 == again.sha256 != other.sha256
