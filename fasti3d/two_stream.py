"""The two-stream network: one I3D for frames and one for their optical flow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from os import PathLike

import torch
from torch import Tensor, nn

from fasti3d.choices import FlowPreset, check_preset
from fasti3d.flow.checks import BOUND
from fasti3d.flow.params import PRESETS, TVL1Params
from fasti3d.flow.stream import center, flow_clips
from fasti3d.i3d import I3D, clip_for
from fasti3d.network import MIN_FLOW_FRAMES

CHANNELS = {"rgb": 3, "flow": 2}

StrPath = str | PathLike[str]


def check_channels(argument: str, stream: str, model: I3D) -> None:
    """Raise a ValueError for a network, given as ``argument``, that cannot be this stream."""
    if model.in_channels not in (None, CHANNELS[stream]):
        raise ValueError(
            f"{argument} must be a network of {CHANNELS[stream]} channels for the {stream} stream, "
            f"got one of {model.in_channels} channels: are these the other stream's weights?"
        )


class TwoStreamI3D(nn.Module):
    """Two-stream I3D: the sum of the logits of an RGB and a flow network, before the softmax.

    Each stream averages its own logits over time, so the clips may differ in length: N frames give N-1 flows,
    where flow i leads from frame i to frame i + 1, and the RGB stream gets all N frames. 64 frames and their
    63 flows are 8 time steps each in the last feature map.

    Args:
        rgb: the network of 3 input channels.
        flow: the network of 2 input channels.

    Attributes:
        labels: class names in the order of the logits, if either stream has them; else None.

    Raises:
        TypeError: a stream is not an ``I3D``.
        ValueError: the streams have wrong channels, or differ in their number of classes or labels.

    Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017).

    Example:
        >>> model = fasti3d.TwoStreamI3D(fasti3d.I3D(), fasti3d.I3D(in_channels=2)).eval()
        >>> with torch.no_grad():
        ...     model(torch.zeros(1, 3, 10, 224, 224), torch.zeros(1, 2, 9, 224, 224)).shape
        torch.Size([1, 400])
    """

    def __init__(self, rgb: I3D, flow: I3D) -> None:
        super().__init__()
        for name, stream in (("rgb", rgb), ("flow", flow)):
            if not isinstance(stream, I3D):
                raise TypeError(f"{name} must be a fasti3d.I3D, got {type(stream).__name__}")
            check_channels(name, name, stream)
        self.rgb = rgb
        self.flow = flow
        self._check_classes()

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of the logits, if either stream has them; else None."""
        return self.rgb.labels or self.flow.labels

    def forward(self, rgb_clip: Tensor, flow_clip: Tensor) -> Tensor:
        """Compute the sum of the two streams' time-averaged logits.

        Args:
            rgb_clip: (N, 3, T, H, W) in [-1, 1], or uint8 of 0 to 255.
            flow_clip: (N, 2, T', H, W) in [-1, 1]; T' is T-1 for the flow between the frames of
                ``rgb_clip``, but any two lengths of at least 9 are valid.

        Returns:
            (N, num_classes).

        Raises:
            ValueError: a stream does not take its clips, or their numbers differ.
        """
        self._check_classes()
        rgb, flow = self.rgb(rgb_clip), self.flow(flow_clip)
        n, m = rgb.shape[0], flow.shape[0]  # not len(), which a trace takes for constant
        if n != m:  # the sum would broadcast one to many
            raise ValueError(f"rgb_clip and flow_clip must hold the same number of clips, got {n} and {m}")
        if rgb.shape != flow.shape:
            raise ValueError(
                f"both streams must have the same classes, got {rgb.shape[1]} and {flow.shape[1]}"
            )
        return rgb + flow

    def forward_frames(
        self,
        frames: Tensor,
        *,
        preset: FlowPreset = "readme",
        params: TVL1Params = PRESETS["i3d"],
        flow_from: StrPath | Sequence[StrPath] | None = None,
        flow_bound: float = BOUND,
        first: int | Sequence[int] = 0,
    ) -> Tensor:
        """Compute the logits of frames, with TV-L1 flow computed on their device, or read from folders.

        The RGB stream gets the center 224x224 of all T frames, the flow stream T-1 flows.

        Args:
            frames: uint8 (N, T, H, W, 3), RGB; at least 10 frames of 224x224 pixels. The networks were
                trained at 25 frames per second with the short side resized to 256.
            preset: how frames become flow. ``readme``: flow at the size of the frames, the center
                cropped, clipped to 20 pixels and scaled to [-1, 1]. ``mediapipe``: frames squashed to
                224x224, flow of those, rounded down to 8 bits, then scaled to [-1, 1].
            params: those of TV-L1.
            flow_from: for each clip the folder of its video's flow, see ``flow.folder.FlowFolder``, extracted
                from frames of the same rate and size.
            flow_bound: with ``flow_from``, the bound in pixels that the flow was encoded with.
            first: with ``flow_from``, the index of each clip's first frame in its video, or of all clips'.

        Returns:
            (N, num_classes).

        Raises:
            ValueError: frames of another dtype or shape, or too few or too small; an unknown preset;
                ``flow_from`` together with ``preset`` or ``params``.
            fasti3d.video.VideoError: flow is missing, damaged or of another size.

        Example:
            >>> frames = torch.zeros(1, 10, 256, 340, 3, dtype=torch.uint8)
            >>> model.forward_frames(frames).shape  # doctest: +SKIP
            torch.Size([1, 400])
        """
        check_preset(preset)
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[4] != 3 or not len(frames):
            raise ValueError(
                "frames must be uint8 of shape (N, T, H, W, 3), got "
                f"{frames.dtype} of shape {tuple(frames.shape)}"
            )
        if frames.shape[1] < MIN_FLOW_FRAMES:
            raise ValueError(
                f"frames must be at least {MIN_FLOW_FRAMES} per clip, which give the "
                f"{MIN_FLOW_FRAMES - 1} flows that the network needs, got {frames.shape[1]}: repeat frames"
            )
        rows, columns = center(*frames.shape[2:4])
        rgb_clip = frames[:, :, rows, columns].permute(0, 4, 1, 2, 3)
        if flow_from is None:
            flow_clip = flow_clips(frames, preset, params)
        else:
            from fasti3d.flow.folder import read_clips  # imports decoders

            if preset != "readme" or params != PRESETS["i3d"]:
                raise ValueError(
                    "preset and params are for computing flow, which flow_from spares: leave them out, got "
                    f"{preset!r} and {params}"
                )
            flow_clip = read_clips(flow_from, frames, first, flow_bound)
        return self(clip_for(self.rgb, rgb_clip), clip_for(self.flow, flow_clip))

    def _check_classes(self) -> None:
        rgb, flow = self.rgb, self.flow
        if rgb.num_classes != flow.num_classes:
            raise ValueError(
                "both streams must have the same classes, but rgb has "
                f"{rgb.num_classes} and flow {flow.num_classes}"
            )
        if rgb.labels and flow.labels and rgb.labels != flow.labels:
            pairs = enumerate(zip_longest(rgb.labels, flow.labels))
            index, (first, second) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise ValueError(
                f"both streams must have the same labels, but class {index} of rgb is {first!r} and that of "
                f"flow {second!r}"
            )
