"""TV-L1 optical flow from images: the functions for users."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from fasti3d.flow.arrays import Array, like
from fasti3d.flow.frames import as_images, as_start, check_alike
from fasti3d.flow.params import TVL1Params
from fasti3d.ops.tvl1 import has_kernel
from fasti3d.proof import guard
from fasti3d.proof.subject import Subject

_DEFAULTS = TVL1Params()
# Pairs of a stream that are solved together, unless there are more threads than that.
_PAIRS = 16


def tvl1(
    frame0: Array, frame1: Array, *, params: TVL1Params = _DEFAULTS, initial_flow: Array | None = None
) -> Array:
    """Compute TV-L1 optical flow: (x, y) in frame0 is at (x, y) + flow in frame1.

    A pair's flow does not depend on its batch or on the number of threads. Ctrl-C takes effect afterwards.

    On a GPU the call only synchronizes to check the values of float frames and of an initial flow; not while
    compiling or capturing a CUDA graph, where the flow of values out of range is undefined.

    Args:
        frame0: grayscale images (H, W), (N, H, W) or (N, 1, H, W) with sides of at least 3; NumPy or torch,
            on the CPU or a GPU. uint8 is 0 to 255, floating point 0 to 1. ``fasti3d.flow.to_grey`` converts
            color; (H, W, 3) and (H, W, 4) are refused as color (pass narrow images as (N, 1, H, W)).
        frame1: as ``frame0``, of the same kind, device, dtype and shape.
        params: see ``TVL1Params``; its preset ``large-motion`` is for motion above about ten pixels.
        initial_flow: the flow to start from instead of zero, in pixels: floating point of the result's
            shape. Only what the coarsest level resolves of it is used.

    Returns:
        float32 (2, H, W) for images (H, W), else (N, 2, H, W): motion in pixels, x first; of the kind and on
        the device of the frames.

    Raises:
        TypeError: an argument has another type, or NumPy and torch are mixed.
        ValueError: frames of a wrong or of different shape, dtype or device; float frames that are not
            finite or outside 0 to 1; an initial flow of another shape or not finite; a tensor that requires
            a gradient while gradients are recorded.

    Source: Zach, Pock and Bischof, "A Duality Based Approach for Realtime TV-L1 Optical Flow", 2007, in
    OpenCV's two forms (``TVL1Params.mode``).

    Example:
        >>> fasti3d.tvl1(torch.rand(48, 64), torch.rand(48, 64)).shape
        torch.Size([2, 48, 64])
    """
    _check_params(params)
    first, second = as_images("frame0", frame0), as_images("frame1", frame1)
    check_alike("frame0", frame0, "frame1", frame1)
    single = frame0.ndim == 2
    start = None
    if initial_flow is not None:
        check_alike("frame0", frame0, "initial_flow", initial_flow, flow=True)
        pairs, height, width = first.shape
        shape = (2, height, width) if single else (pairs, 2, height, width)
        start = as_start("initial_flow", initial_flow, shape)
    flow = _solve(first, second, start, params)
    return like(flow[0] if single else flow, frame0)


@overload
def tvl1_video(  # type: ignore[overload-overlap] # an array is an iterable too
    frames: Array, *, params: TVL1Params = _DEFAULTS
) -> Array: ...
@overload
def tvl1_video(frames: Iterable[Array], *, params: TVL1Params = _DEFAULTS) -> Iterator[Array]: ...
def tvl1_video(frames: Any, *, params: TVL1Params = _DEFAULTS) -> Any:
    """Compute TV-L1 optical flow between the consecutive frames of a video; each frame is prepared once.

    N frames give N - 1 flows: flow i leads from frame i to frame i + 1, and equals that of ``tvl1``.

    Args:
        frames: a whole video, (T, H, W) or (T, 1, H, W), as ``tvl1`` takes images; or, for one of any
            length, an iterable of frames (H, W) of the same kind, device, dtype and size.
        params: see ``TVL1Params``.

    Returns:
        For a whole video float32 (T-1, 2, H, W), in pixels, x first, of the same kind and on the same
        device as the frames. For an iterable, a lazy iterator of (2, H, W): it reads 17 frames (more if
        torch has more than 16 threads), yields their flows, and keeps only those and one frame. Fewer than
        two frames give no flow.

    Raises:
        TypeError, ValueError: as ``tvl1``. The iterator raises it at the frame, whose number is in the
            message; the flows of frames read since the last one it yielded are lost.

    Example:
        >>> fasti3d.tvl1_video(torch.rand(3, 48, 64)).shape
        torch.Size([2, 2, 48, 64])
    """
    _check_params(params)
    if isinstance(frames, Tensor | np.ndarray):
        return _whole(frames, params)
    if isinstance(frames, str | bytes) or not isinstance(frames, Iterable):
        raise TypeError(
            f"frames must be a NumPy array, a tensor or an iterable of them, got {type(frames).__name__}"
        )
    return _stream(frames, params)


def _whole(frames: Any, params: TVL1Params) -> Any:
    images = as_images("frames", frames)
    if frames.ndim == 2:
        raise ValueError(f"frames must be (T, H, W), got {tuple(frames.shape)}: use tvl1 for single pairs")
    return like(_solve(images, None, None, params), frames)


def _stream(frames: Iterable[Array], params: TVL1Params) -> Iterator[Array]:
    first: Array | None = None
    images: list[Tensor] = []
    for index, frame in enumerate(frames):
        name = f"frames[{index}]"
        image = as_images(name, frame)
        if frame.ndim != 2:
            raise ValueError(f"{name} must be (H, W), got {tuple(frame.shape)}")
        if first is None:
            first = frame
        check_alike("frames[0]", first, name, frame)
        # Decoders may write every frame into the same memory.
        images.append(image.clone())
        if len(images) > max(_PAIRS, torch.get_num_threads()):
            yield from _flows(images, params, first)
            del images[:-1]
    if first is not None:
        yield from _flows(images, params, first)


def _flows(images: list[Tensor], params: TVL1Params, kind: Array) -> Iterator[Array]:
    for flow in _solve(torch.cat(images), None, None, params):
        # A view would keep all flows alive for as long as any is in use.
        yield like(flow.clone(), kind)


def _solve(frame0: Tensor, frame1: Tensor | None, start: Tensor | None, params: TVL1Params) -> Tensor:
    images, height, width = frame0.shape
    if images < (1 if frame1 is not None else 2):
        return torch.zeros((0, 2, height, width), dtype=torch.float32, device=frame0.device)
    values = (
        params.mode, float(params.tau), float(params.lambda_), float(params.theta),
        int(params.nscales), int(params.warps), float(params.epsilon),
        int(params.inner_iterations), int(params.outer_iterations),
        float(params.scale_step), float(params.gamma), int(params.median_filtering),
    )  # fmt: skip

    def solve(*images: Tensor | None) -> Tensor:
        flow: Tensor = torch.ops.fasti3d.tvl1(*images, *values)[0]
        return flow

    device = frame0.device
    if torch.compiler.is_compiling() or not (guard.concerns(device) and has_kernel(device)):
        return solve(frame0, frame1, start)

    def solve_on_cpu() -> Tensor:
        return solve(*(None if it is None else it.cpu() for it in (frame0, frame1, start))).to(device)

    its = subject(params)
    flow: Tensor = guard.guarded(
        device, its, lambda: its, lambda: solve(frame0, frame1, start), solve_on_cpu, compiles=False
    )
    return flow


def subject(params: TVL1Params) -> Subject:
    """What is to be proved of the GPU's solver: its code for these parameters, in one launch and in two, in
    every design that it may use.
    """
    code = {"mode": params.mode, "median_filtering": params.median_filtering, "gamma": params.gamma}
    design = (os.environ.get("FASTI3D_TVL1_CUDA_DESIGN") or "groups").partition("/")[0]
    kernels = (design,) if design in ("groups", "cluster") else ("groups", "cluster")
    return Subject.of(
        "tvl1",
        f"the TV-L1 solver ({params.mode}, median {params.median_filtering}, gamma {params.gamma}, {design})",
        designs=[f"{kernel}/{launches}" for kernel in kernels for launches in (1, 2)],
        **code,
    )


def _check_params(params: TVL1Params) -> None:
    if not isinstance(params, TVL1Params):
        raise TypeError(
            f"params must be a TVL1Params, got {type(params).__name__}: see TVL1Params and TVL1Params.preset"
        )
