"""Dense features for users: of a video's frames as they come, and of clips in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from fasti3d import reference
from fasti3d.dense.stream import DEFAULT_FEATURES, check_model, dense_stream
from fasti3d.flow.encoding import to_flow_clip
from fasti3d.inputs import check_clip
from fasti3d.video import to_clip

CHUNK = 128


def dense_features(
    model: reference.I3D,
    frames: Iterable[Tensor],
    total: int,
    *,
    features: str = "Mixed_5c",
    chunk: int = CHUNK,
) -> Iterator[tuple[int, Tensor]]:
    """The features of one pass of the network over a whole video, in memory that its length does not change.

    What ``model.forward_endpoints`` gives for all frames as one clip, but for rounding (see `dense_stream`);
    ``support`` says which frames each step is of.

    Args:
        model: an `I3D` in eval mode, of 3 channels for RGB or 2 for flow; it runs where and in the dtype it
            is.
        frames: one by one or some at a time, on any device, all of one size. For the RGB stream uint8
            (H, W, 3) or (t, H, W, 3); for the flow stream what ``encode_readme`` or ``encode_mediapipe``
            gave, (2, H, W) or (t, 2, H, W).
        total: how many frames there are; already the first step depends on it.
        features: as for `dense_stream`.
        chunk: frames that go through the network at a time. Memory grows with it, and steps computed twice
            become fewer: with 64 the network does 10 % more than one pass does, with 128 5 %, with 256 2.5 %.

    Yields:
        The index of the first of some steps, in order and without gaps, and their features, on the device and
        in the dtype of the model: (C, steps, H', W') of an endpoint, (1024, steps) pooled, (classes, steps)
        of logits.

    Raises:
        TypeError: a model that is no I3D.
        ValueError: at the call: as `dense_stream`, a model of other channels, or a chunk of no frames. Later:
            frames of another kind or size, or too small for the head.
        FrameCountError: fewer frames than ``total``, at the end, or more.
    """
    _check_chunk(chunk)
    found = dense_stream(model, _clips(model, frames, chunk), total, features=features)
    if model.in_channels not in (2, 3):
        raise ValueError(
            f"model must be of 3 channels (RGB) or 2 (flow), got {model.in_channels}: use dense_clip or "
            "dense_stream, which take any clip"
        )
    return ((first, part[0]) for first, part in found)


def _clips(model: reference.I3D, frames: Iterable[Tensor], chunk: int) -> Iterator[Tensor]:
    weight = next(model.parameters())
    encode = to_clip if model.in_channels == 3 else to_flow_clip
    for group in _grouped(frames, chunk, "(H, W, 3)" if model.in_channels == 3 else "(2, H, W)"):
        yield encode(group.to(weight.device))[None].to(weight.dtype)


def _grouped(frames: Iterable[Tensor], size: int, form: str) -> Iterator[Tensor]:
    """The same frames, ``size`` at a time."""
    group: list[Tensor] = []
    index, shape = 0, None
    for item in frames:
        if item.ndim not in (3, 4):
            raise ValueError(f"frames must be {form} or some of these, got shape {tuple(item.shape)}")
        for frame in item if item.ndim == 4 else (item,):
            shape = frame.shape if shape is None else shape
            if frame.shape != shape:
                raise ValueError(
                    f"frames must be of one size, got {tuple(frame.shape)} at index {index} "
                    f"after {tuple(shape)}"
                )
            group.append(frame)
            index += 1
            if len(group) == size:
                yield torch.stack(group)
                group = []
    if group:
        yield torch.stack(group)


def dense_clip(
    model: nn.Module, x: Tensor, *, features: str = DEFAULT_FEATURES, chunk: int = CHUNK
) -> Tensor:
    """The same of clips that are in memory as a whole: the network's own maps never are.

    Args:
        model: an `I3D` in eval mode, of any number of channels, or a network of `fasti3d.fuse`, as for
            `dense_stream`.
        x: (N, in_channels, T, H, W) in [-1, 1], on the device and in the dtype of the model, or uint8 RGB.
        features, chunk: as for `dense_features`.

    Returns:
        (N, C, steps, H', W') of an endpoint, (N, 1024, steps) pooled, (N, classes, steps) of logits.

    Raises:
        TypeError: a model that is neither.
        ValueError: as `dense_stream`, clips that the network does not take, or a chunk of no frames.
    """
    check_model(model)
    _check_chunk(chunk)
    if isinstance(model, reference.I3D):
        check_clip(x, model.in_channels, None)
    found = dense_stream(model, x.split(chunk, dim=2), x.shape[2], features=features)
    return torch.cat([part for _, part in found], dim=2)


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 frame, got {chunk}")
