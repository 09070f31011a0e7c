"""The network cut along time: each stage keeps the few frames of its input that later steps still need.

A stage is a run of layers. Given its input piece by piece, it computes every step that the frames so far
determine, on a cut of its input that begins at a multiple of its stride and whose length leaves the same
remainder by the stride as the whole input's: then SAME padding aligns the cut as it aligns the whole. Steps
near the cut's edges, which saw padding in place of frames, are dropped, except at the ends of the video,
where the padding is real.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from fasti3d import reference
from fasti3d.dense.field import HEADS, Field, chained, parts
from fasti3d.engine.layout import View
from fasti3d.engine.plan import Segment
from fasti3d.i3d import I3D
from fasti3d.inputs import autocast_dtype
from fasti3d.network import HEAD_POOL
from fasti3d.ops.registry import needs_ordinary_path
from fasti3d.reference import head_pool

Run = Callable[[Tensor], Tensor]
Join = Callable[[Tensor, Tensor], Tensor]


def staged(model: reference.I3D, pieces: Iterator[Tensor], total: int, features: str) -> Iterator[Tensor]:
    """The features of a video of ``total`` frames, given as pieces (N, C, t, H, W) of it, in pieces.

    It runs on the weights as they are at the first. What it yields is overwritten by the next.
    """
    length, names = total, parts(features)
    for name, run, join in _runs(model, names[-1]):
        end = names.index(name) + 1
        field, steps = chained(names[:end], length)
        pieces = stage(pieces, run, join, field, length, steps)
        names, length = names[end:], steps
    if features in HEADS:
        frames = HEAD_POOL[0]
        head = _pooled if features == "pooled" else _logits(model)
        pieces = stage(pieces, head, _join, Field(1, 0, frames), length, length - (frames - 1))
    return pieces


def stage(
    pieces: Iterator[Tensor], run: Run, join: Join, field: Field, length: int, steps: int
) -> Iterator[Tensor]:
    """A run of layers over an input of ``length`` frames, which become ``steps``."""
    stride, before, size = field
    held: Tensor | None = None
    first = 0  # the frame that begins what is held, a multiple of the stride
    done = 0  # steps given
    for piece in pieces:
        x = join(piece[:, :, :0] if held is None else held, piece)
        del piece  # a suspended generator would keep what it has, while the later stages work
        given = first + x.shape[2]
        last = given - (given - length) % stride
        known = steps if given == length else (last + before - size) // stride + 1
        if known <= done:
            held = x.clone()
            continue
        needed = max(stride * known - before, 0) // stride * stride
        held = x[:, :, needed - first :].clone()
        y = [run(x[:, :, : last - first])[:, :, done - first // stride : known - first // stride]]
        first, done = needed, known
        del x
        yield y.pop()


def _runs(model: reference.I3D, last: str) -> Iterator[tuple[str, Run, Join]]:
    """The network up to ``last`` as functions, each with the name of the part that it ends with."""
    weight = model.Conv3d_1a_7x7.conv3d.weight
    like = torch.empty(0, dtype=weight.dtype, device=weight.device)
    dtype = autocast_dtype(weight.device) or weight.dtype
    plan = None
    if isinstance(model, I3D) and not needs_ordinary_path(like):
        plan = model.current_plan(like, dtype)
    if plan is None:
        for name in parts(last):
            yield name, getattr(model, name), _join
        return
    workspace = Workspace(plan.dtype, weight.device)
    for names, segment in plan.segments(last):
        result = dtype if names[-1] == last else plan.dtype
        yield names[-1], partial(workspace.run, segment, result), workspace.join


def _join(held: Tensor, piece: Tensor) -> Tensor:
    return torch.cat((held, piece), dim=2)


class Workspace:
    """Memory for the segments of a plan, which run one after another: as much as the largest has needed.

    A result stays in it until the next segment runs. (Memory of its own for each would leave holes in the
    heap that amount to several of them.)
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._input = torch.empty(0, dtype=dtype, device=device)
        self._block = torch.empty(0, dtype=dtype, device=device)

    def join(self, held: Tensor, piece: Tensor) -> Tensor:
        """The next input, channels-last, in the dtype of the plan."""
        n, c, frames, h, w = piece.shape
        kept = held.shape[2]
        shape = (n, c, kept + frames, h, w)
        self._input = _grown(self._input, math.prod(shape))
        x = View.dense(0, shape).of(self._input)
        x[:, :, :kept] = held
        x[:, :, kept:] = piece
        return x

    def run(self, segment: Segment, result: torch.dtype, x: Tensor) -> Tensor:
        """A segment on its input, the map in the dtype ``result``."""
        layout = segment.layout(x.shape)
        self._block = _grown(self._block, layout.nbytes // self._block.itemsize)
        with torch.autocast(x.device.type, enabled=False):
            return segment.run(x, layout, self._block).to(result)


def _grown(memory: Tensor, size: int) -> Tensor:
    """Memory of at least ``size`` values: the same if it is large enough."""
    return memory if len(memory) >= size else memory.new_empty(size)


def _pooled(x: Tensor) -> Tensor:
    return head_pool(x).mean(dim=(3, 4))


def _logits(model: reference.I3D) -> Run:
    def logits(x: Tensor) -> Tensor:
        scores: Tensor = model.logits(model.dropout(_pooled(x)[..., None, None]))
        if scores.dim() < 3:
            raise ValueError(
                "model's classifier must keep the time axis for the logits of each step, got shape "
                f"{tuple(scores.shape)}: take pooled features"
            )
        return scores.flatten(2)

    return logits
