"""The backbone in the registries of mmengine and mmaction2."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from i3d_making import make_i3d, random_clip, randomise
from torch import Tensor, nn

from fasti3d import I3D, network
from fasti3d.weights import WeightsError

pytest.importorskip("mmengine")

from mmengine.model import BaseModule
from mmengine.registry import MODELS

from fasti3d.compat import mmaction
from fasti3d.compat.mmaction import FastI3D

CLIP = (1, 3, 16, 64, 64)


def build(**options: object) -> FastI3D:
    backbone = MODELS.build({"type": "FastI3D", **options})
    randomise(backbone)
    return backbone.eval()


def trained(backbone: FastI3D) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def test_the_map_is_that_of_the_network() -> None:
    backbone = build()
    model = make_i3d()
    found = model.load_state_dict(backbone.state_dict(), strict=False)
    assert found.missing_keys == ["logits.conv3d.weight", "logits.conv3d.bias"]
    assert not found.unexpected_keys
    clip = random_clip(*CLIP)
    with torch.no_grad():
        maps = backbone(clip)
        assert torch.equal(maps, model.forward_features(clip))
        assert build(in_channels=2)(random_clip(1, 2, 3, 33, 40)).shape[2:] == (1, 2, 2)
    assert maps.shape == (1, network.FEATURE_CHANNELS, 2, 2, 2)
    assert backbone._plan is not None, "eval mode without gradients runs fused"


class Head(BaseModule):
    """As I3DHead of mmaction2: the mean of the map, then a linear layer."""

    def __init__(self) -> None:
        super().__init__(init_cfg={"type": "Normal", "layer": "Linear", "std": 0.01})
        self.fc_cls = nn.Linear(network.FEATURE_CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_cls(x.mean(dim=(2, 3, 4)))


class Recognizer(BaseModule):
    def __init__(self, backbone: dict[str, object]) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.cls_head = Head()

    def forward(self, x: Tensor) -> Tensor:
        return self.cls_head(self.backbone(x))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Path:
    """A network with its classifier."""
    return make_i3d().save_pretrained(tmp_path_factory.mktemp("i3d"))


def test_a_recognizer_initializes_and_trains_it(saved: Path) -> None:
    model = Recognizer({"type": "FastI3D", "pretrained": str(saved), "frozen_stages": 1})
    model.init_weights()
    expected = make_i3d().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.backbone.state_dict().items())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()
    nn.functional.cross_entropy(model(random_clip(*CLIP)), torch.tensor([2])).backward()
    assert model.backbone._trained is not None, "the training step of fasti3d runs"
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad), "as DDP needs it"
    optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    frozen = ("backbone.Conv3d_1a_7x7.", "backbone.Conv3d_2b_1x1.", "backbone.Conv3d_2c_3x3.")
    assert not [name for name in changed if name.startswith(frozen)]
    assert changed >= {name for name in before if "3d.weight" in name and not name.startswith(frozen)}


@pytest.mark.parametrize(
    ("stage", "last"), [(-1, None), (0, "Conv3d_1a_7x7"), (2, "Mixed_3c"), (4, "Mixed_5c")]
)
def test_frozen_stages(stage: int, last: str | None) -> None:
    backbone = build(frozen_stages=stage).train()
    names = list(network.TRUNK)
    frozen = names[: names.index(last) + 1] if last else []
    assert {name.split(".")[0] for name in trained(backbone)} == {
        name for name in names if name not in frozen and not name.startswith("MaxPool")
    }
    modes = {name: getattr(backbone, name).training for name in names}
    assert modes == {name: name not in frozen for name in names}


def test_norm_eval_keeps_statistics_and_trains_scales() -> None:
    backbone = build(norm_eval=True)
    before = backbone.Mixed_5c.b0.bn.running_mean.clone()
    backbone.train()
    backbone(random_clip(*CLIP)).sum().backward()
    assert torch.equal(backbone.Mixed_5c.b0.bn.running_mean, before)
    assert backbone.Mixed_5c.b0.bn.weight.grad is not None
    assert backbone.training
    assert not build().train().Mixed_5c.b0.bn.weight.grad
    assert build().train().Mixed_5c.b0.bn.training


def test_the_backbone_s_own_weights_load_without_a_classifier(tmp_path: Path) -> None:
    backbone = build()
    torch.save({"state_dict": backbone.state_dict()}, tmp_path / "backbone.pth")
    other = build(pretrained=tmp_path / "backbone.pth")
    nn.init.zeros_(other.Conv3d_1a_7x7.conv3d.weight)
    other.init_weights()
    assert torch.equal(other.Conv3d_1a_7x7.conv3d.weight, backbone.Conv3d_1a_7x7.conv3d.weight)


def test_mmengine_s_own_pretrained(tmp_path: Path) -> None:
    """``init_cfg`` takes a file of pytorch-i3d's names, whose classifier it leaves out."""
    torch.save(make_i3d().state_dict(), tmp_path / "rgb.pth")
    checkpoint = {"type": "Pretrained", "checkpoint": str(tmp_path / "rgb.pth")}
    backbone = MODELS.build({"type": "FastI3D", "init_cfg": checkpoint})
    backbone.init_weights()
    assert torch.equal(backbone.Mixed_5c.b3b.conv3d.weight, make_i3d().Mixed_5c.b3b.conv3d.weight)


def test_errors_say_what_to_do(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"frozen_stages must be -1 \(none\) to 4, got 5"):
        FastI3D(frozen_stages=5)
    with pytest.raises(WeightsError, match=r"(?s)does not fit a trunk of 2 input channels.*Conv3d_1a_7x7"):
        FastI3D(2, str(saved)).init_weights()
    with pytest.raises(WeightsError, match="neither a file nor public weights"):
        FastI3D(pretrained="kinetics").init_weights()


def test_mmaction_s_registry_comes_first() -> None:
    code = """
import sys, types
from mmengine import registry
mmaction = types.ModuleType("mmaction")
mmaction.registry = types.ModuleType("mmaction.registry")
mmaction.registry.MODELS = registry.Registry("model", parent=registry.MODELS, scope="mmaction")
sys.modules |= {"mmaction": mmaction, "mmaction.registry": mmaction.registry}
import fasti3d.compat.mmaction
print("FastI3D" in mmaction.registry.MODELS.module_dict, "FastI3D" in registry.MODELS.module_dict)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True False", done.stderr


def test_without_mmengine_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmengine.model", None)
    for name in [name for name in sys.modules if name.split(".")[:2] == ["fasti3d", "compat"]]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("fasti3d.compat")  # which does not need it
    with pytest.raises(ImportError, match="pip install mmengine"):
        importlib.import_module("fasti3d.compat.mmaction")


def test_it_is_a_network_of_fasti3d() -> None:
    assert isinstance(build(), I3D)
    assert build().why_not_fused() == ""


def test_the_example() -> None:
    found = doctest.testmod(mmaction, extraglobs={"torch": torch})
    assert found.attempted
    assert not found.failed
