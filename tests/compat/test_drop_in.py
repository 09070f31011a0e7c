"""What code written for the two ports reads, edits and calls."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from i3d_making import random_clip, randomise
from tolerances import assert_close
from torch import Tensor, nn, optim
from torch.autograd import Variable

from fasti3d import I3D, compat, inputs, network, reference, weights
from fasti3d.compat import hassony2, pytorch_i3d
from fasti3d.compat.pytorch_i3d import InceptionI3d, MaxPool3dSamePadding, Unit3D

SMALL = (1, 3, 5, 17, 20)
WITH_HEAD = (1, 3, 9, 193, 193)


def make(kind: Callable[[int], I3D], classes: int = 5) -> Any:
    model = kind(classes)
    randomise(model)
    return model.eval()


@torch.no_grad()
def assert_as_plain(model: Any, x: Tensor, *, fused: bool) -> Tensor:
    model._plan = None
    y = model.forward_features(x)
    assert_close("i3d", y, reference.I3D.forward_endpoints(model, x, ["Mixed_5c"])["Mixed_5c"])
    assert (model._plan is not None) == fused
    return y


# ---------------------------------------------------------------- pytorch-i3d


def test_units_have_the_ports_attributes() -> None:
    model = InceptionI3d(5)
    stem, inner = model.Conv3d_1a_7x7, model.Mixed_3b.b1b
    assert (stem._kernel_shape, stem._stride, stem._output_channels) == ([7, 7, 7], (2, 2, 2), 24)
    assert (stem._use_batch_norm, stem._use_bias, stem._activation_fn) == (True, False, F.relu)
    assert (stem.padding, stem.name) == ((3, 3, 3), "inception_i3dConv3d_1a_7x7")
    assert (inner.name, inner.padding) == ("inception_i3dMixed_3b/Branch_1/Conv3d_0b_3x3", 0)
    assert model.Mixed_3b.name == "inception_i3dMixed_3b"
    assert [stem.compute_pad(0, size) for size in (64, 65, 1)] == [5, 6, 6]
    logits = model.logits
    assert (logits._use_batch_norm, logits._use_bias, logits._activation_fn) == (False, True, None)
    assert (logits.name, logits._kernel_shape) == ("logits", [1, 1, 1])
    for name, part in model.named_modules():
        assert isinstance(part, nn.MaxPool3d) == ("MaxPool" in name or name.endswith("b3a"))
    assert isinstance(model.MaxPool3d_5a_2x2, MaxPool3dSamePadding)
    assert (model.MaxPool3d_5a_2x2.kernel_size, model.MaxPool3d_5a_2x2.stride) == ([2, 2, 2], (2, 2, 2))
    assert model.MaxPool3d_5a_2x2.compute_pad(1, 7) == 1


EDITS: dict[str, Callable[[Any], object]] = {
    "kernel_size": lambda m: setattr(m.MaxPool3d_3a_3x3, "kernel_size", (3, 3, 3)),
    "stride": lambda m: setattr(m.MaxPool3d_5a_2x2, "stride", (1, 1, 1)),
    "_activation_fn": lambda m: setattr(m.Mixed_4b.b0, "_activation_fn", torch.tanh),
    "no activation": lambda m: setattr(m.Mixed_4b.b0, "_activation_fn", None),
    "_use_batch_norm": lambda m: setattr(m.Mixed_4b.b1a, "_use_batch_norm", False),
    "_stride": lambda m: (
        setattr(m.Conv3d_1a_7x7, "_stride", (1, 2, 2)),
        setattr(m.Conv3d_1a_7x7.conv3d, "stride", (1, 2, 2)),
    ),
    "compute_pad": lambda m: setattr(m.Conv3d_2c_3x3, "compute_pad", lambda dim, s: 4),
    "end_points.pop": lambda m: m.end_points.pop("MaxPool3d_5a_2x2"),
}
PORT_EDITS: dict[str, Callable[[Any], object]] = {
    "pool.kernel_size": lambda m: setattr(m.maxPool3d_3a_3x3.pool, "kernel_size", (1, 2, 2)),
    "pool.stride": lambda m: setattr(m.maxPool3d_5a_2x2.pool, "stride", (1, 1, 1)),
    "pad.padding": lambda m: setattr(m.maxPool3d_5a_2x2.pad, "padding", (2, 2, 2, 2, 2, 2)),
    "another pad": lambda m: setattr(m.maxPool3d_3a_3x3, "pad", nn.ReplicationPad3d((1, 1, 1, 1, 0, 0))),
    "activation": lambda m: setattr(m.mixed_4b.branch_0, "activation", None),
    "use_bn": lambda m: setattr(m.mixed_4b.branch_1[0], "use_bn", False),
    "padding": lambda m: setattr(m.conv3d_1a_7x7, "padding", "VALID"),
    "a longer branch": lambda m: m.mixed_4b.branch_1.append(nn.Tanh()),
    "fasti3d's name of a unit's part": lambda m: setattr(m.mixed_4b.branch_0, "bn", nn.Identity()),
    "fasti3d's name of a part": lambda m: setattr(m.Mixed_4b, "b3a", nn.AvgPool3d(3, 1, 1)),
}


def swap(model: Any) -> None:
    wide = network.TRUNK["Mixed_3c"].out_channels
    model.mixed_4b.branch_1 = nn.Sequential(hassony2.Unit3Dpy(wide, 40, (3, 3, 3)), hassony2.Unit3Dpy(40, 40))


PORT_EDITS["another order"] = swap


@pytest.mark.parametrize("port", ["pytorch-i3d", "hassony2"])
def test_edits_in_place_take_effect(port: str) -> None:
    kind, edits = (InceptionI3d, EDITS) if port == "pytorch-i3d" else (compat.I3D, PORT_EDITS)
    model, x = make(kind), random_clip(1, 3, 9, 33, 40)
    before = assert_as_plain(model, x, fused=True)
    for what, edit in edits.items():
        twin = copy.deepcopy(model)
        edit(twin)
        after = assert_as_plain(twin.eval(), x, fused=False)
        assert after.shape != before.shape or not torch.equal(after, before), what


def test_the_ports_units_take_their_place() -> None:
    model, x = make(InceptionI3d), random_clip(*WITH_HEAD)
    width = network.FEATURE_CHANNELS
    model.logits = Unit3D(
        in_channels=width, output_channels=3, kernel_shape=[1, 1, 1], padding=0, activation_fn=None,
        use_batch_norm=False, use_bias=True, name="logits",
    )  # fmt: skip
    model.end_points["Conv3d_1a_7x7"] = Unit3D(4, 24, [7, 7, 7], (2, 2, 2), (3, 3, 3), name="stem")
    model.build()
    model.eval()
    assert (model._num_classes, model.num_classes, model.in_channels) == (3, 3, 4)
    with torch.no_grad():
        x = torch.cat([x, x[:, :1]], dim=1)
        assert model(x).shape == (1, 3, 1)
        assert_as_plain(model, x, fused=True)


@torch.no_grad()
def test_pools_of_the_users_own() -> None:
    """Whose windows say what clips are large enough."""
    for model in (make(InceptionI3d), make(compat.I3D)):
        for kernel, shape, positions in (
            ([1, 7, 7], (1, 3, 8, 193, 193), 1),
            ([2, 4, 4], (1, 3, 9, 112, 112), 1),
            (1, (1, 3, 1, 20, 20), 1),
        ):
            model.avg_pool = nn.AvgPool3d(kernel, stride=1)
            y = model(random_clip(*shape))
            logits = y if isinstance(y, Tensor) else y[1]
            assert logits.shape[:2] == (1, 5)
            assert logits.numel() == 5 * positions
        model.avg_pool = nn.AvgPool3d([3, 4, 4], stride=1)
        with pytest.raises(ValueError, match="at least 17 frames for the head, got 16"):
            model(random_clip(1, 3, 16, 97, 97))
        with pytest.raises(ValueError, match="at least 97x97 pixels"):
            model(random_clip(1, 3, 17, 97, 96))
        model.avg_pool = nn.AdaptiveAvgPool3d(1)
        y = model(random_clip(1, 3, 2, 20, 20))
        assert (y if isinstance(y, Tensor) else y[1]).shape[:2] == (1, 5)


# ---------------------------------------------------------------- hassony2


def test_modules_have_the_other_ports_attributes() -> None:
    model = compat.I3D(5)
    stem, inner, pool = model.conv3d_1a_7x7, model.mixed_3b.branch_1[1], model.maxPool3d_2a_3x3
    assert type(stem).__name__ == "Unit3Dpy"
    assert (stem.padding, stem.activation, stem.use_bn, stem.stride) == ("SAME", F.relu, True, (2, 2, 2))
    assert not stem.simplify_pad
    assert [pad.padding for pad in stem.pads] == [(2, 3, 2, 3, 2, 3), (2, 3, 2, 3, 3, 3)]
    assert inner.simplify_pad
    assert inner.conv3d.padding == (1, 1, 1)
    assert (type(pool.pad), type(pool.pool)) == (nn.ConstantPad3d, nn.MaxPool3d)
    assert pool.padding_shape == tuple(pool.pad.padding) == (0, 1, 0, 1, 0, 0)
    assert (pool.pool.kernel_size, pool.pool.stride, pool.pool.ceil_mode) == ((1, 3, 3), (1, 2, 2), True)
    assert [type(getattr(model.mixed_5c, f"branch_{i}")) for i in (1, 2, 3)] == [nn.Sequential] * 3
    assert isinstance(model.mixed_5c.branch_3[0], hassony2.MaxPool3dTFPadding)
    classifier = model.conv3d_0c_1x1
    assert (classifier.use_bn, classifier.activation) == (False, None)
    assert "batch3d" not in dict(classifier.named_children())
    assert (model.avg_pool.kernel_size, model.avg_pool.stride) == ((2, 7, 7), (1, 1, 1))
    with pytest.raises(ValueError, match=r"padding should be in \[VALID\|SAME\] but got HALF"):
        hassony2.Unit3Dpy(3, 4, padding="HALF")
    with pytest.raises(NotImplementedError, match=r"weights='variables\.npz'"):
        model.load_tf_weights(None)


@torch.no_grad()
def test_hooks_on_a_pools_modules_fire() -> None:
    model, seen = make(compat.I3D), []
    model.maxPool3d_4a_3x3.pool.register_forward_hook(lambda *_: seen.append("pool"))
    model.maxPool3d_3a_3x3.pad.register_forward_hook(lambda *_: seen.append("pad"))
    model.forward_features(random_clip(*SMALL))
    assert seen == ["pad", "pool"]


# ---------------------------------------------------------------- weights


@pytest.fixture(scope="module")
def checkpoint(narrow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = reference.I3D(5)
    randomise(plain)
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.save(plain.state_dict(), path)
    return path


@pytest.mark.parametrize("kind", [InceptionI3d, compat.I3D])
def test_weights_of_any_format(kind: Any, checkpoint: Path) -> None:
    plain = reference.I3D(5).eval()
    plain.load_state_dict(torch.load(checkpoint))
    x = random_clip(*SMALL)
    loaded = kind(5)
    weights.load_into(loaded, weights.load(checkpoint))
    with torch.no_grad():
        for model in (loaded, kind(5, weights=checkpoint)):
            assert_close("i3d", model.eval().forward_features(x), plain.forward_features(x))
            assert torch.equal(model.logits.conv3d.bias, plain.logits.conv3d.bias)
    with pytest.raises(weights.WeightsError, match=r"these weights have 5 classes and the network 6"):
        kind(6, weights=checkpoint)


def test_labels_come_and_go_with_the_weights(checkpoint: Path) -> None:
    from dataclasses import replace

    found = weights.load(checkpoint)
    model = I3D(5)
    weights.load_into(model, replace(found, labels=tuple("abcde")))
    assert model.labels == tuple("abcde")
    weights.load_into(model, found)
    assert model.labels is None


# ---------------------------------------------------------------- the scripts


def test_feature_script(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With flags that torch no longer knows, so that gradients stay on: one warning says so."""
    monkeypatch.setattr(inputs, "_warned", set())
    i3d = InceptionI3d(400, in_channels=3)
    i3d.replace_logits(5)
    i3d.load_state_dict(torch.load(checkpoint))
    i3d.train(False)
    inputs_ = random_clip(1, 3, 70, 193, 193)
    features, found = [], []
    for start in range(1, 70 - 56, 16):
        end, start = min(69, start + 16 + 56), max(1, start - 48)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ip = Variable(torch.from_numpy(inputs_.numpy()[:, :, start:end]), volatile=True)
            features.append(i3d.extract_features(ip).squeeze(0).permute(1, 2, 3, 0).data.cpu().numpy())
        found += [str(one.message) for one in caught if "no_grad" in str(one.message)]
    np.save(tmp_path / "video", np.concatenate(features, axis=0))
    assert np.load(tmp_path / "video.npy").shape[1:] == (1, 1, network.FEATURE_CHANNELS)
    assert len([text for text in found if text.startswith("the network is in eval mode")]) == 1


