"""``fasti3d.I3DResNet``: the fused network against its reference, and what users do to it."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from resnet_making import NETWORKS, clip, make, plain
from torch import nn

import fasti3d
from fasti3d.inspect.model_report import report_model
from fasti3d.resnet.reference import Bottleneck, NonLocalBlock

pytestmark = pytest.mark.usefixtures("narrow")

ENDPOINTS = ("conv1", "pool1", "res2", "res3", "res4", "res5", "Features", "Logits", "Predictions")


@pytest.mark.parametrize(("variant", "non_local"), NETWORKS)
def test_is_as_exact_as_the_reference(variant, non_local):
    model = make(variant, non_local)
    x = clip(model)
    assert model.why_not_fused() == ""
    with torch.no_grad():
        fused = model.forward_endpoints(x, ENDPOINTS)
        exact = plain(model, torch.float64).forward_endpoints(x.double(), ENDPOINTS)
    limit = 5e-6 if non_local else 2e-6
    for name in ENDPOINTS:
        assert fused[name].shape == exact[name].shape
        error = (fused[name] - exact[name]).abs().max() / exact[name].abs().max()
        assert error < limit, (name, error)


def test_runs_without_sums_and_relus_of_their_own():
    model = make("pytorchvideo-8x8")
    x = clip(model)
    with torch.no_grad():
        model(x)
        with torch.profiler.profile() as profile:
            model(x)
    names = {event.key for event in profile.key_averages()}
    assert not names & {"aten::add", "aten::add_", "aten::relu", "aten::clamp_min", "aten::batch_norm"}


# Each is a mistake that one of the ports makes beside another.
def _padded_pool(model):
    model.pool1 = nn.MaxPool3d(model.pool1.kernel_size, model.pool1.stride, (0, 1, 1))


def _stride_on_the_first(model):
    block = model.layer2[0]
    block.conv1.stride, block.conv2.stride = (1, 2, 2), (1, 1, 1)


def _no_relu_at_the_end(model):
    model.layer4[2].forward = lambda x: _bottleneck(model.layer4[2], x)


def _bottleneck(block, x):
    y = F.relu(block.bn1(block.conv1(x)))
    y = F.relu(block.bn2(block.conv2(y)))
    return block.bn3(block.conv3(y)) + x


def _pool_last(model):
    for block in _blocks(model):
        block.pools_first = not block.pools_first


def _without_scale(model):
    for block in _blocks(model):
        block.scale = 1.0


def _relu_after(model):
    for part in model.layer3:
        if part.nl is not None:
            part.nl = nn.Sequential(part.nl, nn.ReLU())


def _blocks(model):
    return [part for part in model.modules() if isinstance(part, NonLocalBlock)]


@pytest.mark.parametrize(
    "mistake",
    [_padded_pool, _stride_on_the_first, _no_relu_at_the_end, _pool_last, _without_scale, _relu_after],
)
def test_a_change_of_a_part_is_followed(mistake):
    """Without an answer of the network as it was, in eval mode as in the reference."""
    model = make("caffe2-32x2", "embedded_gaussian")
    x = clip(model)
    with torch.no_grad():
        before = model(x)
        mistake(model)
        changed = model(x)
        expected = plain_twin(model)(x)
    assert relative(changed, before) > 1e-3
    assert relative(changed, expected) < 1e-5


def relative(a, b):
    return float((a - b).abs().max() / b.abs().max())


def plain_twin(model):
    """The same modules, run by the reference's forward."""
    from fasti3d.resnet import reference

    twin = reference.I3DResNet.__new__(reference.I3DResNet)
    twin.__dict__ = model.__dict__
    return twin


def test_hooks_run_and_weights_are_followed():
    model = make("slow-8x8")
    x = clip(model)
    seen = []
    with torch.no_grad():
        before = model(x)
        handle = model.layer2[1].conv2.register_forward_hook(lambda *_: seen.append(1))
        assert "layer2.1.conv2" in model.why_not_fused()
        model(x)
        handle.remove()
        model.layer3[0].conv1.weight.mul_(1.5)
        after = model(x)
        torch.testing.assert_close(after, plain(model)(x), rtol=1e-4, atol=1e-5)
    assert seen == [1]
    assert relative(after, before) > 1e-3


def test_training_and_gradients():
    model = make("mmaction2-32x2", "gaussian").train()
    x = clip(model)
    model(x).sum().backward()
    assert model.layer2[1].nl.g.weight.grad is not None
    assert model.layer1[0].bn1.num_batches_tracked == 1
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(model)(x), rtol=1e-4, atol=1e-5)


