"""Usual calling code of kinetics_i3d_pytorch's users, with only the import line changed."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from i3d_making import random_clip as clip
from torch import nn

from fasti3d import network, reference
from fasti3d.compat.hassony2 import I3D

# The fused path against the ordinary one: float32, another order of summation.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}

# The port's names for the parts of a Mixed block, and of a unit.
BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}


def port_key(key: str) -> str:
    """A key of the reference's state dict, as the port spells it."""
    if key.startswith("logits."):
        return key.replace("logits", "conv3d_0c_1x1", 1)
    parts = [BRANCHES.get(part, part) for part in key.replace(".bn.", ".batch3d.").split(".")]
    return ".".join([parts[0][0].lower() + parts[0][1:], *parts[1:]])


@pytest.fixture(scope="module")
def checkpoint(plain: reference.I3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The port's model_rgb.pth, which is so old that it has no batch counters."""
    state = {port_key(key): v for key, v in plain.state_dict().items() if "num_batches" not in key}
    path = tmp_path_factory.mktemp("model") / "model_rgb.pth"
    torch.save(state, path)
    return path


def test_demo_script(checkpoint: Path, plain: reference.I3D) -> None:
    i3d_rgb = I3D(num_classes=400, modality="rgb")
    i3d_rgb.eval()
    i3d_rgb.load_state_dict(torch.load(checkpoint))
    sample = clip(1, 3, 17, 193, 193)
    with torch.no_grad():
        out_var, out_logit = i3d_rgb(sample)
        expected = plain(sample)
        assert i3d_rgb._plan is not None, "eval mode without gradients runs fused"
    assert out_var.shape == out_logit.shape == (1, 400)
    torch.testing.assert_close(out_logit, expected, **FLOAT32)
    torch.testing.assert_close(out_var, torch.softmax(expected, 1), **FLOAT32)
    top_val, top_idx = torch.sort(out_var.data.cpu(), 1, descending=True)
    assert top_idx[0, 0] == expected.argmax()
    assert top_val[0, 0] == out_var.max()


def test_two_streams() -> None:
    streams = {"rgb": I3D(9, modality="rgb").eval(), "flow": I3D(9, modality="flow", dropout_prob=0.5).eval()}
    with torch.no_grad():
        logits = [
            model(clip(1, 3 if modality == "rgb" else 2, 9, 193, 193))[1]
            for modality, model in streams.items()
        ]
    assert torch.softmax(logits[0] + logits[1], 1).sum().item() == pytest.approx(1.0)
    assert (streams["flow"].dropout.p, streams["rgb"].dropout.p) == (0.5, 0)


def test_fine_tuning(checkpoint: Path, tmp_path: Path) -> None:
    """Replaces the classifier, freezes the trunk below the last block by the port's names, takes a step."""
    model = I3D(400)
    model.load_state_dict(torch.load(checkpoint))
    model.conv3d_0c_1x1 = nn.Conv3d(network.FEATURE_CHANNELS, 6, 1)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("mixed_5c", "conv3d_0c_1x1"))
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    inputs, label = clip(1, 3, 9, 193, 193), torch.tensor([4])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _, logits = model(inputs)
    nn.functional.cross_entropy(logits, label).backward()
    optimizer.step()
    changed = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"mixed_5c", "conv3d_0c_1x1"}

    torch.save(model.state_dict(), tmp_path / "tuned.pth")
    again = I3D(6).eval()
    tuned = torch.load(tmp_path / "tuned.pth")
    again.load_state_dict({k.replace("0c_1x1.", "0c_1x1.conv3d."): v for k, v in tuned.items()})
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(again(inputs)[1], model(inputs)[1], **FLOAT32)


def test_keys_are_the_ports(plain: reference.I3D) -> None:
    model = I3D(400)
    assert list(model.state_dict()) == [port_key(key) for key in plain.state_dict()]
    for key in (
        "conv3d_1a_7x7.batch3d.running_var",
        "mixed_3b.branch_0.conv3d.weight",
        "mixed_4f.branch_2.1.batch3d.bias",
        "mixed_5c.branch_3.1.conv3d.weight",
        "conv3d_0c_1x1.conv3d.bias",
    ):
        assert key in model.state_dict()
    assert [name for name, _ in model.named_parameters()] == [
        port_key(name) for name, _ in plain.named_parameters()
    ]


def test_attributes_are_the_ports() -> None:
    model = I3D(7, "flow", 0.2, "stream")
    assert (model.num_classes, model.modality, model.name) == (7, "flow", "stream")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
    assert isinstance(model.maxPool3d_2a_3x3, reference.MaxPool3dSame)
    assert model.conv3d_1a_7x7.conv3d.weight.shape[1] == 2


def test_fasti3d_names_reach_the_same_modules() -> None:
    model = I3D(5)
    for name in network.TRUNK:
        assert getattr(model, name) is getattr(model, name[0].lower() + name[1:])
    assert model.Mixed_4b.b1b.bn is model.mixed_4b.branch_1[1].batch3d
    model.replace_logits(3)
    assert model.logits is model.conv3d_0c_1x1
    assert "logits" not in dict(model.named_children())
    with pytest.raises(AttributeError, match="mixed_6a"):
        _ = model.mixed_6a


@torch.no_grad()
def test_larger_clips_keep_their_positions(checkpoint: Path, plain: reference.I3D) -> None:
    model = I3D(400).eval()
    model.load_state_dict(torch.load(checkpoint))
    sample = clip(1, 3, 9, 225, 230)
    probabilities, logits = model(sample)
    assert logits.shape == (1, 400, 2, 2)
    torch.testing.assert_close(logits.mean(dim=(2, 3)), plain(sample), **FLOAT32)
    torch.testing.assert_close(probabilities, logits.softmax(1))


@torch.no_grad()
def test_hooks_on_the_ports_containers_fire() -> None:
    model = I3D(5).eval()
    seen: list[str] = []
    model.mixed_3c.branch_1.register_forward_hook(lambda *_: seen.append("mixed_3c.branch_1"))
    model.softmax.register_forward_hook(lambda *_: seen.append("softmax"))
    model(clip(1, 3, 9, 193, 193))
    assert seen == ["mixed_3c.branch_1", "softmax"]


@torch.no_grad()
def test_edits_and_copies_show_in_the_output() -> None:
    model = I3D(5).eval()
    inputs = clip(2, 3, 5, 40, 36)
    before = model.forward_features(inputs)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert torch.equal(twin.forward_features(inputs), before)
    twin.mixed_5c.branch_3[1].batch3d.bias += 1
    assert not torch.allclose(twin.forward_features(inputs), before)
    assert torch.equal(model.forward_features(inputs), before)


@torch.no_grad()
def test_sync_batch_norm_conversion_keeps_keys_and_outputs() -> None:
    model = I3D(5).eval()
    inputs = clip(2, 3, 5, 40, 36)
    before, keys = model.forward_features(inputs), list(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(converted.mixed_3b.branch_1[0].batch3d, nn.SyncBatchNorm)
    assert list(converted.state_dict()) == keys
    torch.testing.assert_close(converted.forward_features(inputs), before, **FLOAT32)


def test_unknown_modality() -> None:
    with pytest.raises(ValueError, match=r"depth not among known modalities \[rgb\|flow\]"):
        I3D(400, modality="depth")


def test_clip_too_short_for_the_head() -> None:
    with pytest.raises(ValueError, match="at least 9 frames"):
        I3D(5).eval()(clip(1, 3, 8, 193, 193))
