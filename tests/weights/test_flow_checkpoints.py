"""Checkpoints of the flow stream, in every file that RGB ones come in."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_checkpoint import FILES
from weights_making import Tensors, to_deepmind

from fasti3d.models import load_model
from fasti3d.two_stream import TwoStreamI3D
from fasti3d.weights import load

# TorchScript is on its way out, but its archives are still about.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

STEM = "Conv3d_1a_7x7.conv3d.weight"


def _flow(tensors: Tensors) -> Tensors:
    """The same network with a stem for two channels, whose order shows."""
    return {key: tensor[:, :2].clone() if key == STEM else tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize("kind", FILES)
def test_flow_weights_load_from_every_kind_of_file(
    kind: str, tmp_path: Path, state_dict: Tensors, without_scale: Tensors
) -> None:
    save, form, scale = FILES[kind]
    tensors = _flow(state_dict if scale else without_scale)
    path = tmp_path / "flow.bin"
    save(tensors, path)
    checkpoint = load(path)
    assert (checkpoint.format, checkpoint.in_channels, checkpoint.num_classes) == (form, 2, 400)
    drawn = torch.get_rng_state()
    model = load_model(path, device="cpu", dtype="float32")
    assert torch.equal(torch.get_rng_state(), drawn), "no weights are drawn that none sees"
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert model.Conv3d_1a_7x7.conv3d.weight.shape == (24, 2, 7, 7, 7)
    loaded = model.state_dict()
    for key, tensor in tensors.items():
        assert key.endswith("num_batches_tracked") or torch.equal(loaded[key], tensor), key


def test_the_released_flow_variables_make_a_two_stream_network(
    tmp_path: Path, without_scale: Tensors
) -> None:
    paths = {}
    for stream, tensors in (("RGB", without_scale), ("Flow", _flow(without_scale))):
        paths[stream] = tmp_path / f"{stream}.safetensors"
        safetensors.torch.save_file(to_deepmind(tensors, stream), paths[stream])
    rgb, flow = (load_model(path, device="cpu", dtype="float32") for path in paths.values())
    two = TwoStreamI3D(rgb, flow)
    assert two.labels is not None
    assert len(two.labels) == 400
