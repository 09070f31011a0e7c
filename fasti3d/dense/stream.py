"""One pass of the network over clips that come in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from fasti3d import network, reference
from fasti3d.dense.field import HEADS, parts, steps
from fasti3d.dense.fused import is_fused, staged_fused
from fasti3d.dense.stages import staged
from fasti3d.engine.describe.inception import has_windows
from fasti3d.inputs import as_floats, autocast_dtype, check_clip, check_range

DEFAULT_FEATURES = "Mixed_5c"


class FrameCountError(ValueError):
    """Fewer or more frames than was said: the features that were given of them are wrong."""


def dense_stream(
    model: nn.Module, pieces: Iterable[Tensor], total: int, *, features: str = DEFAULT_FEATURES
) -> Iterator[tuple[int, Tensor]]:
    """The features of one pass of the network over clips of any length, whose frames come in pieces.

    Every layer keeps the last few frames of its input, so that no step is computed without the frames that
    it depends on, and few are computed twice. The result is that of ``model.forward_endpoints`` on the whole
    clips, but for rounding, as sums run in another order: in float32 this moves maps by some 1e-6 of their
    largest value. Memory does not depend on the length.

    Args:
        model: an `I3D`, fused or plain, in eval mode, whose weights do not change meanwhile; it runs where
            and in the dtype it is. Or a network of `fasti3d.fuse` that returns one map (N, C, T', H', W') and
            whose every layer reads a few frames at a time: no average over all of them.
        pieces: (N, in_channels, t, H, W) in [-1, 1], on the model's device and in its dtype, or uint8 RGB:
            the next frames of N clips side by side. Memory grows with t, and steps computed twice become
            fewer: at 64 the network does 10 % more than one pass does, at 128 5 %, at 256 2.5 %.
        total: frames of the whole clips. With SAME padding already the first step depends on the remainder
            of their number by 4.
        features: an endpoint of the trunk; ``pooled``, the features as the head sees them, one for every
            two neighbouring steps of Mixed_5c; or ``logits``, the logits of each of these, whose mean is
            what ``model`` itself returns. A fused network's are its output.

    Yields:
        The index of the first of some steps, in order and without gaps, and their features, on the device
        and in the dtype of the model: (N, C, steps, H', W') of an endpoint, (N, 1024, steps) pooled,
        (N, classes, steps) of logits. ``support`` says which frames a step is of.

    Raises:
        TypeError: a model that is neither.
        ValueError: at the call: a model in training mode or with parts whose windows are not known, unknown
            features, no frames, or fewer than 9 for the head. Later: pieces that the network does not
            take, or not of one size.
        FrameCountError: more frames than ``total``, or, at the end, fewer.
    """
    check_model(model)
    if not isinstance(model, reference.I3D):
        _check_fused(features, total)
        return _numbered(lambda: staged_fused(model, _counted(pieces, total), total))
    steps(features, total)
    _check_windows(model, features)
    return _numbered(lambda: staged(model, _checked(model, pieces, total, features), total, features))


def check_model(model: nn.Module) -> None:
    """TypeError for neither an I3D nor a network of ``fuse``, ValueError for one that is not in eval mode."""
    if not isinstance(model, reference.I3D) and not is_fused(model):
        raise TypeError(
            f"model must be a fasti3d.I3D, or a network of fasti3d.fuse, got {type(model).__name__}"
        )
    if any(part.training for part in model.modules()):
        raise ValueError("model must be in eval mode, all of it: call model.eval() first")


def _check_fused(features: str, total: int) -> None:
    """ValueError for what cannot be asked of a network of ``fuse``."""
    if features != DEFAULT_FEATURES:
        raise ValueError(f"features of a fused network are what it returns: leave them out, got {features!r}")
    if total < 1:
        raise ValueError(f"total must be at least 1 frame, got {total}")


def _check_windows(model: reference.I3D, features: str) -> None:
    """ValueError for parts that may look at other frames than the network's own do."""
    for name in parts(features):
        part = getattr(model, name, None)
        if not has_windows(part, network.TRUNK[name]):
            raise ValueError(
                f"model must have the network's own windows in time up to {features}, but its {name} "
                f"({type(part).__name__}) was changed: take whole clips with forward_endpoints"
            )


@torch.no_grad()
def _numbered(pieces: Callable[[], Iterator[Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """Pieces with memory of their own, each with the index of its first step, all without gradients."""
    done = 0
    for part in pieces():
        part = part.clone()
        yield done, part
        done += part.shape[2]


def _checked(model: reference.I3D, pieces: Iterable[Tensor], total: int, features: str) -> Iterator[Tensor]:
    weight_dtype = model.Conv3d_1a_7x7.conv3d.weight.dtype
    least = network.MIN_SIZE if features in HEADS else 1
    for x in _counted(pieces, total):
        check_clip(x, model.in_channels, weight_dtype)
        if min(x.shape[3:]) < least:
            raise ValueError(
                f"pieces must be at least {least}x{least} pixels for {features}, "
                f"got {x.shape[3]}x{x.shape[4]}: enlarge them, or take Mixed_5c"
            )
        check_range(x)
        given = [as_floats(x, autocast_dtype(x.device) or weight_dtype)]
        del x  # a suspended generator would keep it
        yield given.pop()


def _counted(pieces: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    """The same pieces, which must be of one size and have as many frames as was said."""
    size: tuple[int, ...] = ()
    seen = 0
    for x in pieces:
        if not isinstance(x, Tensor) or x.dim() != 5:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"pieces must be clips (N, C, t, H, W), got {shape}")
        size = size or (*x.shape[:2], *x.shape[3:])
        if (*x.shape[:2], *x.shape[3:]) != size:
            raise ValueError(
                f"pieces must be of one (N, C, H, W), got {(*x.shape[:2], *x.shape[3:])} after {size}"
            )
        seen += x.shape[2]
        if seen > total:
            raise FrameCountError(f"total must be the number of frames, got {total}, but there are more")
        given = [x]
        del x  # a suspended generator would keep it
        yield given.pop()
    if seen < total:
        raise FrameCountError(f"total must be the number of frames, got {total}, but there are {seen}")
