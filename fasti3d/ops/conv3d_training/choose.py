"""Which form each pass of a convolution takes: from shapes, dtype and machine alone."""

from __future__ import annotations

from math import prod
from typing import Literal, NamedTuple

import torch

from fasti3d.ops.conv3d_bn_relu.geometry import output_size
from fasti3d.ops.conv3d_bn_relu.space_to_depth import FEW_CHANNELS
from fasti3d.ops.tiling import Triple

Pass = Literal["forward", "grad_input", "grad_weight"]

# Output pixels of a batch, and products of channels, from which the filter wins in the forward pass and for
# the input's gradient: below, packing the weights takes what it saves. And pixels from which four frames per
# tile are faster for the weights' gradient than two, which round less.
_MIN_PIXELS, _MIN_CHANNELS, _MIN_PIXELS_OF_FOUR = 3000, 2048, 512


class Problem(NamedTuple):
    """A convolution, SAME-padded: ``size`` is (T, H, W) of its input.

    ``isa`` is the instruction set of this library's kernels on a CPU, "triton" on a GPU, None where there are
    none.
    """

    batch: int
    in_channels: int
    out_channels: int
    size: Triple
    kernel: Triple
    stride: Triple
    dtype: torch.dtype
    device: str
    isa: str | None

    @property
    def output_size(self) -> list[int]:
        """(T, H, W) of the result."""
        return output_size(self.size, self.kernel, self.stride, None)


class Choice(NamedTuple):
    """The form of a pass, output frames per tile of the minimal filter, and why in a line.

    "torch" is cuDNN or oneDNN, "gemm" one matrix product, "filter" a kernel of this library for CPUs,
    "triton" one for GPUs.
    """

    form: Literal["torch", "gemm", "filter", "triton"]
    frames: int
    why: str

    def __str__(self) -> str:
        tile = f" of {self.frames} frames" if self.form == "filter" else ""
        return f"{self.form}{tile}: {self.why}"


def choose(which: Pass, problem: Problem) -> Choice:
    """The fastest form of a pass: on a CPU of those measured, on a GPU as far as it is known.

    >>> stem = Problem(1, 3, 64, (16, 224, 224), (7, 7, 7), (2, 2, 2), torch.float32, "cuda", None)
    >>> print(choose("forward", stem))
    torch: no kernel of this pass supports this GPU and dtype
    """
    if problem.device != "cpu":
        return _on_gpu(which, problem)
    if problem.dtype != torch.float32:
        return _torch("the kernels are of float32")
    if problem.kernel == problem.stride == (1, 1, 1):
        return Choice("gemm", 1, "oneDNN's of channels-last maps takes 1.2 to 8 times as long")
    if problem.isa in (None, "baseline"):
        return _torch("oneDNN has AVX2 where the kernels have not")
    if which == "grad_weight":
        return _grad_weight(problem)
    return _forward(problem, flipped=which == "grad_input")


def _on_gpu(which: Pass, problem: Problem) -> Choice:
    if which != "grad_input" or problem.isa != "triton":
        return _torch("no kernel of this pass supports this GPU and dtype")
    if problem.dtype == torch.float32:
        return _torch("training in float32 is torch's own, with the products that its switches allow")
    if problem.stride != (1, 1, 1):
        return _torch("a gradient of strided windows is no convolution of one stride")
    if any(taps % 2 == 0 for taps in problem.kernel):
        return _torch("SAME pads an even window unevenly")
    return Choice("triton", 1, "a convolution with the taps in reverse, as the forward pass")


def _torch(why: str) -> Choice:
    return Choice("torch", 1, why)


def _has_filter(problem: Problem) -> bool:
    """Whether a minimal filter along time saves a third of the products or more."""
    taps = {1: (3,), 2: (4, 5, 6, 7)}.get(problem.stride[0], ())
    return problem.kernel[0] in taps and problem.size[0] > 1


def _forward(problem: Problem, *, flipped: bool) -> Choice:
    if flipped and problem.stride != (1, 1, 1):
        return _torch("a gradient of strided windows is no convolution of one stride")
    if flipped and any(taps % 2 == 0 for taps in problem.kernel):
        return _torch("SAME pads an even window unevenly")
    frames, *_ = problem.output_size
    if not _has_filter(problem) or frames < 3:
        return _torch("a minimal filter of 4 frames saves nothing")
    if problem.batch * prod(problem.output_size) < _MIN_PIXELS:
        return _torch(f"of fewer than {_MIN_PIXELS} pixels packing takes what a minimal filter saves")
    if problem.in_channels >= FEW_CHANNELS and problem.in_channels * problem.out_channels < _MIN_CHANNELS:
        return _torch("transforming so few channels takes what a minimal filter saves")
    return Choice("filter", 4, "half the products take 0.6 to 0.9 of oneDNN's time, packing included")


def _grad_weight(problem: Problem) -> Choice:
    if not _has_filter(problem):
        return _torch("a minimal filter saves nothing")
    frames, *_ = problem.output_size
    if problem.stride[0] == 1 and (
        frames < 3 or problem.batch * prod(problem.output_size) < _MIN_PIXELS_OF_FOUR
    ):
        return Choice("filter", 2, "oneDNN takes 1.5 to 2 times as long for few pixels")
    return Choice("filter", 4, "half the products take 0.5 to 0.8 of oneDNN's time")
