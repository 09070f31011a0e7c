"""The network's side of FVD."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from clip_making import noise
from safetensors.torch import save_file

import fasti3d
from fasti3d import reference, weights
from fasti3d.metrics.embedding import Embedding
from fasti3d.metrics.presets import PRESETS, prepare

TF = PRESETS["tf"]
# Float32 through 21 convolutions; see tests/tolerances.py.
FLOAT32 = 2e-5


@pytest.mark.parametrize("preset", ["tf", "videogpt"])
def test_features_are_the_reference_s_logits(random_weights: Path, preset: str) -> None:
    clips = noise(1, size=(40, 30)).permute(0, 1, 4, 2, 3)
    chosen = PRESETS[preset]
    found = Embedding(chosen, random_weights, device="cpu")(clips, 0, 255)
    network = reference.I3D(5).eval()
    network.load_state_dict(weights.load(random_weights).state_dict)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eps = {"tf": 1e-3, "videogpt": 1e-5}[preset]
    with torch.no_grad():
        expected = network(prepare(clips, 0, 255, chosen))
    assert (found.shape, found.dtype) == ((1, 5), torch.float64)
    assert (found - expected).abs().max() < FLOAT32 * expected.abs().max()


def test_batches_give_the_same_features(random_weights: Path) -> None:
    clips = noise(3, size=(20, 20)).permute(0, 1, 4, 2, 3)
    one = Embedding(TF, random_weights, device="cpu", batch=1)(clips, 0, 255)
    two = Embedding(TF, random_weights, device="cpu", batch=2)(clips.flip(0), 0, 255).flip(0)
    assert (one - two).abs().max() < 1e-13 * one.abs().max()


def test_a_training_loop_s_modes_change_nothing(random_weights: Path) -> None:
    clips = noise(1, size=(20, 20)).permute(0, 1, 4, 2, 3)
    embedding = Embedding(TF, random_weights, device="cpu")
    expected = embedding(clips, 0, 255)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embedding(clips, 0, 255), expected)
    with torch.inference_mode():
        assert torch.equal(embedding(clips, 0, 255), expected)
    with torch.enable_grad():
        assert not embedding(clips.float().requires_grad_(), 0, 255).requires_grad
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(embedding(clips, 0, 255), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_batches_are_as_large_as_the_device_can_use(random_weights: Path) -> None:
    embedding = Embedding(TF, random_weights, device="cpu")
    assert [embedding.batch_size(frames) for frames in (9, 16, 64, 300)] == [7, 4, 1, 1]
    assert Embedding(TF, random_weights, device="cpu", batch=5).batch_size(300) == 5


def test_wrong_arguments(random_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        Embedding(TF, random_weights, batch=0)
    with pytest.raises(ValueError, match="dtype must be"):
        Embedding(TF, random_weights, dtype="int8")
    with pytest.raises(ValueError, match="device must be"):
        Embedding(TF, random_weights, device="tpu")
    flow = tmp_path / "flow.safetensors"
    save_file(fasti3d.I3D(5, 2).state_dict(), flow)
    with pytest.raises(ValueError, match=r"must take RGB, but those of .* take 2 channels"):
        Embedding(TF, flow)
