"""Checkpoints as people keep them: tensors beside objects of any kind, which are skipped and never run."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import io
import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weights_making import Tensors, to_deepmind, to_hassony2, to_jax

from fasti3d import I3D
from fasti3d.weights import WeightsError, load, load_partial
from fasti3d.weights.containers import read


class _Mode(enum.Enum):
    TRAIN = 1


class _State(collections.OrderedDict[str, Any]):
    """A dict of the user's own."""


class _Config(dict[str, Any]):
    """A configuration that holds itself, as omegaconf's nodes hold their parents."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.parent = self


class _Slots:
    __slots__ = ("inner",)

    def __init__(self) -> None:
        self.inner = {"a": 1}

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        return None, {"inner": self.inner}


@dataclass
class _Settings:
    width: int = 3
    names: list[str] = field(default_factory=lambda: ["a"])


OBJECTS: dict[str, Any] = {
    "Namespace": argparse.Namespace(lr=0.1, sizes=[1, 2]),
    "path": Path("a/b"),
    "numpy scalar": np.float64(0.5),
    "numpy array": np.arange(3),
    "array of objects": np.array([None, {}], dtype=object),
    "dict of its own": _State(a=1),
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    "enum": _Mode.TRAIN,
    "defaultdict": collections.defaultdict(list, a=[1]),
    "partial": functools.partial(os.path.join, "a"),
    "class": _Settings,
    "dataclass": _Settings(),
    "configuration": _Config(),
    "slots": _Slots(),
    "set": {1, 2},
    "frozen set": frozenset([1]),
    "bytes": b"abc",
    "complex": 1j,
    "dtype": torch.float16,
    "device": torch.device("cpu"),
    "size": torch.Size([1, 2]),
    "generator state": torch.get_rng_state(),
    "sparse tensor": torch.eye(3).to_sparse(),
    "expanded tensor": torch.zeros(1).expand(1000),
    "optimizer": torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).state_dict(),
    "large number": 1 << 200,
    "tuple as a key": {(1, 2): 3, None: 4, b"a": 5},
    "nested": {"a": [{"b": (argparse.Namespace(x=Path("y")),)}]},
}
TENSORS = {f"Mixed_4{block}.b0.bn.{leaf}": torch.rand(3) for block in "bcdef" for leaf in ("weight", "bias")}


def _loaded(content: Any, **options: Any) -> Tensors:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return load_partial(buffer)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", OBJECTS)
def test_tensors_beside_any_object_load(name: str, legacy: bool) -> None:
    options = {"_use_new_zipfile_serialization": not legacy}
    for content in (
        {"state_dict": TENSORS, "it": OBJECTS[name]},
        {"it": [OBJECTS[name]], "state_dict": TENSORS, "again": OBJECTS[name]},
    ):
        loaded = _loaded(content, **options)
        assert all(torch.equal(loaded[key], tensor) for key, tensor in TENSORS.items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [_State, collections.OrderedDict, lambda t: collections.defaultdict(int, t)])
def test_a_state_dict_of_any_class_loads(kind: Any, protocol: int) -> None:
    loaded = _loaded({"args": argparse.Namespace(), "state_dict": kind(TENSORS)}, pickle_protocol=protocol)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in TENSORS.items())


class _Tagged(torch.Tensor):
    """A tensor of a class of its own."""


def test_tensors_of_any_class_load() -> None:
    kinds = [torch.nn.Parameter, torch.nn.Buffer, lambda t: t.as_subclass(_Tagged), lambda t: t.clone()]
    content = {key: kinds[i % 4](tensor) for i, (key, tensor) in enumerate(TENSORS.items())}
    tagged = torch.nn.Parameter(torch.ones(3))
    tagged.note = "attributes make it another pickle"  # type: ignore[attr-defined]
    loaded = _loaded(content | {"Mixed_5b.b0.bn.weight": tagged})
    assert all(torch.equal(loaded[key], tensor) for key, tensor in TENSORS.items())
    assert torch.equal(loaded["Mixed_5b.b0.bn.weight"], torch.ones(3))


def test_views_and_strides_come_back() -> None:
    whole = torch.arange(60.0)
    views = {key: whole[i : i + 6].view(2, 3).t() for i, key in enumerate(TENSORS)}
    for legacy in (False, True):
        loaded = _loaded(views, _use_new_zipfile_serialization=legacy)
        assert all(torch.equal(loaded[key], view) for key, view in views.items())


def test_dtypes_without_a_storage_of_their_own_come_back() -> None:
    content = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in TENSORS.items()}
    loaded = _loaded(content)
    assert all(torch.equal(loaded[key], tensor.float()) for key, tensor in content.items())


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_would_run_does_not_beside_good_tensors(legacy: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    loaded = _loaded(
        {"x": _Evil(canary), "state_dict": TENSORS, "y": {"z": [_Evil(canary)]}},
        _use_new_zipfile_serialization=not legacy,
    )
    assert loaded.keys() >= TENSORS.keys()
    assert not canary.exists()


def test_a_file_of_nothing_but_objects_says_what_they_are() -> None:
    buffer = io.BytesIO()
    torch.save({"model": argparse.Namespace(a=Path("b"))}, buffer)
    with pytest.raises(WeightsError, match=r"besides tensors \(argparse\.Namespace, pathlib.*\) are left"):
        load(buffer)


# ---------------------------------------------------------------- what else is taken


def test_a_state_dict_is_taken(state_dict: Tensors) -> None:
    for given in (state_dict, {"state_dict": to_hassony2(state_dict)}, collections.OrderedDict(state_dict)):
        model = I3D(weights=given)
        assert all(torch.equal(tensor, state_dict[key]) for key, tensor in model.state_dict().items())
    arrays = load({key: tensor.numpy() for key, tensor in state_dict.items()})
    assert arrays.sha256 == load(state_dict).sha256
    changed = state_dict | {"logits.conv3d.bias": torch.zeros(400)}
    assert arrays.sha256 != load(changed).sha256
    with pytest.raises(
        WeightsError, match="the state dict: it has pytorch-i3d names but is not a complete I3D"
    ):
        I3D(weights={key: tensor for key, tensor in state_dict.items() if "5c" not in key})


@pytest.mark.parametrize(
    "change",
    [lambda a: a.astype(a.dtype.newbyteorder(">")), lambda a: a[..., ::-1].copy()[..., ::-1]],
    ids=["big-endian", "reversed"],
)
def test_arrays_are_taken_as_they_lie_in_memory(change: Any) -> None:
    arrays = {key: change(tensor.numpy()) for key, tensor in TENSORS.items()}
    loaded = load_partial(arrays)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in TENSORS.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.to_sparse(), r"bn\.\w+ is torch.float32 \(torch.sparse_coo\); plain"),
        (lambda t: t.to("meta"), r"bn\.\w+ is on the meta device, where it has no numbers"),
    ],
    ids=["sparse", "meta"],
)
@pytest.mark.parametrize("rename", [dict, to_deepmind])
def test_tensors_that_are_no_plain_ones_are_named(rename: Any, change: Any, said: str) -> None:
    leaves = ("bias", "running_mean", "running_var")
    tensors = {f"Mixed_4{block}.b0.bn.{leaf}": torch.ones(3) for block in "bcdef" for leaf in leaves}
    with pytest.raises(WeightsError, match=f"the state dict: Mixed_.*{said}"):
        load_partial({key: change(tensor) for key, tensor in rename(tensors).items()})


def test_a_second_name_of_one_tensor_is_unexpected(without_scale: Tensors) -> None:
    variables = to_deepmind(without_scale)
    (name,) = (key for key in variables if "Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w" in key)
    second = name.replace("0a_3x3", "0b_3x3")
    with pytest.raises(WeightsError, match=f"unexpected: {second}$"):
        load(variables | {second: variables[name] + 1})


def test_an_open_file_is_taken_from_its_beginning(tmp_path: Path, state_dict: Tensors) -> None:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    path = tmp_path / "weights.pt"
    path.write_bytes(buffer.getvalue())
    with path.open("rb") as file:
        from_file = load(file)
    assert from_file.source == str(path)
    assert from_file.sha256 == load(path).sha256 == load(buffer).sha256
    assert torch.equal(I3D(weights=buffer).logits.conv3d.bias, state_dict["logits.conv3d.bias"])


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (3, "got int"),
        ([torch.ones(1)], "got list"),
        (b"PK", r"got bytes: give io\.BytesIO\(data\)"),
        (torch.nn.Linear(1, 1), r"got Linear: give its state_dict\(\)"),
        (io.StringIO("x"), r"open\(path, 'rb'\)"),
    ],
    ids=["int", "list", "bytes", "module", "text"],
)
def test_what_is_not_taken_says_what_is(given: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=f"weights must be .*{hint}"):
        load(given)


def test_a_pipe_is_not_waited_for() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as file, open(writing, "wb"), pytest.raises(TypeError, match="seekable"):
        load(file)


@pytest.mark.parametrize("rename", [dict, to_hassony2, to_deepmind, to_jax], ids=lambda f: f.__name__)
def test_advice_for_a_trunk_is_true_in_every_format(
    rename: Any, tmp_path: Path, without_scale: Tensors
) -> None:
    trunk = {key: tensor for key, tensor in without_scale.items() if "logits" not in key}
    path = tmp_path / "trunk.pt"
    if rename is to_jax:
        path.write_bytes(pickle.dumps(to_jax(trunk)))
    else:
        torch.save({"model": {f"backbone.{key}": tensor for key, tensor in rename(trunk).items()}}, path)
    with pytest.raises(
        WeightsError, match=r"load_state_dict\(fasti3d\.weights\.load_partial\(path\), strict=False\)"
    ):
        load(path)
    model = I3D(7)
    missing, unexpected = model.load_state_dict(load_partial(path), strict=False)
    assert set(missing) == {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert unexpected == []
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in trunk.items())


def test_nothing_else_is_read_of_a_file(state_dict: Tensors) -> None:
    """A tensor that is not needed may be anything, even of bytes that are not there."""
    buffer = io.BytesIO()
    torch.save({"i3d": TENSORS, "other": {"huge": torch.empty(10)}}, buffer)
    contents = read(buffer)
    assert set(contents.groups) == {"i3d", "other"}
    assert load_partial(buffer).keys() >= TENSORS.keys()
