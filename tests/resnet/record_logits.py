"""Records what other projects' own networks answer: PROJECT.json, in float64, at a quarter of the width.

Run it in an environment with the project:

    python tests/resnet/record_logits.py pytorchvideo   # pytorchvideo 0.1.5 and fvcore
    python tests/resnet/record_logits.py mmaction2      # mmaction2 1.2.0, mmcv-lite 2.1.0 and mmengine
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from seeded_weights import CLASSES, STEM_CHANNELS, seeded_clip, seeded_weights  # noqa: E402


def pytorchvideo() -> Iterator[tuple[str, str, nn.Module]]:
    """Variant, non-local blocks and network of each, in eval mode."""
    from pytorchvideo.models import hub

    for variant, name in {
        "pytorchvideo-8x8": "i3d_r50",
        "slow-8x8": "slow_r50",
        "c2d-8x8": "c2d_r50",
    }.items():
        arguments = {"stem_dim_out": STEM_CHANNELS, "model_num_class": CLASSES}
        yield variant, "", getattr(hub, name)(pretrained=False, **arguments)


def mmaction2() -> Iterator[tuple[str, str, nn.Module]]:
    """With the arguments of its configs/recognition/i3d."""
    # Release 1.2.0 imports a module there that it does not hold.
    sys.modules["mmaction.models.localizers"] = types.ModuleType("mmaction.models.localizers")
    from mmaction.models.backbones.resnet3d import ResNet3d
    from mmaction.models.heads.i3d_head import I3DHead

    taps = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
    i3d = {"conv1_stride_t": 2, "pool1_stride_t": 2, "inflate": taps}
    heavy = {"conv1_stride_t": 1, "pool1_stride_t": 1, "inflate": (1, 1, 1, 1), "with_pool2": True}
    modes = ("dot_product", "embedded_gaussian", "gaussian")
    for variant, mode, arguments in [
        ("mmaction2-32x2", "", i3d),
        ("mmaction2-heavy", "", heavy),
        *(("mmaction2-32x2", mode, i3d | _non_local(mode)) for mode in modes),
    ]:
        backbone = ResNet3d(
            depth=50,
            pretrained=None,
            base_channels=STEM_CHANNELS,
            conv1_kernel=(5, 7, 7),
            conv_cfg={"type": "Conv3d"},
            norm_eval=False,
            zero_init_residual=False,
            **arguments,
        )
        head = I3DHead(CLASSES, STEM_CHANNELS * 32, spatial_type="avg", dropout_ratio=0.5)
        # The recognizer's own forward adds nothing to these.
        network = nn.Sequential()
        network.add_module("backbone", backbone)
        network.add_module("cls_head", head)
        yield variant, mode, network


def _non_local(mode: str) -> dict[str, Any]:
    norm = {"type": "BN3d", "requires_grad": True}
    return {
        "non_local": ((0, 0, 0), (0, 1, 0, 1), (0, 1, 0, 1, 0, 1), (0, 0, 0)),
        "non_local_cfg": {"sub_sample": True, "use_scale": False, "norm_cfg": norm, "mode": mode},
    }


PROJECTS: dict[str, Callable[[], Iterator[tuple[str, str, nn.Module]]]] = {
    "pytorchvideo": pytorchvideo,
    "mmaction2": mmaction2,
}


def main(project: str) -> None:
    logits = {}
    for variant, mode, network in PROJECTS[project]():
        network.eval().double()
        network.load_state_dict(seeded_weights(network.state_dict(), variant))
        with torch.no_grad():
            logits[f"{variant} {mode}".strip()] = network(seeded_clip(project).double())[0].tolist()
    record = {"source": f"{project} {version(project)}", "logits": logits}
    (FOLDER / f"{project}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
