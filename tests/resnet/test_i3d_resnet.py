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
import fasti3d.dense
from fasti3d.engine.graph_op import planned_reference
from fasti3d.engine.temporal import TimeError, check_local
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


def _edit_theta(block):
    block.theta.weight.mul_(50)


def _edit_norm(block):
    block.bn.eps = 1.0


def _hook(block):
    block.g.register_forward_hook(lambda *given: 2 * given[-1])


@pytest.mark.parametrize("edit", [_edit_theta, _edit_norm, _hook])
def test_edits_of_non_local_blocks_are_seen(edit):
    model = make("caffe2-32x2", "embedded_gaussian")
    x = clip(model, 32)
    with torch.no_grad():
        before = model(x)
        edit(model.layer2[1].nl)
        after = model(x)
        assert relative(after, before) > 1e-4
        torch.testing.assert_close(after, plain_twin(model)(x), rtol=1e-4, atol=1e-5)


def test_state_dicts_load_both_ways():
    model = make("mmaction2-32x2", "gaussian")
    twin = plain(model)
    assert list(twin.state_dict()) == list(model.state_dict())
    other = make("mmaction2-32x2", "gaussian", seed=1)
    x = clip(model, 32)
    with torch.no_grad():
        other(x)
        other.load_state_dict(twin.state_dict())
        assert torch.equal(other(x), model(x))


def test_streams_of_frames_are_refused_in_a_sentence():
    model = make("pytorchvideo-8x8", "dot_product")
    with pytest.raises(TypeError, match="fuse, got I3DResNet"):
        list(fasti3d.dense.dense_stream(model, [clip(model)], 4))
    with pytest.raises(TimeError, match=r"layer2\.1\.nl reads all frames at once"):
        check_local(model.graph())


def test_training_and_gradients():
    model = make("mmaction2-32x2", "gaussian").train()
    x = clip(model)
    model(x).sum().backward()
    assert model.layer2[1].nl.g.weight.grad is not None
    assert model.layer1[0].bn1.num_batches_tracked == 1
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(model)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["mmaction2-32x2", "pytorchvideo-8x8", "c2d-8x8"])
def test_bytes_are_normalized_before_the_padding(variant):
    model = make(variant)
    generator = torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (1, 16, 48, 40, 3), dtype=torch.uint8, generator=generator)
    frames = frames.permute(0, 4, 1, 2, 3)
    its = model.table.preprocessing
    mean, std = (torch.tensor(v).view(1, 3, 1, 1, 1) for v in (its.mean, its.std))
    floats = (frames - mean) / std
    with torch.no_grad():
        found = model.forward_endpoints(frames, ["conv1", "Logits"])
        assert model._plan.plan.reads_bytes
        same = model.forward_endpoints(floats, ["conv1", "Logits"])
        expected = plain(model)(floats)
        torch.testing.assert_close(found["Logits"], expected, rtol=1e-4, atol=1e-5)
        half = copy.deepcopy(model).bfloat16()
        of_half = half(frames)
    # To the bit as if they had been normalized before, at every pixel up to the border.
    for name, y in found.items():
        assert torch.equal(y, same[name])
    assert of_half.dtype == torch.bfloat16
    assert (of_half.float() - expected).abs().max() < 2e-2 * expected.abs().max()


def test_a_batch_is_its_clips():
    model = make("pytorchvideo-8x8", "dot_product")
    x = torch.cat([clip(model, seed=seed) for seed in (1, 2)])
    with torch.no_grad():
        both = model.extract_features(x)
        for i in range(2):
            assert torch.equal(model.extract_features(x[i : i + 1])[0], both[i])


def test_is_one_operator_in_a_graph(short):
    model = make("caffe2-8x8", "embedded_gaussian")
    x = clip(model)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        assert [n.target for n in program.graph.nodes if "fasti3d" in str(n.target)] == [
            torch.ops.fasti3d.planned.default
        ]
        torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


def test_bytes_in_a_graph_are_normalized_as_outside_of_it(short):
    model = make("mmaction2-32x2")
    frames = torch.randint(
        0, 256, (1, 3, 16, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4)
    )
    with torch.no_grad():
        program = torch.export.export(model, (frames,))
        torch.testing.assert_close(program.module()(frames), model(frames), rtol=1e-5, atol=1e-6)
        maps = planned_reference(*_arguments(model, frames))
        torch.testing.assert_close(maps[0], model(frames), rtol=1e-4, atol=1e-5)


def _arguments(model, x):
    """Of the operator, for logits."""
    code, names = model._described(model._maps()).coded()
    return x, code.tensors, code.numbers, code.floats, [names["Logits"]], [0], torch.float32


def test_the_operator_keeps_its_contract(short):
    model = make("mmaction2-32x2", "dot_product")
    model.requires_grad_(False)
    x = clip(model, 32)
    torch.library.opcheck(
        torch.ops.fasti3d.planned.default,
        _arguments(model, x),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)


def test_gradients_pass_through_the_operator(short):
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
