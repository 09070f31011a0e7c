"""Networks by name: create_model, list_models, and the entry points of torch.hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from i3d_making import make_i3d

import fasti3d
from fasti3d import catalog
from fasti3d.weights import WeightsError, registry

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.usefixtures("narrow")


@pytest.fixture(scope="module")
def rgb(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Path:
    """Weights of 7 classes with names."""
    model = make_i3d()
    model.labels = [f"class {i}" for i in range(7)]
    return model.save_pretrained(tmp_path_factory.mktemp("rgb"))


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Path:
    return make_i3d(in_channels=2).save_pretrained(tmp_path_factory.mktemp("flow"))


def test_each_name_builds_the_network_that_it_says() -> None:
    names = fasti3d.list_models()
    assert names == ["i3d_flow", "i3d_resnet", "i3d_rgb", "i3d_two_stream"]
    built = {
        name: fasti3d.create_model(name, num_classes=5, dropout=0.25)
        for name in names
        if name != "i3d_resnet"
    }
    assert {name: type(model) for name, model in built.items()} == {
        "i3d_flow": fasti3d.I3D,
        "i3d_rgb": fasti3d.I3D,
        "i3d_two_stream": fasti3d.TwoStreamI3D,
    }
    both = built["i3d_two_stream"]
    for model, channels in (
        (built["i3d_rgb"], 3),
        (built["i3d_flow"], 2),
        (both.rgb, 3),
        (both.flow, 2),
    ):
        assert (model.num_classes, model.in_channels, model.dropout.p) == (5, channels, 0.25)
        assert model.training


def test_a_resnet_has_a_variant() -> None:
    with torch.device("meta"):
        model = fasti3d.create_model("i3d_resnet", variant="slow-8x8", num_classes=5, dropout=0.25)
    assert isinstance(model, fasti3d.I3DResNet)
    assert (model.variant, model.num_classes, model.dropout.p) == ("slow-8x8", 5, 0.25)
    with pytest.raises(ValueError, match="i3d_resnet needs variant=, one of 'caffe2-32x2'"):
        fasti3d.create_model("i3d_resnet")
    with pytest.raises(ValueError, match="in_channels of i3d_resnet must be 3, got 2"):
        fasti3d.create_model("i3d_resnet", variant="slow-8x8", in_channels=2)


def test_patterns() -> None:
    assert fasti3d.list_models("two") == ["i3d_two_stream"]
    assert fasti3d.list_models("i3d_?g*") == ["i3d_rgb"]
    assert fasti3d.list_models("resnext") == []


def test_a_network_has_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**arguments: Any) -> dict[str, Any]:
        return arguments

    monkeypatch.setitem(catalog.NETWORKS, "i3d_r50_rgb", catalog.Network(3, build))
    assert fasti3d.list_models("r50") == ["i3d_r50_rgb"]
    assert fasti3d.create_model("i3d_r50_rgb", num_classes=3, width=2) == {
        "weights": None,
        "num_classes": 3,
        "in_channels": None,
        "width": 2,
    }


def test_weights_bring_classes_and_labels(rgb: Path) -> None:
    model = fasti3d.create_model("i3d_rgb", weights=rgb)
    assert (model.num_classes, model.labels[6]) == (7, "class 6")
    for key, tensor in make_i3d().state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)


def test_other_classes_keep_the_trunk_and_have_a_new_classifier(rgb: Path) -> None:
    model = fasti3d.create_model("i3d_rgb", weights=rgb, num_classes=20)
    assert (model.num_classes, model.labels) == (20, None)
    assert torch.equal(model.Mixed_5c.b0.conv3d.weight, make_i3d().Mixed_5c.b0.conv3d.weight)
    assert fasti3d.create_model("i3d_rgb", weights=rgb, num_classes=7).labels is not None


def test_two_streams_take_a_pair(rgb: Path, flow: Path) -> None:
    model = fasti3d.create_model("i3d_two_stream", weights=(rgb, flow))
    for stream, channels in (model.rgb, 3), (model.flow, 2):
        stem = make_i3d(in_channels=channels).Conv3d_1a_7x7.conv3d.weight
        assert torch.equal(stream.Conv3d_1a_7x7.conv3d.weight, stem)
    assert model.labels == model.rgb.labels
    with pytest.raises(ValueError, match=r"must be a pair, \(rgb, flow\), got str: give both"):
        fasti3d.create_model("i3d_two_stream", weights=str(rgb))
    with pytest.raises(ValueError, match=r"in_channels of i3d_two_stream are 3 and 2.*got 3: leave it out"):
        fasti3d.create_model("i3d_two_stream", in_channels=3)


def test_channels_must_be_those_of_the_network(rgb: Path, flow: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights must take 3 channels.*take 2: create 'i3d_flow'"):
        fasti3d.create_model("i3d_rgb", weights=flow)
    with pytest.raises(ValueError, match=r"weights must take 4 channels.*take 3: create 'i3d_rgb'"):
        fasti3d.create_model("i3d_rgb", weights=rgb, in_channels=4)
    make_i3d(in_channels=5).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="take 5: say in_channels=5"):
        fasti3d.create_model("i3d_rgb", weights=tmp_path)
    assert fasti3d.create_model("i3d_rgb", weights=tmp_path, in_channels=5).in_channels == 5
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        fasti3d.create_model("i3d_rgb", in_channels=0)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("I3D", "i3d_rgb"), ("i3d-flow", "'i3d_flow'"), ("two-stream", "'i3d_two_stream'"), ("resnet50", "")],
)
def test_an_unknown_name_is_told_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=rf"{wrong}.*{right}.*list_models\(\)"):
        fasti3d.create_model(wrong)


def test_the_name_of_weights_is_told_the_network() -> None:
    for name, entry in registry().items():
        its = entry.backbone
        remedy = {
            "i3d": f"create_model('i3d_{entry.stream}', weights='{name}')",
            "i3d-resnet": f"create_model('i3d_resnet', variant='{its.variant}', weights='{name}')",
            "video-resnet": f"weights of {its.network}, for fasti3d.extract and fasti3d.classify",
        }[its.family]
        with pytest.raises(ValueError, match=re.escape(remedy)):
            fasti3d.create_model(name)


def test_names_are_told_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import fasti3d; print(fasti3d.list_models())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(fasti3d.list_models()), done.stderr


# ---------------------------------------------------------------- torch.hub


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch) -> str:
    """The repository, which torch.hub.list and help, unlike load, would fetch from GitHub."""
    monkeypatch.setattr(torch.hub, "_get_cache_or_reload", lambda *_, **__: str(ROOT))
    return "fasti3d/fasti3d"


def test_the_hub_has_the_same_names_and_says_what_they_are(checkout: str) -> None:
    assert sorted(torch.hub.list(checkout, verbose=False)) == fasti3d.list_models()
    for name in fasti3d.list_models():
        assert "-> logits (N, num_classes)" in torch.hub.help(checkout, name)


def test_the_hub_loads(rgb: Path) -> None:
    model = torch.hub.load(str(ROOT), "i3d_rgb", source="local", weights=str(rgb), num_classes=3)
    assert (type(model), model.num_classes) == (fasti3d.I3D, 3)
    assert torch.equal(model.Mixed_5c.b0.conv3d.weight, make_i3d().Mixed_5c.b0.conv3d.weight)
    assert torch.hub.load(str(ROOT), "i3d_flow", source="local", num_classes=2).in_channels == 2
    assert torch.hub.load(str(ROOT), "i3d_two_stream", source="local", num_classes=2).flow.num_classes == 2
    with pytest.raises(WeightsError, match="neither a file nor public weights"):
        torch.hub.load(str(ROOT), "i3d_rgb", source="local", weights="kinetics-400")


def test_a_checkout_without_extension_needs_no_more_than_it_names(tmp_path: Path) -> None:
    """What else pyproject.toml names may be missing, and nothing is built."""
    checkout = tmp_path / "fasti3d"
    shutil.copytree(
        ROOT / "fasti3d", checkout / "fasti3d", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    shutil.copy(ROOT / "hubconf.py", checkout)
    code = """
import json, sys
for name in ("av", "typer", "rich", "matplotlib"):
    sys.modules[name] = None
import torch
model = torch.hub.load(sys.argv[1], "i3d_flow", source="local", num_classes=3)
import fasti3d
from fasti3d.runtime import extension
path = model.save_pretrained(sys.argv[2])
again = torch.hub.load(sys.argv[1], "i3d_flow", source="local", weights=path)
clip = torch.rand(1, 2, 3, 16, 16) * 2 - 1
with torch.no_grad():
    maps = [m.eval().forward_endpoints(clip, ["Conv3d_2b_1x1"])["Conv3d_2b_1x1"] for m in (model, again)]
print(json.dumps([fasti3d.__file__, extension.CORE is None, torch.equal(*maps), list(maps[0].shape)]))
"""
    done = subprocess.run(
        # -S keeps the hook of an editable install from adding its own extension.
        [sys.executable, "-S", "-c", code, str(checkout), str(tmp_path / "saved")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(sysconfig.get_path, ("purelib", "platlib")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    home = str(checkout / "fasti3d" / "__init__.py")
    assert json.loads(done.stdout) == [home, True, True, [1, 64, 2, 4, 4]]
