"""Public I3D-ResNet weights by name: fetched and checked by the hash in a file's name, or never fetched."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from resnet_making import make
from typer.testing import CliRunner

import fasti3d
from fasti3d.backbone import Backbone
from fasti3d.cli import app
from fasti3d.models import load_backbone
from fasti3d.resnet.variants import VARIANTS
from fasti3d.weights import KINETICS_400_LABELS, WeightsError, get, load, load_resnet, registry
from fasti3d.weights.entry import NamedByHash, UserFile
from fasti3d.weights.resnet_formats import NAMINGS

pytestmark = pytest.mark.usefixtures("narrow")

ENTRIES = "fasti3d.weights.published._ENTRIES"
NAME = "mmaction2-i3d-r50-nl-dot-product"


@pytest.fixture(scope="module")
def published(narrow, tmp_path_factory) -> bytes:
    """A file of mmaction2's, whose blocks may also be embedded_gaussian."""
    theirs = {ours: its for its, ours in next(n for n in NAMINGS if n.name == "mmaction2").keys().items()}
    state = make("mmaction2-32x2", "dot_product", classes=400).state_dict()
    path = tmp_path_factory.mktemp("published") / "file.pth"
    torch.save({"state_dict": {theirs[key]: t for key, t in state.items() if key in theirs}}, path)
    return path.read_bytes()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture
def filename(published, monkeypatch) -> str:
    """Of the registry's entry, which stands for the published bytes."""
    name = f"i3d_20220812-{hashlib.sha256(published).hexdigest()[:8]}.pth"
    entry = replace(registry()[NAME], download=NamedByHash(name, "https://nowhere.invalid/file"))
    monkeypatch.setattr(ENTRIES, (entry,))
    return name


def test_a_download_is_checked_by_the_hash_in_its_name(published, filename, home, monkeypatch):
    sent = [published[:-1] + b"?", published]

    def download(address, part, progress, *, size=None):
        part.write_bytes(sent.pop(0))

    monkeypatch.setattr("fasti3d.weights.cache.http_download", download)
    with pytest.raises(WeightsError, match=f"not the published one .SHA-256 {filename[13:21]}"):
        get(NAME)
    checkpoint = load_resnet(NAME)
    assert sent == []
    assert (checkpoint.variants, checkpoint.non_local) == (("mmaction2-32x2",), ("dot_product",))
    assert checkpoint.sha256 == hashlib.sha256(published).hexdigest()
    assert checkpoint.labels == KINETICS_400_LABELS
    model = load_backbone(NAME, Backbone("i3d-r50", "mmaction2-32x2"), device="cpu")
    assert (model.non_local, model.table.preprocessing.normalization) == ("dot_product", "imagenet")
    assert {path.name for path in home.iterdir()} == {
        f"{NAME}.{end}" for end in ("json", "lock", "safetensors")
    }


def test_a_file_of_the_user_is_known_by_its_hash_and_held_to_its_name(published, filename, tmp_path):
    (tmp_path / "mine.pth").write_bytes(published)
    model = fasti3d.I3DResNet.from_pretrained(tmp_path / "mine.pth")
    assert (model.non_local, model.labels) == ("dot_product", KINETICS_400_LABELS)
    assert fasti3d.weights.load_resnet(tmp_path / "mine.pth").source == registry()[NAME].source
    damaged = tmp_path / filename
    damaged.write_bytes(published + b"?")
    with pytest.raises(
        WeightsError, match=rf"whose SHA-256 begins with {filename[13:21]}, but its own begins with .*again"
    ):
        load_resnet(damaged)


def test_what_is_never_fetched_is_read_where_it_lies(published, home, monkeypatch):
    entry = registry()["caffe2-i3d-r50"]
    with pytest.raises(WeightsError, match=r"never fetched, since its licence, CC-BY-NC-4\.0.*give its path"):
        get(entry.name)
    mine = replace(registry()[NAME], download=UserFile("mine.pth", "somewhere", "it is mine"))
    monkeypatch.setattr(ENTRIES, (mine,))
    (home / "mine.pth").write_bytes(published)
    assert load_resnet(NAME).non_local == ("dot_product",)
    assert (home / "mine.pth").exists()


def test_names_of_other_networks_are_refused():
    with pytest.raises(
        WeightsError, match="is of the network i3d-r50 mmaction2-32x2, which does not fit here"
    ):
        load("mmaction2-i3d-r50")
    with pytest.raises(WeightsError, match=r"kinetics400-rgb is of the network i3d, .*choose from mmaction2"):
        load_resnet("kinetics400-rgb")
    with pytest.raises(ValueError, match=r"create_model\('i3d_resnet', variant='caffe2-32x2', weights="):
        fasti3d.create_model("caffe2-i3d-r50")


def test_the_list_says_what_is_known():
    for entry in registry().values():
        variant = entry.backbone.variant
        if variant is not None:
            assert variant in VARIANTS
            assert entry.accuracy is not None
            assert entry.accuracy[0] < entry.accuracy[1]
            mmaction2 = entry.name.startswith("mmaction2")
            assert entry.preprocessing.startswith("mmaction2") == mmaction2
    said = CliRunner().invoke(app, ["weights", "list"]).stdout
    shown = " ".join(said[said.index("caffe2-i3d-r50-nl") :].split())  # however wide the terminal is
    assert "CC-BY-NC-4.0" in shown.partition("never fetched")[0]
    assert "i3d-r50 caffe2-32x2 embedded_gaussian; prepared as caffe2-32x2; top-1 74.90, top-5 91.60" in shown
