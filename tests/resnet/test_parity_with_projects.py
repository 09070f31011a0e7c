"""Logits of other projects' own networks in float64, recorded by ``record_logits.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from seeded_weights import CLASSES, STEM_CHANNELS, seeded_clip, seeded_weights

import fasti3d
from fasti3d.resnet import reference
from fasti3d.weights.resnet_formats import NAMINGS

RECORDS = {
    project: json.loads(Path(__file__).with_name(f"{project}.json").read_text())["logits"]
    for project in ("pytorchvideo", "mmaction2")
}


@pytest.fixture(scope="module", autouse=True)
def _width():
    widths = [STEM_CHANNELS << stage for stage in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "STEM_CHANNELS", STEM_CHANNELS)
        patch.setattr(reference, "WIDTHS", widths)
        patch.setattr(reference, "FEATURE_CHANNELS", widths[-1] * reference.EXPANSION)
        yield


@pytest.mark.parametrize(
    ("project", "network"), [(project, name) for project, found in RECORDS.items() for name in found]
)
def test_logits_are_the_projects_own(project, network):
    variant, _, mode = network.partition(" ")
    naming = next(n for n in NAMINGS if n.name.startswith(project) and variant in n.variants)
    theirs = {ours: its for its, ours in naming.keys().items()}
    model = fasti3d.I3DResNet(variant, non_local=mode or None, num_classes=CLASSES).eval()
    state = {theirs[key]: tensor for key, tensor in model.state_dict().items()}
    model.load_state_dict(_ours(seeded_weights(state, variant), naming.keys()))
    with torch.no_grad():
        found = model(seeded_clip(project))[0]
    expected = torch.tensor(RECORDS[project][network], dtype=torch.float64)
    limit = 5e-6 if mode else 2e-6
    assert (found - expected).abs().max() < limit * expected.abs().max()


def _ours(state, keys):
    return {keys[its]: tensor for its, tensor in state.items()}
