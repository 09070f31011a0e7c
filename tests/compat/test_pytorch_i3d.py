"""Usual calling code of pytorch-i3d's users, with only the import line changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from i3d_making import random_clip as clip
from torch import nn

from fasti3d import network, reference
from fasti3d.compat.pytorch_i3d import InceptionI3d

# The fused path against the ordinary one: float32, another order of summation.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def checkpoint(plain: reference.I3D, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users have on disk: the port's state dict, whose keys are the reference's."""
    path = tmp_path_factory.mktemp("models") / "rgb_imagenet.pt"
    torch.save(plain.state_dict(), path)
    return path


def test_feature_extraction_script(checkpoint: Path, plain: reference.I3D) -> None:
    i3d = InceptionI3d(400, in_channels=3)
    i3d.load_state_dict(torch.load(checkpoint))
    i3d.train(False)
    inputs = clip(1, 3, 17, 193, 224)
    with torch.no_grad():
        features = i3d.extract_features(inputs)
        logits = i3d(inputs)
        expected = plain.extract_features(inputs)
        expected_logits = plain.logits(expected[..., None, None])[..., 0, 0]
    assert features.shape == (1, network.FEATURE_CHANNELS, 2, 1, 1)
    assert features.squeeze(0).permute(1, 2, 3, 0).numpy().shape == (2, 1, 1, network.FEATURE_CHANNELS)
    torch.testing.assert_close(features[..., 0, 0], expected, **FLOAT32)
    assert logits.shape == (1, 400, 2), "logits keep their time axis"
    torch.testing.assert_close(logits, expected_logits, **FLOAT32)
    assert i3d._plan is not None, "eval mode without gradients runs fused"


@torch.no_grad()
def test_squeeze_drops_only_axes_of_length_one() -> None:
    i3d = InceptionI3d(5, spatial_squeeze=False).eval()
    assert i3d(clip(1, 3, 9, 193, 193)).shape == (1, 5, 1, 1, 1)
    i3d._spatial_squeeze = True
    assert i3d(clip(1, 3, 9, 193, 193)).shape == (1, 5, 1)
    assert i3d(clip(1, 3, 9, 193, 225)).shape == (1, 5, 1, 2)
    assert i3d(clip(1, 3, 9, 225, 225)).shape == (1, 5, 1, 2, 2)


def test_optical_flow_and_constructor_order() -> None:
    i3d = InceptionI3d(8, True, "Logits", "inception_i3d", 2, 0.3)
    assert i3d.Conv3d_1a_7x7.conv3d.weight.shape == (24, 2, 7, 7, 7)
    assert i3d.dropout.p == 0.3, "dropped, not kept, in spite of its name"
    assert (i3d._num_classes, i3d._spatial_squeeze, i3d._final_endpoint) == (8, True, "Logits")
    i3d.replace_logits(3)
    assert i3d._num_classes == i3d.num_classes == 3


def test_batch_norm_is_the_ports() -> None:
    norms = [m for m in InceptionI3d().modules() if isinstance(m, nn.BatchNorm3d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_parameter_order_is_the_ports(plain: reference.I3D) -> None:
    """Optimizer states refer to parameters by number; the port registers its classifier first."""
    names = [name for name, _ in InceptionI3d().named_parameters()]
    ours = [name for name, _ in plain.named_parameters()]
    assert names == [*ours[-2:], *ours[:-2]]
    assert names[0] == "logits.conv3d.weight"


def test_unknown_final_endpoint() -> None:
    with pytest.raises(ValueError, match=r"^Unknown final endpoint Mixed_6a$"):
        InceptionI3d(final_endpoint="Mixed_6a")


@torch.no_grad()
@pytest.mark.parametrize("endpoint", ["Conv3d_1a_7x7", "Mixed_4d"])
def test_final_endpoint_leaves_the_rest_out(endpoint: str, plain: reference.I3D) -> None:
    i3d = InceptionI3d(final_endpoint=endpoint).eval()
    built = network.ENDPOINTS[: network.ENDPOINTS.index(endpoint) + 1]
    assert tuple(i3d.end_points) == built == tuple(dict(i3d.named_children()))
    assert i3d.logits is None
    keys = {key: value for key, value in plain.state_dict().items() if key.split(".")[0] in built}
    i3d.load_state_dict(keys)
    inputs = clip(1, 3, 5, 40, 36)  # too small for a head, which is not there
    expected = plain.forward_endpoints(inputs, [endpoint])[endpoint]
    torch.testing.assert_close(i3d(inputs), expected, **FLOAT32)


@torch.no_grad()
def test_predictions_endpoint_still_returns_logits() -> None:
    i3d = InceptionI3d(5, final_endpoint="Predictions").eval()
    inputs = clip(1, 3, 9, 193, 193)
    logits = i3d.logits(i3d.extract_features(inputs))[..., 0, 0]
    assert torch.equal(i3d(inputs), logits)
    assert i3d._final_endpoint == "Predictions"


@torch.no_grad()
def test_exchanged_end_point_takes_effect_after_build() -> None:
    i3d = InceptionI3d(5, in_channels=3).eval()
    inputs = clip(1, 4, 9, 193, 193)
    stem = reference.Unit3D(4, 24, (7, 7, 7), (2, 2, 2)).eval()
    i3d.end_points["Conv3d_1a_7x7"] = stem
    i3d.build()
    i3d.in_channels = 4
    assert i3d.Conv3d_1a_7x7 is stem
    assert i3d(inputs).shape == (1, 5, 1)


@torch.no_grad()
def test_classifier_of_the_users_own() -> None:
    i3d = InceptionI3d(5).eval()
    inputs = clip(1, 3, 9, 193, 193)
    features = i3d.extract_features(inputs)
    head = nn.Conv3d(network.FEATURE_CHANNELS, 7, 1).eval()
    i3d.logits = head
    torch.testing.assert_close(i3d(inputs), head(features)[..., 0, 0], **FLOAT32)


@torch.no_grad()
def test_hooks_fire() -> None:
    i3d = InceptionI3d(5).eval()
    seen: list[str] = []
    i3d.avg_pool.register_forward_hook(lambda *_: seen.append("avg_pool"))
    i3d.Mixed_4f.b1b.register_forward_hook(lambda *_: seen.append("Mixed_4f.b1b"))
    i3d.logits.register_forward_hook(lambda *_: seen.append("logits"))
    i3d(clip(1, 3, 9, 193, 193))
    assert seen == ["Mixed_4f.b1b", "avg_pool", "logits"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_share_their_parts_with_end_points_as_the_original(
    duplicate: Callable[[InceptionI3d], InceptionI3d],
) -> None:
    i3d = InceptionI3d(5)
    twin = duplicate(i3d)
    for name, module in twin.end_points.items():
        assert module is getattr(twin, name)
        assert module is not getattr(i3d, name)


def test_clip_too_short_for_the_head() -> None:
    i3d = InceptionI3d(5).eval()
    for call in (i3d, i3d.extract_features):
        with pytest.raises(ValueError, match="at least 9 frames"):
            call(clip(1, 3, 8, 193, 193))
        with pytest.raises(ValueError, match="at least 193x193"):
            call(clip(1, 3, 9, 192, 193))
