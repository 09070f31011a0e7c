"""When the fused path must not be taken: whatever watches or changes the network is obeyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from i3d_making import (
    SMALL,
    WITH_HEAD,
    assert_maps_close,
    make_i3d,
    make_warm_i3d,
    ordinary,
    random_clip,
    randomise,
)
from tolerances import assert_close
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from fasti3d import I3D, network, reference
from fasti3d.engine import steps

TRUNK = tuple(network.TRUNK)
FEATURES = "Mixed_5c"


def assert_ordinary(model: I3D, runs: list[torch.dtype], call: Callable[[Tensor], Tensor]) -> None:
    x = random_clip(*SMALL)
    expected = ordinary(model, x, FEATURES)[FEATURES]
    actual = call(x)
    assert runs == []
    assert torch.equal(actual, expected)


def test_gradients_are_those_of_the_plain_network(runs: list[torch.dtype]) -> None:
    x = random_clip(*SMALL)
    gradients = []
    for kind in (I3D, reference.I3D):
        net = kind(7)
        randomise(net)
        clip = x.clone().requires_grad_()
        net.eval().forward_endpoints(clip, ["Mixed_4b"])["Mixed_4b"].square().mean().backward()
        gradients.append([clip.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert runs == []
    assert len(gradients[0]) > 40
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_gradients_of_the_clip_alone(model: I3D, runs: list[torch.dtype]) -> None:
    frozen = make_i3d().requires_grad_(False)
    x = random_clip(*SMALL).requires_grad_()
    frozen.forward_features(x).sum().backward()
    assert runs == []
    assert x.grad.abs().sum() > 0


def test_a_single_trainable_tensor_is_enough(runs: list[torch.dtype]) -> None:
    model = make_i3d().requires_grad_(False)
    model.Mixed_5c.b3b.bn.bias.requires_grad_()
    model.forward_features(random_clip(*SMALL)).sum().backward()
    assert runs == []
    assert model.Mixed_5c.b3b.bn.bias.grad is not None


def test_training_mode(runs: list[torch.dtype]) -> None:
    model = make_i3d().train()
    before = model.Mixed_3b.b0.bn.running_mean.clone()
    with torch.no_grad():
        model.forward_features(random_clip(*SMALL))
    assert runs == []
    assert not torch.equal(model.Mixed_3b.b0.bn.running_mean, before)


def test_one_part_in_training_mode(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    model.Mixed_4b.b0.bn.train()
    with torch.no_grad():
        model.forward_features(random_clip(*SMALL))
    assert runs == []


def test_hooks_on_parts_fire(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    x = random_clip(*SMALL)
    fired: list[str] = []
    parts: dict[str, nn.Module] = {
        "unit": model.Conv3d_2b_1x1,
        "block": model.Mixed_4c,
        "pool": model.MaxPool3d_4a_3x3,
        "inner pool": model.Mixed_3b.b3a,
        "conv": model.Mixed_3b.b1b.conv3d,
        "bn": model.Mixed_5c.b0.bn,
    }
    for name, part in parts.items():
        for register in (part.register_forward_hook, part.register_forward_pre_hook):
            handle = register(lambda *_, name=name: fired.append(name))
            with torch.no_grad():
                y = model.forward_features(x)
            handle.remove()
            assert fired == [name]
            fired.clear()
            assert runs == [], name
    with torch.no_grad():
        assert_close("i3d", model.forward_features(x), y)
    assert runs, "removing the hooks brings the fused path back"


def test_a_hook_may_change_what_flows(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    model.Mixed_3b.b0.register_forward_hook(lambda *args: args[-1] * 0)
    with torch.no_grad():
        y = model.forward_endpoints(random_clip(*SMALL), ["Mixed_3b"])["Mixed_3b"]
    assert not y[:, : network.TRUNK["Mixed_3b"].b0].any()


def test_hooks_on_the_whole_model_keep_it_fused(runs: list[torch.dtype]) -> None:
    model = make_i3d()
    fired = []
    model.register_forward_pre_hook(lambda *_: fired.append("before"))
    model.register_forward_hook(lambda *_: fired.append("after"))
    with torch.no_grad():
        model(random_clip(*WITH_HEAD))
    assert fired == ["before", "after"]
    assert len(runs) == 1


def test_global_hooks_fire(model: I3D, runs: list[torch.dtype]) -> None:
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        with torch.no_grad():
            model.forward_features(random_clip(*SMALL))
    finally:
        handle.remove()
    assert model.Mixed_5c.b0.bn in seen
    assert runs == []


REPLACEMENTS: dict[str, Callable[[I3D], object]] = {
    "a pool by identity": lambda m: setattr(m, "MaxPool3d_2a_3x3", nn.Identity()),
    "the stem by a sequence": lambda m: setattr(m, "Conv3d_1a_7x7", nn.Sequential(m.Conv3d_1a_7x7)),
    "the classifier by identity": lambda m: setattr(m, "logits", nn.Identity()),
    "dropout by identity": lambda m: setattr(m, "dropout", nn.Identity()),
    "a unit by another module": lambda m: setattr(
        m, "Conv3d_2b_1x1", nn.Sequential(nn.Conv3d(64, 64, 1), nn.Tanh())
    ),
    "a batch norm by identity": lambda m: setattr(m.Mixed_3b.b0, "bn", nn.Identity()),
    "a batch norm by none": lambda m: setattr(m.Mixed_3b.b0, "bn", None),
    "a batch norm by none, folded into the convolution": lambda m: fold_and_drop(m.Conv3d_2b_1x1),
    "a batch norm without statistics": lambda m: setattr(
        m.Mixed_3b.b0, "bn", nn.BatchNorm3d(64, track_running_stats=False)
    ),
    "a batch norm without parameters": lambda m: setattr(
        m.Mixed_3b.b0, "bn", nn.BatchNorm3d(64, affine=False)
    ),
    "a convolution by a subclass": lambda m: setattr(
        m.Mixed_3b.b0, "conv3d", Doubled(192, 64, 1, bias=False)
    ),
    "a convolution by one with a bias": lambda m: setattr(m.Mixed_3b.b0, "conv3d", biased(192, 64)),
    "a convolution by a dilated one": lambda m: (
        setattr(m.Mixed_3b.b1b, "conv3d", nn.Conv3d(96, 128, 3, dilation=2, bias=False)),
        setattr(m.Mixed_3b.b1b, "kernel", (5, 5, 5)),
    ),
    "a convolution by one in groups": lambda m: setattr(
        m.Mixed_3b.b1b, "conv3d", nn.Conv3d(96, 128, 3, groups=32, bias=False)
    ),
    "the stem's step in time": lambda m: setattr(m.Conv3d_1a_7x7.conv3d, "stride", (1, 2, 2)),
    "the stem's step in time, padding too": lambda m: (
        setattr(m.Conv3d_1a_7x7.conv3d, "stride", (1, 2, 2)),
        setattr(m.Conv3d_1a_7x7, "stride", (1, 2, 2)),
    ),
    "the window of a pool inside a block": lambda m: setattr(m.Mixed_3b.b3a, "kernel", (5, 3, 3)),
    "the window of a pool": lambda m: setattr(m.MaxPool3d_2a_3x3, "kernel", (3, 3, 3)),
    "a forward of its own": lambda m: setattr(m.Mixed_3b.b0, "forward", lambda x: x[:, :64] * 2),
    "a parametrized weight": lambda m: parametrize.register_parametrization(
        m.Mixed_3b.b1b.conv3d, "weight", Halved()
    ),
    "a weight norm": lambda m: nn.utils.parametrizations.weight_norm(m.Conv3d_1a_7x7.conv3d),
    "a pruned weight": lambda m: prune.l1_unstructured(m.Mixed_3b.b1b.conv3d, "weight", 0.5),
}


class Doubled(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def biased(in_channels: int, out_channels: int) -> nn.Conv3d:
    conv = nn.Conv3d(in_channels, out_channels, 1)
    nn.init.ones_(conv.bias)
    return conv


def fold_and_drop(unit: Any) -> None:
    unit.conv3d = nn.utils.fuse_conv_bn_eval(unit.conv3d, unit.bn)
    unit.bn = None


@pytest.mark.parametrize("what", REPLACEMENTS)
def test_replaced_parts_are_obeyed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_warm_i3d()
    x = random_clip(*SMALL)
    names = ("Conv3d_1a_7x7", "Mixed_3b", "Mixed_3c")
    with torch.no_grad():
        monkeypatch.setattr(steps, "_PIECE_BYTES", 1)
        REPLACEMENTS[what](model)
        model.eval()
        actual = model.forward_endpoints(x, names)
    assert_maps_close(actual, ordinary(model, x, *names))


def test_without_a_classifier_features_still_come(model: I3D) -> None:
    headless = make_i3d()
    del headless.logits
    x = random_clip(*SMALL)
    with torch.no_grad():
        assert torch.equal(headless.forward_features(x), model.forward_features(x))


def test_traces(model: I3D, runs: list[torch.dtype]) -> None:
    x = random_clip(*WITH_HEAD)
    with torch.no_grad():
        traced = torch.jit.trace(model, x, check_trace=False)
        assert runs == []
        assert_close("i3d", traced(x), model(x))


def test_function_transforms(model: I3D, runs: list[torch.dtype]) -> None:
    x = random_clip(3, *SMALL)
    with torch.no_grad():
        y = torch.func.vmap(model.forward_features)(x)
        assert runs == []
        assert_close("i3d", y[1], ordinary(model, x[1], FEATURES)[FEATURES])
        _, tangent = torch.func.jvp(model.forward_features, (x[0],), (torch.ones_like(x[0]),))
    assert tangent.abs().sum() > 0
    assert runs == []


def test_forward_mode_derivatives(model: I3D, runs: list[torch.dtype]) -> None:
    """Which no_grad does not switch off."""
    forward_ad = torch.autograd.forward_ad
    x = random_clip(*SMALL)
    with torch.no_grad(), forward_ad.dual_level():
        y = model.forward_features(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(y).tangent is not None
    assert runs == []


def test_functional_call_uses_the_weights_it_is_given(model: I3D) -> None:
    other = make_i3d(seed=1)
    x = random_clip(*WITH_HEAD)
    weights = dict(other.named_parameters()) | dict(other.named_buffers())
    with torch.no_grad():
        own = model(x)
        assert_close("i3d", functional_call(model, weights, (x,)), ordinary(other, x, "Logits")["Logits"])
        assert torch.equal(model(x), own)
    y = functional_call(model, weights, (x,))
    assert y.requires_grad


def test_operation_counters_see_every_operation(model: I3D, runs: list[torch.dtype]) -> None:
    plain = reference.I3D(7).eval()
    x = random_clip(*SMALL)
    counts = []
    for net in (model, plain):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net.forward_features(x)
        counts.append(counter.get_total_flops())
    assert runs == []
    assert counts[0] == counts[1] > 0


def test_meta_device(runs: list[torch.dtype]) -> None:
    with torch.device("meta"):
        model = I3D(7).eval()
        x = torch.empty(2, 3, 16, 224, 224)
    with torch.no_grad():
        assert model(x).shape == (2, 7)
        assert model.forward_features(x).shape == (2, 1024, 2, 7, 7)


def test_float64_runs_as_the_plain_network(runs: list[torch.dtype]) -> None:
    model = make_i3d().double()
    x = random_clip(*SMALL).double()
    with torch.no_grad():
        y = model.forward_endpoints(x, ["Mixed_3b"])["Mixed_3b"]
    assert runs == []
    assert y.dtype == torch.float64


def test_tensor_subclasses_run_as_the_plain_network(model: I3D, runs: list[torch.dtype]) -> None:
    class Clip(Tensor):
        pass

    with torch.no_grad():
        y = model.forward_features(random_clip(*SMALL).as_subclass(Clip))
    assert isinstance(y, Clip)
    assert runs == []


def test_gradient_checkpointing_changes_nothing(runs: list[torch.dtype]) -> None:
    x = random_clip(*SMALL)
    results = []
    for checkpointing in (False, True):
        model = make_i3d()
        model.gradient_checkpointing = checkpointing
        y = model.forward_endpoints(x, ["Mixed_4b"])["Mixed_4b"]
        y.square().mean().backward()
        results.append((y.detach(), model.Conv3d_1a_7x7.conv3d.weight.grad))
    assert runs == []
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_replacing_the_classifier_drops_its_labels() -> None:
    model = make_i3d()
    model.labels = tuple("abcdefg")
    model.replace_logits(3)
    assert model.labels is None
    assert model.num_classes == 3
