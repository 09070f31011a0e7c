"""Every named part replaced by other modules: the result is the plain network's with the same replacement."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from i3d_making import NARROW, random_clip, randomise
from replacing import ANY, CLASSES, CLIP, FEATURES, KINDS, check, make, map_before, widths
from tolerances import assert_close
from torch import Tensor, nn

from fasti3d import I3D, network, reference

pytestmark = pytest.mark.usefixtures("narrow")

# Endpoints in whose computation the parts take part.
INNER = {
    "Conv3d_1a_7x7": "Conv3d_1a_7x7",
    "Conv3d_2c_3x3": "Conv3d_2c_3x3",
    "Mixed_4c.b0": "Mixed_4c",
    "Mixed_4c.b1b": "Mixed_4c",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NARROW)
def test_parts_of_the_trunk(name: str, kind: str) -> None:
    model, x = make(KINDS[kind]), random_clip(*CLIP)
    channels, out, stride = widths(name)
    original = getattr(model, name)
    given = map_before(model, name, x)
    before = check(model, name, x, given)
    assert model._plan is not None
    others = dict(ANY) if kind == "I3D" else {what: ANY[what] for what in ("a subclass", "a hook")}
    others["a convolution of torch's"] = lambda part: nn.Conv3d(channels, out, 1, stride)
    for what, replace in others.items():
        setattr(model, name, replace(copy.deepcopy(original)).eval())
        assert not torch.equal(check(model, name, x, given), before), what


def biased(unit: Any) -> nn.Module:
    old = unit.conv3d
    return nn.Conv3d(old.in_channels, old.out_channels, old.kernel_size, old.stride)


def changed(unit: Any, **values: Any) -> nn.Module:
    conv = copy.deepcopy(unit.conv3d)
    conv.__dict__.update(values)
    return conv


def fewer(unit: Any) -> nn.Module:
    """Filters taken out by hand, by which ``out_channels`` is not changed; the batch norm has to follow."""
    conv = copy.deepcopy(unit.conv3d)
    conv.weight = nn.Parameter(conv.weight[:8].detach())
    unit.bn = nn.BatchNorm3d(8)
    return conv


def wider(unit: Any) -> nn.Module:
    old = unit.conv3d
    unit.bn = nn.BatchNorm3d(old.out_channels + 8)
    return nn.Conv3d(old.in_channels, old.out_channels + 8, old.kernel_size, old.stride, bias=False)


def norm(unit: Any, **options: Any) -> nn.Module:
    bn = nn.BatchNorm3d(unit.conv3d.out_channels, **options)
    if bn.running_mean is not None:
        randomise(bn) if bn.affine else bn.running_mean.fill_(0.2)
    return bn


CONVS: dict[str, Callable[[Any], nn.Module]] = {
    **{what: lambda unit, r=replace: r(copy.deepcopy(unit.conv3d)) for what, replace in ANY.items()},
    "one with a bias": biased,
    "circular padding": lambda unit: changed(unit, padding_mode="circular"),
    "padding called valid": lambda unit: changed(unit, padding="valid"),
    "fewer filters by hand": fewer,
    "more filters": wider,
    "other weights": lambda unit: nn.Conv3d(
        *(unit.conv3d.in_channels, unit.conv3d.out_channels),
        *(unit.conv3d.kernel_size, unit.conv3d.stride),
        bias=False,
    ),
}
NORMS: dict[str, Callable[[Any], nn.Module | None]] = {
    **{what: lambda unit, r=replace: r(copy.deepcopy(unit.bn)) for what, replace in ANY.items()},
    "identity": lambda unit: nn.Identity(),
    "none": lambda unit: None,
    "group norm": lambda unit: nn.GroupNorm(4, unit.conv3d.out_channels),
    "instance norm": lambda unit: nn.InstanceNorm3d(unit.conv3d.out_channels),
    "no parameters": lambda unit: norm(unit, affine=False),
    "no statistics": lambda unit: norm(unit, track_running_stats=False),
    "no momentum": lambda unit: norm(unit, momentum=None),
    "another epsilon": lambda unit: norm(unit, eps=0.1),
}
POOLS: dict[str, Callable[[nn.Module], nn.Module]] = {
    **ANY,
    "average": lambda pool: nn.AvgPool3d(1, divisor_override=3),
    "torch's maximum": lambda pool: nn.MaxPool3d(3, 1, 1),
    "identity": lambda pool: nn.Identity(),
    "a larger window": lambda pool: reference.MaxPool3dSame((5, 3, 3), (1, 1, 1)),
}


def check_inner(path: str, attribute: str, replacements: dict[str, Callable[[Any], Any]]) -> None:
    model, x = make(), random_clip(*CLIP)
    name = INNER[path]
    original, given = getattr(model, name), map_before(model, name, x)
    before = check(model, name, x, given)
    for what, replace in replacements.items():
        if what == "more filters" and path == "Conv3d_1a_7x7":
            continue
        part = copy.deepcopy(original)
        setattr(model, name, part)
        unit = model.get_submodule(path)
        setattr(unit, attribute, replace(unit))
        part.eval()
        assert not torch.equal(check(model, name, x, given), before), what


# These compute what was there before.
SAME = ("circular padding", "padding called valid")


@pytest.mark.parametrize("path", INNER)
def test_convolutions_of_units(path: str) -> None:
    check_inner(path, "conv3d", {what: r for what, r in CONVS.items() if what not in SAME})


@pytest.mark.parametrize("path", INNER)
def test_batch_norms_of_units(path: str) -> None:
    check_inner(path, "bn", NORMS)


def test_the_pool_of_a_block() -> None:
    model, x = make(), random_clip(*CLIP)
    given, original = map_before(model, "Mixed_4c", x), model.Mixed_4c.b3a
    before = check(model, "Mixed_4c", x, given)
    for what, replace in POOLS.items():
        model.Mixed_4c.b3a = replace(copy.deepcopy(original)).eval()
        assert not torch.equal(check(model, "Mixed_4c", x, given), before), what


@pytest.mark.parametrize("what", SAME)
def test_values_that_torch_takes_for_the_same(what: str) -> None:
    model, x = make(), random_clip(*CLIP)
    model.Conv3d_2c_3x3.conv3d = CONVS[what](model.Conv3d_2c_3x3)
    check(model, "Conv3d_2c_3x3", x)


# ---------------------------------------------------------------- the head


class Scores(nn.Module):
    """A classifier that looks at what it likes and gives (N, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.amax(dim=(2, 3, 4)))


