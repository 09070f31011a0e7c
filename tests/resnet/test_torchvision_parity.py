"""Names and logits of torchvision's own video networks, recorded by ``record_torchvision.py``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from seeded_weights import seeded_small_clip, seeded_weights

from fasti3d.backbone import Backbone
from fasti3d.models import load_backbone
from fasti3d.video_resnet.reference import VideoResNet
from fasti3d.weights import WeightsError, load_video_resnet

RECORD = json.loads(Path(__file__).with_name("torchvision.json").read_text())["networks"]


@pytest.fixture(scope="module", params=RECORD)
def seeded(request, tmp_path_factory):
    """A network's name and a file of its seeded weights."""
    name = request.param
    shapes = {key: torch.empty(size) for key, size in RECORD[name]["keys"].items()}
    for key in shapes:
        if key.endswith("num_batches_tracked"):
            shapes[key] = torch.zeros((), dtype=torch.int64)
    path = tmp_path_factory.mktemp(name) / "weights.pth"
    torch.save(seeded_weights(shapes, name), path)
    return name, path


def test_names_and_logits_are_torchvisions(seeded):
    name, path = seeded
    model = load_backbone(path, Backbone(name), device="cpu", dtype="float32")
    with torch.device("meta"):
        state = VideoResNet(name).state_dict()
    assert {key: list(t.shape) for key, t in state.items()} == RECORD[name]["keys"]
    assert model.outputs.forward.why_not() == ""  # all of it is one plan
    clip = seeded_small_clip(name)
    expected = torch.tensor(RECORD[name]["logits"], dtype=torch.float64)
    with torch.no_grad():
        found = model(clip)[0, :20]
        maps = model.forward_endpoints(clip, ("layer4", "Predictions"))
        features = model.extract_features(clip)
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()
    assert torch.allclose(features[:, :, 0], maps["layer4"].mean(dim=(2, 3, 4)), rtol=1e-5, atol=1e-6)
    assert maps["Predictions"].sum().item() == pytest.approx(1, abs=1e-5)


def test_weights_of_another_network_are_refused(seeded):
    name, path = seeded
    other = {"r3d-18": "mc3-18", "mc3-18": "r2plus1d-18", "r2plus1d-18": "r3d-18"}[name]
    with pytest.raises(WeightsError, match=f"are of {name}, but network is '{other}': use '{name}'"):
        load_backbone(path, Backbone(other), device="cpu")
    state = torch.load(path, weights_only=True)
    del state["layer3.0.conv2.0.weight" if name != "r2plus1d-18" else "layer3.0.conv2.0.0.weight"]
    with pytest.raises(WeightsError, match=f"torchvision's {name}, but is not complete: missing: layer3"):
        load_video_resnet(state)
