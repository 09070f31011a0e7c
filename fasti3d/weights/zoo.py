"""The public checkpoints of the networks that zoos call I3D, and of torchvision's video ResNets.

mmaction2 and torchvision end names of files in the first 8 digits of their SHA-256, by which downloads and
files of users are checked. No hash of the others is published, so they are read from the user's path, as
are those whose licence, CC-BY-NC 4.0, does not let everybody use them.

Accuracies are those that the projects publish, of 10 clips and 3 crops; torchvision's of 5 clips.
"""

from __future__ import annotations

from fasti3d.backbone import Backbone
from fasti3d.weights.entry import Download, Entry, NamedByHash, UserFile
from fasti3d.weights.labels import KINETICS_400

_MMACTION2 = "https://download.openmmlab.com/mmaction/v1.0/recognition"
_FACEBOOK = "https://dl.fbaipublicfiles.com"
_NO_HASH = "nobody has published a hash by which it could be checked"
_NON_COMMERCIAL = "its licence, CC-BY-NC-4.0, permits no commercial use"


def _entry(
    name: str,
    description: str,
    backbone: Backbone,
    accuracy: tuple[float, float],
    download: Download,
    *,
    licence: str = "Apache-2.0",
    source: str,
    preprocessing: str | None = None,
) -> Entry:
    return Entry(
        name=name,
        description=f"Kinetics-400 RGB, {description}",
        stream="rgb",
        num_classes=400,
        labels=KINETICS_400,
        licence=licence,
        source=f"{source}: {download.filename}",
        download=download,
        backbone=backbone,
        preprocessing=preprocessing or backbone.preprocessing.name,
        accuracy=accuracy,
    )


def _mmaction2(
    name: str,
    description: str,
    backbone: Backbone,
    accuracy: tuple[float, float],
    config: str,
    ending: str,
    preprocessing: str | None = None,
) -> Entry:
    folder = "slowonly" if config.startswith("slowonly") else "i3d"
    filename = f"{config}_{ending}.pth"
    file = NamedByHash(filename, f"{_MMACTION2}/{folder}/{config}/{filename}")
    return _entry(
        f"mmaction2-{name}",
        description,
        backbone,
        accuracy,
        file,
        source="open-mmlab/mmaction2",
        preprocessing=preprocessing,
    )


def _facebook(
    name: str,
    description: str,
    backbone: Backbone,
    accuracy: tuple[float, float],
    path: str,
    *,
    licence: str = "Apache-2.0",
    why: str = _NO_HASH,
) -> Entry:
    projects = {
        "pytorchvideo": "pytorchvideo",
        "pyslowfast": "SlowFast",
        "video-nonlocal": "video-nonlocal-net",
    }
    project = projects[path.partition("/")[0]]
    file = UserFile(path.rpartition("/")[2], f"{_FACEBOOK}/{path}", why)
    return _entry(
        name,
        description,
        backbone,
        accuracy,
        file,
        licence=licence,
        source=f"facebookresearch/{project}",
    )


def _torchvision(name: str, description: str, accuracy: tuple[float, float], filename: str) -> Entry:
    file = NamedByHash(filename, f"https://download.pytorch.org/models/{filename}")
    return _entry(
        f"torchvision-{name}",
        description,
        Backbone(name),
        accuracy,
        file,
        licence="BSD-3-Clause",
        source="pytorch/vision",
    )


_R50 = "i3d-r50"

