"""Records what torchvision's own video networks answer: tests/resnet/torchvision.json.

Run it in an environment with torchvision (0.28.0, pytorch/vision):

    python tests/resnet/record_torchvision.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from seeded_weights import seeded_small_clip, seeded_weights

TARGET = Path(__file__).with_name("torchvision.json")
NETWORKS = {"r3d-18": "r3d_18", "mc3-18": "mc3_18", "r2plus1d-18": "r2plus1d_18"}


def main() -> None:
    from importlib.metadata import version

    from torchvision.models import video

    networks = {}
    for name, factory in NETWORKS.items():
        model = getattr(video, factory)().eval().double()
        state = model.state_dict()
        model.load_state_dict(seeded_weights(state, name))
        with torch.no_grad():
            logits = model(seeded_small_clip(name).double())[0, :20].tolist()
        keys = {key: list(tensor.shape) for key, tensor in state.items()}
        networks[name] = {"logits": logits, "keys": keys}
    record = {"source": f"torchvision {version('torchvision')}", "networks": networks}
    TARGET.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