def test_training_script(checkpoint: Path, tmp_path: Path) -> None:
    """Several batches to an update, localization and classification losses, a scheduled learning rate."""
    i3d: Any = InceptionI3d(5, in_channels=3)
    i3d.load_state_dict(torch.load(checkpoint))
    i3d.replace_logits(3)
    i3d = nn.DataParallel(i3d)
    optimizer = optim.SGD(i3d.parameters(), lr=0.1, momentum=0.9, weight_decay=0.0000001)
    lr_sched = optim.lr_scheduler.MultiStepLR(optimizer, [1, 1000])
    labels = torch.zeros(1, 3, 9)
    labels[0, 1, 4:7] = 1
    rates = []
    for phase in ("train", "val"):
        i3d.train(phase == "train")
        tot_loss = 0.0
        optimizer.zero_grad()
        for num_iter, seed in enumerate(range(2), 1):
            inputs_ = Variable(random_clip(*WITH_HEAD, seed=seed))
            per_frame_logits = i3d(inputs_)
            per_frame_logits = F.upsample(per_frame_logits, inputs_.size(2), mode="linear")
            assert per_frame_logits.shape == labels.shape
            loc_loss = F.binary_cross_entropy_with_logits(per_frame_logits, labels)
            cls_loss = F.binary_cross_entropy_with_logits(
                torch.max(per_frame_logits, dim=2)[0], torch.max(labels, dim=2)[0]
            )
            loss = (0.5 * loc_loss + 0.5 * cls_loss) / 2
            tot_loss += loss.data.item()
            loss.backward()
            assert all(p.grad is not None for p in i3d.parameters())
            if num_iter == 2 and phase == "train":
                optimizer.step()
                optimizer.zero_grad()
                lr_sched.step()
                torch.save(i3d.module.state_dict(), tmp_path / "000001.pt")
        rates.append(optimizer.param_groups[0]["lr"])
        assert np.isfinite(tot_loss)
    assert rates == [pytest.approx(0.01)] * 2
    again = InceptionI3d(5)
    again.replace_logits(3)
    again.load_state_dict(torch.load(tmp_path / "000001.pt"))
    assert {f"module.{key}" for key in again.state_dict()} == i3d.state_dict().keys()
    assert torch.equal(again.logits.conv3d.weight, i3d.module.logits.conv3d.weight)
    assert again._num_classes == pytorch_i3d.InceptionI3d(3)._num_classes == 3
