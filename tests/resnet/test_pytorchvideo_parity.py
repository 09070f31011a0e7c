"""Logits of pytorchvideo's own networks in float64, recorded by ``record_logits.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from seeded_weights import seeded_clip, seeded_weights

import fasti3d
from fasti3d.weights.resnet_formats import NAMINGS

RECORD = json.loads(Path(__file__).with_name("pytorchvideo.json").read_text())


@pytest.mark.parametrize("variant", RECORD["logits"])
def test_logits_are_pytorchvideos(variant):
    naming = next(n for n in NAMINGS if n.name.startswith("pytorchvideo") and variant in n.variants)
    theirs = {ours: its for its, ours in naming.keys().items()}
    with torch.device("meta"):
        shapes = fasti3d.I3DResNet(variant).state_dict()
    empty = {theirs[key]: torch.empty_like(t, device="cpu") for key, t in shapes.items()}
    model = fasti3d.I3DResNet(variant, weights=seeded_weights(empty, variant)).eval()
    with torch.no_grad():
        found = model(seeded_clip(variant))[0, :20]
    expected = torch.tensor(RECORD["logits"][variant], dtype=torch.float64)
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()