def random_norm() -> nn.Module:
    bn = nn.BatchNorm3d(FEATURES)
    randomise(bn)
    return bn


DROPOUTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    **ANY,
    "batch norm": lambda _: random_norm(),
    "convolution": lambda _: nn.Conv3d(FEATURES, FEATURES, 1),
    "sequence": lambda _: nn.Sequential(nn.Conv3d(FEATURES, FEATURES, 1), nn.ReLU()),
    "softmax": lambda _: nn.Softmax(1),
    "pool": lambda _: nn.AvgPool3d(1, 1, 0, divisor_override=3),
    "unit": lambda _: reference.Unit3D(FEATURES, FEATURES),
}
CLASSIFIERS: dict[str, tuple[Callable[[nn.Module], nn.Module], int]] = {
    **{what: (replace, CLASSES) for what, replace in ANY.items()},
    "convolution": (lambda _: nn.Conv3d(FEATURES, 10, 1), 10),
    "two convolutions": (
        lambda _: nn.Sequential(nn.Conv3d(FEATURES, 8, 1), nn.ReLU(), nn.Conv3d(8, 3, 1)),
        3,
    ),
    "linear": (lambda _: nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(FEATURES, 4)), 4),
    "a module of the user's own": (lambda _: Scores(), 5),
    "unit": (lambda _: reference.Unit3D(FEATURES, 6), 6),
    "identity": (lambda _: nn.Identity(), FEATURES),
}
HEAD_CLIP = (1, 3, 9, 193, 193)


@pytest.fixture(scope="module")
def warm(narrow: None) -> I3D:
    """A network with a plan, which the tests of the head copy."""
    model = make()
    with torch.no_grad():
        model(random_clip(*HEAD_CLIP))
    return model


def check_head(model: I3D) -> Tensor:
    """The head of the fused trunk against that of the plain network."""
    x = random_clip(*HEAD_CLIP)
    names = ("Mixed_5c", *network.HEAD)
    with torch.no_grad():
        maps = model.forward_endpoints(x, names)
        assert list(maps) == list(names)
        for name, expected in reference.I3D._head(model, maps["Mixed_5c"], {"Logits"}).items():
            assert_close("i3d", maps[name], expected)
    return maps["Logits"]


