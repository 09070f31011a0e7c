"""I3D-ResNet weights under every implementation's names."""

from __future__ import annotations

import io
import pickle

import pytest
import torch
from resnet_making import make

import fasti3d
from fasti3d.weights import WeightsError, load_resnet
from fasti3d.weights.resnet_formats import NAMINGS

pytestmark = pytest.mark.usefixtures("narrow")

NAMED = {naming.name: naming for naming in NAMINGS}
CASES = [
    ("pytorch-resnet3d", "caffe2-32x2", "embedded_gaussian"),
    ("mmaction2", "mmaction2-32x2", "gaussian"),
    ("mmaction2", "mmaction2-heavy", None),
    ("pytorchvideo", "pytorchvideo-8x8", None),
    ("pytorchvideo", "c2d-8x8", None),
    ("pytorchvideo-slow", "slow-8x8", None),
    ("pyslowfast", "pytorchvideo-8x8", "dot_product"),
    ("caffe2", "caffe2-32x2", "embedded_gaussian"),
]


@pytest.fixture(scope="module")
def states(narrow):
    """State dicts by network, which are slow to draw."""
    kept: dict[tuple[str, str | None], dict[str, torch.Tensor]] = {}

    def of(variant, non_local=None):
        if (variant, non_local) not in kept:
            kept[variant, non_local] = make(variant, non_local).state_dict()
        return dict(kept[variant, non_local])

    return of


def named(state, name):
    """As an implementation stores it."""
    theirs = {ours: its for its, ours in NAMED[name].keys().items()}
    return {theirs[key]: tensor for key, tensor in state.items() if key in theirs}


def file_of(tensors, name):
    """As an implementation writes it."""
    file = io.BytesIO()
    if name == "caffe2":
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        arrays |= {
            "conv1_w_momentum": arrays["conv1_w"],
            "lr": arrays["pred_b"][:1],
            "model_iter": arrays["pred_b"],
        }
        pickle.dump({"blobs": arrays}, file, protocol=2)
    elif name == "pyslowfast":
        torch.save({"epoch": 3, "model_state": tensors, "optimizer_state": {"state": {}}}, file)
    else:
        torch.save({"state_dict": tensors} if name == "mmaction2" else tensors, file)
    file.seek(0)
    return file


@pytest.mark.parametrize(("name", "variant", "non_local"), CASES)
def test_every_naming_is_read(states, name, variant, non_local):
    state = states(variant, non_local)
    checkpoint = load_resnet(file_of(named(state, name), name))
    assert checkpoint.format == name
    assert variant in checkpoint.variants
    assert checkpoint.num_classes == 5
    assert (non_local or "") in (checkpoint.non_local or ("",))
    assert checkpoint.state_dict.keys() == state.keys()
    for key, tensor in state.items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(checkpoint.state_dict[key], tensor), key
    model = fasti3d.I3DResNet(variant, non_local=non_local, weights=checkpoint.state_dict)
    assert torch.equal(model.fc.weight, state["fc.weight"])


def test_what_shapes_tell_of_the_variant(states):
    assert load_resnet(named(states("pytorchvideo-8x8"), "pytorchvideo")).variants == ("pytorchvideo-8x8",)
    assert load_resnet(named(states("c2d-8x8"), "pytorchvideo")).variants == ("c2d-8x8",)
    of_caffe2 = load_resnet(named(states("pytorchvideo-8x8"), "caffe2"))
    assert of_caffe2.variants == ("caffe2-32x2", "caffe2-8x8", "pytorchvideo-8x8")
    of_mmaction2 = load_resnet(named(states("mmaction2-32x2", "gaussian"), "mmaction2"))
    assert (of_mmaction2.variants, of_mmaction2.non_local) == (("mmaction2-32x2",), ("gaussian",))


