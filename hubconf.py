"""The networks for torch.hub: ``torch.hub.load("path/to/fasti3d", "i3d_rgb", source="local")``.

They run from a checkout without the compiled extension too, on the operators' references, and slower.
"""

from __future__ import annotations

from typing import Any as _Any

from fasti3d import I3D as _I3D
from fasti3d import I3DResNet as _I3DResNet
from fasti3d import TwoStreamI3D as _TwoStreamI3D
from fasti3d import create_model as _create_model

# The last three are for weights.
dependencies = ["torch", "numpy", "safetensors", "platformdirs", "filelock"]


def i3d_rgb(weights: _Any = None, num_classes: int | None = None, **options: _Any) -> _I3D:
    """Build I3D for RGB clips: (N, 3, T, H, W) in [-1, 1], or uint8 of 0 to 255 -> logits (N, num_classes).

    Clips have at least 9 frames and 193x193 pixels; 64 frames of 224x224 at 25 fps are usual.

    Args:
        weights: a public name such as "kinetics400-rgb" (fasti3d.weights.registry() has all of them), the
            path of a checkpoint, or a folder with one; None initializes at random.
        num_classes: where it differs from that of the weights, the classifier is new; None takes that of the
            weights, or 400.
        **options: as for fasti3d.create_model.

    Raises:
        ValueError: the weights take other than 3 channels.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

    Example:
        >>> model = torch.hub.load("fasti3d", "i3d_rgb", source="local", weights="kinetics400-rgb").eval()
    """
    return _create_model("i3d_rgb", weights=weights, num_classes=num_classes, **options)


def i3d_flow(weights: _Any = None, num_classes: int | None = None, **options: _Any) -> _I3D:
    """Build I3D for optical flow: (N, 2, T, H, W) in [-1, 1], x first -> logits (N, num_classes).

    Flow is TV-L1's, clipped to 20 pixels and divided by 20, as ``fasti3d.tvl1`` and ``fasti3d.flow`` give it.

    Args:
        weights: a public name such as "pytorch-i3d-flow-imagenet", a path or a folder; None initializes at
            random.
        num_classes: as for i3d_rgb.
        **options: as for fasti3d.create_model.

    Raises:
        ValueError: the weights take other than 2 channels.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

    Example:
        >>> model = torch.hub.load("fasti3d", "i3d_flow", source="local", weights="flow_imagenet.pt").eval()
    """
    return _create_model("i3d_flow", weights=weights, num_classes=num_classes, **options)


def i3d_two_stream(weights: _Any = None, num_classes: int | None = None, **options: _Any) -> _TwoStreamI3D:
    """Build two-stream I3D: clips (N, 3, T, H, W) and flow (N, 2, T-1, H, W) -> logits (N, num_classes).

    Both are in [-1, 1], as i3d_rgb and i3d_flow take them.
    ``model.forward_frames(frames)`` takes uint8 frames (N, T, H, W, 3) and computes the flow itself.

    Args:
        weights: a pair as of i3d_rgb and i3d_flow, RGB first; None initializes at random.
        num_classes: as for i3d_rgb.
        **options: as for fasti3d.create_model.

    Raises:
        ValueError: weights that are no pair, take other channels, or differ in their classes.
        fasti3d.weights.WeightsError: the weights cannot be downloaded or read.

    Example:
        >>> pair = ("rgb_imagenet.pt", "flow_imagenet.pt")
        >>> model = torch.hub.load("fasti3d", "i3d_two_stream", source="local", weights=pair).eval()
    """
    return _create_model("i3d_two_stream", weights=weights, num_classes=num_classes, **options)


def i3d_resnet(
    variant: str, weights: _Any = None, num_classes: int | None = None, **options: _Any
) -> _I3DResNet:
    """Build I3D-ResNet: clips (N, 3, T, H, W), normalized or uint8 of 0 to 255 -> logits (N, num_classes).

    Args:
        variant: the implementation that it is of, such as "pytorchvideo-8x8"; fasti3d.I3DResNet names all.
        weights: the path of a file of that implementation; None initializes at random.
        num_classes: as for i3d_rgb.
        **options: ``depth``, ``non_local`` and ``dropout``, as for fasti3d.I3DResNet.

    Raises:
        ValueError: an unknown variant.
        fasti3d.weights.WeightsError: the weights cannot be read, or are of another network.

    Example:
        >>> model = torch.hub.load("fasti3d", "i3d_resnet", "pytorchvideo-8x8", source="local").eval()
    """
    return _create_model("i3d_resnet", variant=variant, weights=weights, num_classes=num_classes, **options)