def test_dropouts(warm: I3D) -> None:
    before = check_head(warm)
    model, original = warm, warm.dropout
    for what, replace in DROPOUTS.items():
        model.dropout = replace(copy.deepcopy(original)).eval()
        assert not torch.equal(check_head(model), before) or what == "softmax", what
        assert model._plan is not None, what
    for nothing in (nn.Identity(), nn.Dropout3d(0.9), nn.AlphaDropout(), nn.FeatureAlphaDropout()):
        model.dropout = nothing.eval()
        assert torch.equal(check_head(model), before)
    model.dropout = original


def test_classifiers(warm: I3D) -> None:
    model, original = warm, warm.logits
    for what, (replace, classes) in CLASSIFIERS.items():
        model.logits = copy.deepcopy(original)
        model.labels = tuple("abcdefg")
        model.logits = replace(model.logits).eval()
        assert check_head(model).shape == (1, classes), what
        assert model.num_classes == classes, what
        kept = what in ANY  # which is around the same layer
        assert (model.labels is not None) == kept, what
        assert model._plan is not None, what
    model.logits = original


def test_only_a_classifier_that_learns(warm: I3D) -> None:
    """The trunk stays fused below it."""
    model = copy.deepcopy(warm).requires_grad_(False)
    model.logits = nn.Conv3d(FEATURES, 3, 1)
    model.eval()
    model(random_clip(*HEAD_CLIP)).sum().backward()
    assert model._plan is not None
    assert model.logits.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------- the network as a whole


def test_missing_parts_are_those_of_the_plain_network() -> None:
    model, x = make(), random_clip(*CLIP)
    del model.Mixed_4b
    with torch.no_grad():
        check(model, "Mixed_3c", x)
        with pytest.raises(AttributeError, match="Mixed_4b"):
            model.forward_endpoints(x, ["Mixed_4c"])
    model = make()
    model.Mixed_4b = None
    with pytest.raises(TypeError), torch.no_grad():
        model.forward_endpoints(x, ["Mixed_4c"])


def shared(model: Any) -> None:
    model.Mixed_4d.b1a = model.Mixed_4d.b2a
    model.Mixed_4e = model.Mixed_4c


def more_modules(model: Any) -> None:
    model.extra = nn.Linear(3, 3)
    model.Mixed_3b.extra = nn.Linear(3, 3)


def mixed_dtypes(model: Any) -> None:
    model.Mixed_4b.b0.bn.half()


def narrower_norm(model: Any) -> None:
    model.Mixed_4b.b0.bn = nn.BatchNorm3d(1)


def patched_class(model: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference.Mixed, "forward", lambda self, x: -self.b0(x).repeat(1, 6, 1, 1, 1))


def test_other_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_clip(*CLIP)
    for change in (more_modules, partial(patched_class, patch=monkeypatch)):
        model = make()
        check(model, "Mixed_4b", x)
        change(model)
        check(model, "Mixed_4b", x)
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "TRUNK", NARROW)
        model = make()
        narrower_norm(model)
        with pytest.raises(RuntimeError, match="running_mean"), torch.no_grad():
            model.forward_endpoints(x, ["Mixed_4b"])


def test_widths_may_change_together_and_not_alone() -> None:
    model, x = make(), random_clip(*CLIP)
    block, pool = model.Mixed_4b, NARROW["Mixed_3c"].out_channels
    block.b1a, block.b1b = reference.Unit3D(pool, 12), reference.Unit3D(12, 40, (3, 3, 3))
    check(model.eval(), "Mixed_4b", x)
    assert model._plan is not None
    block.b1a = reference.Unit3D(pool, 13).eval()
    with pytest.raises(RuntimeError, match="to have 12 channels, but got 13"), torch.no_grad():
        model.forward_endpoints(x, ["Mixed_4b"])


def test_a_class_between_the_network_and_its_reference() -> None:
    class Negated(reference.I3D):
        def forward_endpoints(self, x: Tensor, names: Any) -> dict[str, Tensor]:
            return {name: -y for name, y in super().forward_endpoints(x, names).items()}

    class Both(I3D, Negated):
        pass

    model, x = make(lambda: Both(CLASSES)), random_clip(*CLIP)
    with torch.no_grad():
        y = model.forward_endpoints(x, ["Mixed_3b"])["Mixed_3b"]
        plain = reference.I3D.forward_endpoints(model, x, ["Mixed_3b"])["Mixed_3b"]
    assert torch.equal(y, -plain)


def test_imports_change_nothing(warm: I3D) -> None:
    """Containers of compat's blocks are known in them alone."""
    model = copy.deepcopy(warm)
    conv = nn.Conv3d(FEATURES, FEATURES, 1)
    model.dropout = nn.Sequential(conv).eval()
    assert not torch.equal(check_head(model), check_head(warm))