@pytest.mark.parametrize(
    ("stored", "asked", "words"),
    [
        (
            ("c2d-8x8", "pytorchvideo"),
            ("pytorchvideo-8x8",),
            "variant 'pytorchvideo-8x8' where they are of 'c2d-8x8'",
        ),
        (
            ("mmaction2-32x2", "mmaction2"),
            ("caffe2-32x2",),
            "'caffe2-32x2' where they are of 'mmaction2-32x2'",
        ),
        (("slow-8x8", "pytorchvideo-slow"), ("slow-8x8", 101), "depth 101 where they have 50"),
        (
            ("pytorchvideo-8x8", "pyslowfast"),
            ("pytorchvideo-8x8", 50, "embedded_gaussian"),
            "non_local='embedded_gaussian' where they fit None",
        ),
    ],
)
def test_weights_of_another_network_are_refused(states, stored, asked, words):
    variant, name = stored
    with pytest.raises(WeightsError, match=words):
        fasti3d.I3DResNet(*asked, weights=named(states(variant), name))


def test_gaussian_weights_do_not_fit_embedded_blocks(states):
    stored = named(states("mmaction2-32x2", "gaussian"), "mmaction2")
    with pytest.raises(WeightsError, match="non_local='embedded_gaussian' where they fit 'gaussian'"):
        fasti3d.I3DResNet("mmaction2-32x2", non_local="embedded_gaussian", weights=stored)


def test_damaged_and_foreign_weights(states):
    state = states("caffe2-32x2", "embedded_gaussian")
    missing = {key: t for key, t in state.items() if key != "layer3.2.conv2.weight"}
    with pytest.raises(WeightsError, match=r"not a complete network of .*missing: layer3\.2\.conv2\.weight"):
        load_resnet(missing)
    affine = {key: t for key, t in named(state, "caffe2").items() if not key.endswith(("_rm", "_riv"))}
    with pytest.raises(WeightsError, match="no running statistics"):
        load_resnet(affine)
    flat = state | {"conv1.weight": state["conv1.weight"][:, :, 0]}
    with pytest.raises(WeightsError, match="2-D ResNet"):
        load_resnet(flat)
    with pytest.raises(WeightsError, match="no I3D-ResNet weights with a classifier in it"):
        load_resnet(fasti3d.I3D(3).state_dict())
    for size in ((), (0, 160)):
        with pytest.raises(WeightsError, match=r"its classifier fc.weight has shape .*, not \(classes"):
            load_resnet(state | {"fc.weight": torch.zeros(size)})
    with pytest.raises(WeightsError, match="infinite or NaN"):
        load_resnet(state | {"fc.bias": state["fc.bias"] / 0})


def test_saved_networks_say_their_variant(states, tmp_path):
    state = states("mmaction2-32x2", "gaussian")
    model = fasti3d.I3DResNet("mmaction2-32x2", non_local="gaussian", weights=state)
    model.labels = list("abcde")
    path = model.save_pretrained(tmp_path / "net")
    assert path.name == "model.safetensors"
    again = fasti3d.I3DResNet.from_pretrained(tmp_path / "net")
    assert (again.variant, again.non_local, again.labels, again.training) == (
        *("mmaction2-32x2", "gaussian"),
        *(("a", "b", "c", "d", "e"), False),
    )
    with pytest.raises(WeightsError, match="'caffe2-8x8' where they are of 'mmaction2-32x2'"):
        fasti3d.I3DResNet.from_pretrained(path, "caffe2-8x8")
    dotted = states("pytorchvideo-8x8", "dot_product")  # names fit embedded_gaussian as well
    fasti3d.I3DResNet("pytorchvideo-8x8", 50, "dot_product", weights=dotted).save_pretrained(tmp_path)
    assert fasti3d.I3DResNet.from_pretrained(tmp_path / "model.safetensors").non_local == "dot_product"


def test_what_a_file_cannot_tell_is_asked_for(states):
    with pytest.raises(WeightsError, match="may be of the variants caffe2-32x2, caffe2-8x8, pyt"):
        fasti3d.I3DResNet.from_pretrained(named(states("pytorchvideo-8x8"), "caffe2"))
    with pytest.raises(WeightsError, match="may be embedded_gaussian or dot_product: say non_local="):
        fasti3d.I3DResNet.from_pretrained(
            named(states("pytorchvideo-8x8", "dot_product"), "pyslowfast"), "pytorchvideo-8x8"
        )
