"""The networks that ``fasti3d.fuse`` is timed on, with random weights: our own, torchvision's and
pytorchvideo's, of which the last two are measured where they are installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from benchmarks.residual import r2plus1d, r3d, randomise


class Network(NamedTuple):
    """A factory, and the clips (N, C, T, H, W) that it was made for."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(importlib.import_module("torchvision.models.video"), name)()


def _pytorchvideo(module: str, **arguments: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        models = importlib.import_module(f"pytorchvideo.models.{module}")
        network: nn.Module = getattr(models, f"create_{module}")(**arguments)
        return network

    return make


_TEMPORAL = ((3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)])
# As pytorchvideo.models.hub has them, from which weights would be downloaded.
NETWORKS: dict[str, Network] = {
    "R3D-18": Network(r3d, (1, 3, 16, 112, 112)),
    "R(2+1)D-18": Network(r2plus1d, (1, 3, 16, 112, 112)),
    "torchvision r3d_18": Network(_torchvision("r3d_18"), (1, 3, 16, 112, 112)),
    "torchvision mc3_18": Network(_torchvision("mc3_18"), (1, 3, 16, 112, 112)),
    "torchvision r2plus1d_18": Network(_torchvision("r2plus1d_18"), (1, 3, 16, 112, 112)),
    "torchvision s3d": Network(_torchvision("s3d"), (1, 3, 16, 224, 224)),
    "pytorchvideo i3d_r50": Network(
        _pytorchvideo(
            "resnet",
            model_depth=50,
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=_TEMPORAL,
            head_pool_kernel_size=(4, 7, 7),
        ),
        (1, 3, 8, 224, 224),
    ),
    "pytorchvideo slow_r50": Network(
        _pytorchvideo(
            "resnet", model_depth=50, stem_conv_kernel_size=(1, 7, 7), head_pool_kernel_size=(8, 7, 7)
        ),
        (1, 3, 8, 224, 224),
    ),
    "pytorchvideo x3d_s": Network(
        _pytorchvideo("x3d", input_clip_length=13, input_crop_size=160, depth_factor=2.2),
        (1, 3, 13, 160, 160),
    ),
    "pytorchvideo csn_r101": Network(
        _pytorchvideo("csn", model_depth=101, head_pool_kernel_size=(4, 7, 7)), (1, 3, 32, 112, 112)
    ),
}


def network(name: str) -> nn.Module:
    """One in eval mode with random weights.

    Raises:
        ImportError: its package is not installed.
    """
    made = NETWORKS[name].make()
    for module in made.modules():
        if isinstance(
            module, nn.Conv3d
        ):  # pytorchvideo's are NumPy's integers, which compilers take for data
            module.stride = tuple(map(int, module.stride))
    return randomise(made)