ZOO = (
    _mmaction2(
        "i3d-r50",
        "I3D-R50 32x2",
        Backbone(_R50, "mmaction2-32x2"),
        (73.47, 91.27),
        "i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb",
        "20220812-e213c223",
    ),
    _mmaction2(
        "i3d-r50-dense",
        "I3D-R50 32x2, trained on dense samples",
        Backbone(_R50, "mmaction2-32x2"),
        (73.77, 91.35),
        "i3d_imagenet-pretrained-r50_8xb8-dense-32x2x1-100e_kinetics400-rgb",
        "20220812-9f46003f",
    ),
    _mmaction2(
        "i3d-r50-nl-dot-product",
        "non-local I3D-R50 32x2",
        Backbone(_R50, "mmaction2-32x2", "dot_product"),
        (74.80, 92.07),
        "i3d_imagenet-pretrained-r50-nl-dot-product_8xb8-32x2x1-100e_kinetics400-rgb",
        "20220812-8e1f2148",
    ),
    _mmaction2(
        "i3d-r50-nl-embedded-gaussian",
        "non-local I3D-R50 32x2",
        Backbone(_R50, "mmaction2-32x2", "embedded_gaussian"),
        (74.73, 91.80),
        "i3d_imagenet-pretrained-r50-nl-embedded-gaussian_8xb8-32x2x1-100e_kinetics400-rgb",
        "20220812-afd8f562",
    ),
    _mmaction2(
        "i3d-r50-nl-gaussian",
        "non-local I3D-R50 32x2",
        Backbone(_R50, "mmaction2-32x2", "gaussian"),
        (73.97, 91.33),
        "i3d_imagenet-pretrained-r50-nl-gaussian_8xb8-32x2x1-100e_kinetics400-rgb",
        "20220812-0c5cbf5a",
    ),
    _mmaction2(
        "i3d-r50-heavy",
        "I3D-R50 with 3x1x1 convolutions in every block",
        Backbone(_R50, "mmaction2-heavy"),
        (76.21, 92.48),
        "i3d_imagenet-pretrained-r50-heavy_8xb8-32x2x1-100e_kinetics400-rgb",
        "20220812-ed501b31",
    ),
    _mmaction2(
        "slowonly-r50",
        "SlowOnly-R50 8x8",
        Backbone(_R50, "slow-8x8"),
        (75.15, 92.11),
        "slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb",
        "20220901-2132fc87",
        "mmaction2-8x8",
    ),
    _mmaction2(
        "slowonly-r101",
        "SlowOnly-R101 8x8",
        Backbone("i3d-r101", "slow-8x8"),
        (76.59, 92.80),
        "slowonly_r101_8xb16-8x8x1-196e_kinetics400-rgb",
        "20220901-e6281431",
        "mmaction2-8x8",
    ),
    _facebook(
        "pytorchvideo-i3d-r50",
        "I3D-R50 8x8",
        Backbone(_R50, "pytorchvideo-8x8"),
        (73.27, 90.70),
        "pytorchvideo/model_zoo/kinetics/I3D_8x8_R50.pyth",
    ),
    _facebook(
        "pytorchvideo-c2d-r50",
        "C2D-R50 8x8",
        Backbone(_R50, "c2d-8x8"),
        (71.46, 89.68),
        "pytorchvideo/model_zoo/kinetics/C2D_8x8_R50.pyth",
    ),
    _facebook(
        "pytorchvideo-slow-r50",
        "Slow-R50 8x8",
        Backbone("slow-r50"),
        (74.58, 91.63),
        "pytorchvideo/model_zoo/kinetics/SLOW_8x8_R50.pyth",
    ),
    _facebook(
        "pyslowfast-i3d-r50",
        "I3D-R50 8x8",
        Backbone(_R50, "pytorchvideo-8x8"),
        (73.5, 90.8),
        "pyslowfast/model_zoo/kinetics400/I3D_8x8_R50.pkl",
    ),
    _facebook(
        "pyslowfast-i3d-r50-nl",
        "non-local I3D-R50 8x8",
        Backbone(_R50, "pytorchvideo-8x8", "embedded_gaussian"),
        (74.0, 91.1),
        "pyslowfast/model_zoo/kinetics400/I3D_NLN_8x8_R50.pkl",
    ),
    _facebook(
        "caffe2-i3d-r50",
        "I3D-R50 32x2, the network of features for video anomaly detection",
        Backbone(_R50, "caffe2-32x2"),
        (73.6, 90.8),
        "video-nonlocal/i3d_baseline_32x2_IN_pretrain_400k.pkl",
        licence="CC-BY-NC-4.0",
        why=_NON_COMMERCIAL,
    ),
    _facebook(
        "caffe2-i3d-r50-nl",
        "non-local I3D-R50 32x2",
        Backbone(_R50, "caffe2-32x2", "embedded_gaussian"),
        (74.9, 91.6),
        "video-nonlocal/i3d_nonlocal_32x2_IN_pretrain_400k.pkl",
        licence="CC-BY-NC-4.0",
        why=_NON_COMMERCIAL,
    ),
    _torchvision("r3d-18", "R3D-18", (63.20, 83.48), "r3d_18-b3b3357e.pth"),
    _torchvision("mc3-18", "MC3-18", (63.96, 84.13), "mc3_18-a90a0ba3.pth"),
    _torchvision("r2plus1d-18", "R(2+1)D-18", (67.46, 86.18), "r2plus1d_18-91a641e6.pth"),
)