def test_bytes_are_normalized_before_the_padding():
    model = make("mmaction2-32x2")
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (1, 3, 16, 48, 40), dtype=torch.uint8, generator=generator)
    its = model.table.preprocessing
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (its.mean, its.std))
    with torch.no_grad():
        found = model(frames)
        torch.testing.assert_close(found, plain(model)((frames - mean) / std), rtol=1e-4, atol=1e-5)
        # The padding of an unnormalized clip would be black and not the mean.
        folded = plain(model)
        folded.conv1.weight /= std
        padded = F.pad(frames.float() - mean, [3, 3, 3, 3, 2, 2], value=float(-mean.mean()))
        folded.conv1.padding = (0, 0, 0)
        assert not torch.allclose(found, folded(padded), rtol=1e-3)


def test_a_batch_is_its_clips():
    model = make("pytorchvideo-8x8", "dot_product")
    x = torch.cat([clip(model, seed=seed) for seed in (1, 2)])
    with torch.no_grad():
        both = model.extract_features(x)
        for i in range(2):
            assert torch.equal(model.extract_features(x[i : i + 1])[0], both[i])


def test_is_one_operator_in_a_graph():
    model = make("caffe2-8x8", "embedded_gaussian")
    x = clip(model)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert [n.target for n in program.graph.nodes if "fasti3d" in str(n.target)] == [
            torch.ops.fasti3d.planned.default
        ]
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


def test_gradients_pass_through_the_operator():
    model = make("mmaction2-32x2", "embedded_gaussian")
    model.requires_grad_(False)
    x = clip(model, 32).requires_grad_()
    (expected,) = torch.autograd.grad(plain(model)(x).sum(), x)
    (found,) = torch.autograd.grad(torch.export.export(model, (x,)).module()(x).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_copies_pickles_and_dtypes():
    model = make("c2d-8x8")
    x = clip(model)
    with torch.no_grad():
        found = model(x)
        assert torch.equal(copy.deepcopy(model)(x), found)
        half = copy.deepcopy(model).bfloat16()
        error = (half(x.bfloat16()).float() - found).abs().max() / found.abs().max()
    assert error < 2e-2
    assert half.bn1.running_var.dtype == torch.float32


def test_classifiers_of_other_kinds_run_on_the_fused_trunk():
    model = make("slow-8x8")
    x = clip(model)
    with torch.no_grad():
        features = model.extract_features(x)
        model.fc = nn.Identity()
        torch.testing.assert_close(model(x), features.mean(dim=2), rtol=1e-5, atol=1e-6)
        assert model.why_not_fused() == ""


def test_labels_go_with_their_classifier():
    model = make("slow-8x8", classes=3)
    model.labels = ["a", "b", "c"]
    assert model.labels == ("a", "b", "c")
    model.replace_logits(4)
    assert model.labels is None
    assert model.num_classes == 4
    with pytest.raises(ValueError, match="labels must be a name for each of the 4 classes, got 2"):
        model.labels = ["a", "b"]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 8, 64, 64), r"x must be \(N, C, T, H, W\)"),
        ((1, 2, 8, 64, 64), "x must have 3 channels"),
        ((1, 3, 0, 64, 64), "must not be empty"),
        ((1, 3, 1, 64, 64), "pool2, .* does not fill its window"),
        ((1, 3, 8, 112, 112), "Logits, .* does not fill its window .*give a larger clip"),
    ],
)
def test_clips_that_do_not_fit(shape, words):
    torch.manual_seed(0)
    model = fasti3d.I3DResNet("pytorchvideo-8x8", num_classes=3).eval()
    with torch.no_grad(), pytest.raises(ValueError, match=words):
        model(torch.zeros(shape))


def test_unknown_endpoints_name_those_that_are():
    model = make("slow-8x8")
    assert "pool2" not in model.endpoints
    with pytest.raises(ValueError, match=r"unknown endpoints \['pool2'\]: choose from conv1"):
        model.forward_endpoints(clip(model), ["pool2"])


def test_values_far_from_what_the_network_expects_are_said():
    model = make("slow-8x8")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        model(clip(model))
        with pytest.raises(UserWarning, match="0-255"):
            model(clip(model).abs() * 100)
        with pytest.raises(ValueError, match="must be finite"):
            model(clip(model) / 0)


def test_plan_and_report_know_the_network():
    model = make("pytorchvideo-8x8")
    report = fasti3d.plan(model, (1, 3, 8, 64, 64))
    assert [step.name for step in report.steps][-2:] == ["res5", "Logits"]
    assert sum(isinstance(part, Bottleneck) for part in model.modules()) == 16
    (part,) = report_model(model)
    assert (part.kind, part.runs) == ("I3DResNet", "fused")
