"""Records what pytorchvideo's own networks answer: tests/resnet/pytorchvideo.json.

Run it in an environment with pytorchvideo and fvcore (0.1.5 from PyPI, facebookresearch/pytorchvideo):

    python tests/resnet/record_logits.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from seeded_weights import seeded_clip, seeded_weights

TARGET = Path(__file__).with_name("pytorchvideo.json")
# Our variant, and the project's function and number of the classifier's block.
NETWORKS = {
    "pytorchvideo-8x8": "i3d_r50",
    "slow-8x8": "slow_r50",
    "c2d-8x8": "c2d_r50",
}


def main() -> None:
    from importlib.metadata import version

    from pytorchvideo.models import hub

    logits = {}
    for variant, factory in NETWORKS.items():
        model = getattr(hub, factory)(pretrained=False).eval().double()
        model.load_state_dict(seeded_weights(model.state_dict(), variant))
        with torch.no_grad():
            logits[variant] = model(seeded_clip(variant).double())[0, :20].tolist()
    record = {"source": f"pytorchvideo {version('pytorchvideo')}", "logits": logits}
    TARGET.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
