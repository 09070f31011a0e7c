"""Whether a network still is what it was described as: the extension's answers are those in Python."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from i3d_making import SMALL, make_i3d, ordinary, random_clip
from torch import Tensor, nn

from fasti3d import I3D, reference
from fasti3d.engine.describe.inception import watch as watched
from fasti3d.engine.describe.watch import Watch
from fasti3d.network import TRUNK
from fasti3d.runtime import extension

NAMES = tuple(TRUNK)

pytestmark = pytest.mark.usefixtures("narrow")


class Own(I3D):
    """A class that tests may change."""


class Base(nn.Module):
    scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x


class Part(Base):
    """Another, of a part."""


@pytest.fixture(params=["extension", "python"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What answers."""
    if request.param == "python":
        monkeypatch.setattr(extension, "CORE", None)
    elif extension.CORE is None:
        pytest.skip("the extension is not built")
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def network(narrow: None) -> I3D:
    model = make_i3d(1)
    model.__class__ = Own
    model.dropout = nn.Sequential(Part())
    model.dropout[0].taps = [1, (2, [3])]
    return model.eval()


@pytest.fixture
def kept(network: I3D) -> Iterator[I3D]:
    """The network, after which its classes are as they were."""
    classes = {cls: dict(vars(cls)) for cls in (Own, Base, Part, nn.Module, reference.Unit3D, nn.Conv3d)}
    yield network
    for cls, before in classes.items():
        for name in set(vars(cls)).difference(before):
            delattr(cls, name)
        for name, value in before.items():
            if vars(cls)[name] is not value:
                setattr(cls, name, value)


def patched(cls: type, name: str, value: Any) -> tuple[Callable[[I3D], Any], Callable[[I3D, Any], Any]]:
    """A class's attribute exchanged, and back."""

    def change(_: I3D) -> Any:
        before = vars(cls).get(name)
        setattr(cls, name, value)
        return before

    def back(_: I3D, before: Any) -> None:
        if before is None:
            delattr(cls, name)
        else:
            setattr(cls, name, before)

    return change, back


def replaced(name: str) -> tuple[Callable[[I3D], Any], Callable[[I3D, Any], Any]]:
    """A dict of a part exchanged for one with something else in it, and back."""

    def change(m: I3D) -> Any:
        before = m.Mixed_4c.b0.__dict__[name]
        m.Mixed_4c.b0.__dict__[name] = OrderedDict(before, more=None)
        return before

    return change, lambda m, before: m.Mixed_4c.b0.__dict__.update({name: before})


def own_dict(m: I3D) -> Any:
    before = m.Mixed_4c.b0.__dict__
    m.Mixed_4c.b0.__dict__ = {**before, "stride": (1, 2, 2)}
    return before


# All that `describe` looks at; of each the opposite, which leaves the network as it was.
EDITS: dict[str, tuple[Callable[[I3D], Any], Callable[[I3D, Any], Any] | None]] = {
    "a hook": (
        lambda m: m.Mixed_4c.b0.conv3d.register_forward_pre_hook(lambda *_: None),
        lambda m, handle: handle.remove(),
    ),
    "eps": (
        lambda m: setattr(m.Mixed_4c.b0.bn, "eps", 1e-5),
        lambda m, _: setattr(m.Mixed_4c.b0.bn, "eps", 1e-3),
    ),
    "training": (lambda m: m.Mixed_4c.b0.bn.train(), lambda m, _: m.Mixed_4c.b0.bn.eval()),
    "a forward": (
        lambda m: setattr(m.Mixed_4c, "forward", lambda x: x),
        lambda m, _: m.Mixed_4c.__dict__.pop("forward"),
    ),
    "a part": (
        lambda m: m._modules.pop("Mixed_5c"),
        lambda m, part: setattr(m, "Mixed_5c", part),
    ),
    "a class": (
        lambda m: setattr(m.Mixed_4c, "__class__", type("Other", (type(m.Mixed_4c),), {})),
        lambda m, _: setattr(m.Mixed_4c, "__class__", type(m.Mixed_4c).__mro__[1]),
    ),
    "the network's class": (
        lambda m: setattr(m, "__class__", type("Other", (Own,), {})),
        lambda m, _: setattr(m, "__class__", Own),
    ),
    "a tensor of one equal value": (
        lambda m: m.logits.conv3d._parameters.update(
            bias=nn.Parameter(m.logits.conv3d.bias.detach().clone())
        ),
        None,
    ),
    "a child": (
        lambda m: m.Mixed_4c.b0.add_module("more", nn.Tanh()),
        lambda m, _: m.Mixed_4c.b0._modules.pop("more"),
    ),
    "a part's name in the instance": (
        lambda m: m.__dict__.update(Mixed_4d=m.Mixed_4c),
        lambda m, _: m.__dict__.pop("Mixed_4d"),
    ),
    "a list inside": (
        lambda m: m.dropout[0].taps[1][1].append(4),
        lambda m, _: m.dropout[0].taps[1][1].pop(),
    ),
    "its dict": (own_dict, lambda m, before: setattr(m.Mixed_4c.b0, "__dict__", before)),
    "the dict of hooks": replaced("_forward_hooks"),
    "the dict of parts": replaced("_modules"),
    "a part's name in the class": patched(Own, "Mixed_4d", None),
    "the name of a part of a part in its class": patched(reference.Unit3D, "bn", property(lambda _: None)),
    "an attribute in its class": patched(nn.Conv3d, "groups", property(lambda _: 2)),
    "a method of its class": patched(reference.Unit3D, "forward", lambda self, x: x),
    "a method of torch": patched(nn.Module, "__call__", lambda self, x: x),
    "a constant of a class": patched(Base, "scale", 2.0),
    "the bases of a class": (
        lambda _: setattr(Part, "__bases__", (type("Between", (Base,), {}),)),
        lambda *_: setattr(Part, "__bases__", (Base,)),
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_change_is_seen_and_its_opposite(edit: str, form: str, kept: I3D) -> None:
    watch = watched(kept, NAMES)
    assert watch.holds()
    assert watch._is_untouched() == (form == "extension")
    change, back = EDITS[edit]
    before = change(kept)
    assert not watch.holds()
    assert not watch.holds()
    if back is not None:
        back(kept, before)
        assert watch.holds()


def equal_eps(m: I3D) -> None:
    m.Mixed_4c.b0.bn.eps = float(str(m.Mixed_4c.b0.bn.eps))


def again(m: I3D) -> None:
    """Sets an attribute that then comes last."""
    value = m.Mixed_4c.b0.__dict__.pop("stride")
    m.Mixed_4c.b0.stride = value


def values(m: I3D) -> None:
    with torch.no_grad():
        m.Mixed_4c.b0.bn.bias.add_(0)
    m.eval()


SAME: dict[str, Callable[[I3D], Any]] = {
    "an equal number": equal_eps,
    "another order": again,
    "tensors' values": values,
    "a copy of an instance": lambda m: setattr(Part, "__slotnames__", []),
    "an attribute of the network": lambda m: setattr(m, "calls", 1),
    "a class's attribute and back": lambda m: (setattr(Own, "Mixed_4d", None), delattr(Own, "Mixed_4d")),
}


@pytest.mark.parametrize("what", SAME)
def test_what_leaves_it_as_it_is(what: str, form: str, kept: I3D) -> None:
    watch = watched(kept, NAMES)
    assert watch.holds()
    SAME[what](kept)
    for _ in range(2):
        assert watch.holds()
    assert watch._is_untouched() == (form == "extension"), "compared once more, and not at each call"


def test_only_where_hooks_are_not_to_be(form: str) -> None:
    root = nn.Sequential(nn.ReLU())
    watch = Watch(root, (), root.modules(), unhooked=root[:1], tensors=False)
    assert watch.holds()
    root.register_forward_hook(print)
    assert watch.holds(), "its own hooks are run by its caller"
    handle = root[0].register_forward_hook(print)
    assert not watch.holds()
    assert not Watch(root, (), root.modules(), unhooked=root[:1]).holds(), "not even those of before"
    handle.remove()
    assert watch.holds()


def test_a_part_s_name_in_the_class_shows_in_the_next_output(form: str, kept: I3D) -> None:
    x = random_clip(*SMALL)
    with torch.no_grad():
        before = kept.forward_endpoints(x, ("Conv3d_2b_1x1",))["Conv3d_2b_1x1"]
        assert kept._plan is not None
        Own.Conv3d_2b_1x1 = nn.Tanh()
        after = kept.forward_endpoints(x, ("Conv3d_2b_1x1",))["Conv3d_2b_1x1"]
    assert not torch.equal(before, after)
    assert torch.equal(after, ordinary(kept, x, "Conv3d_2b_1x1")["Conv3d_2b_1x1"])


@pytest.mark.skipif(extension.CORE is None, reason="the extension is not built")
def test_what_the_extension_refuses() -> None:
    core = extension.CORE
    with pytest.raises(TypeError, match="dicts must be a list of dicts"):
        core.contents_of([], [{}, []])
    with pytest.raises(AttributeError):
        core.contents_of([3], [])
    with pytest.raises(TypeError, match="must be list, not tuple"):
        core.contents_of((), [])
    held = {"a": 1}
    contents = core.contents_of([], [held])
    assert core.holds_contents([], [held], contents)
    assert not core.holds_contents([], [held, held], contents)
    assert not core.holds_contents([], [], contents)
    assert not core.holds_contents([], [[]], contents)
    with pytest.raises(AttributeError):
        core.holds_contents([3], [held], contents)
    with pytest.raises(TypeError, match="expected bytes"):
        core.holds_contents([], [held], ([], "text"))
