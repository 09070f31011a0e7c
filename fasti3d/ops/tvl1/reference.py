"""TV-L1 in plain PyTorch, one pair at a time, with the order of operations of csrc/tvl1/math.h.

Nothing is fused, so with a fixed number of iterations the result is bit-equal to the compiled solvers'.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fasti3d.ops.tvl1.checks import check_tensors, check_values
from fasti3d.tvl1_limits import MAX_FLOW, check_params, max_frame_value

# Min of |grad I1|^2, and min side of every level but the finest.
MIN_GRADIENT = 1e-12
MIN_LEVEL_SIDE = 16

# Positions are clamped to this far outside, where all taps are outside; taps reach one pixel further.
_BEFORE, _AFTER = 3, 1
_PADDING = (_BEFORE + 1, _AFTER + 3, _BEFORE + 1, _AFTER + 3)


@dataclass(frozen=True)
class Settings:
    """The parameters under the names of ``fasti3d.TVL1Params``, and the float32 numbers that follow."""

    mode: str
    tau: float
    lambda_: float
    theta: float
    nscales: int
    warps: int
    epsilon: float
    inner_iterations: int
    outer_iterations: int
    scale_step: float
    gamma: float
    median_filtering: int

    @property
    def cuda_form(self) -> bool:
        return self.mode == "opencv-cuda"

    @property
    def limit(self) -> float:
        return float32(self.lambda_ * self.theta)

    @property
    def taut(self) -> float:
        return float32(self.tau / self.theta)


def float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def tvl1_reference(
    frame0: Tensor, frame1: Tensor | None, initial_flow: Tensor | None, mode: str, tau: float, lambda_: float,
    theta: float, nscales: int, warps: int, epsilon: float, inner_iterations: int, outer_iterations: int,
    scale_step: float, gamma: float, median_filtering: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Solve the pairs one after the other, each with its own stop."""
    settings = Settings(
        mode, tau, lambda_, theta, nscales, warps, epsilon, inner_iterations, outer_iterations, scale_step,
        gamma, median_filtering,
    )  # fmt: skip
    check_params(**vars(settings))
    check_tensors(frame0, frame1, initial_flow)
    largest = max_frame_value(lambda_, theta)
    check_values("frame0", frame0, -largest, largest)
    check_values("frame1", frame1, -largest, largest)
    check_values("initial_flow", initial_flow, -MAX_FLOW, MAX_FLOW)
    return solve_pairs(frame0, frame1, initial_flow, settings)


def solve_pairs(
    frame0: Tensor, frame1: Tensor | None, initial_flow: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Solve without the operator's checks, for parameters that only OpenCV takes, such as tau 0."""
    sizes = pyramid_sizes((frame0.shape[1], frame0.shape[2]), settings)
    first = pyramid(gray_levels(frame0), sizes, settings)
    if frame1 is None:
        # Without frames there are 0 pairs, not -1.
        first, second = [level[: max(len(level) - 1, 0)] for level in first], [level[1:] for level in first]
    else:
        second = pyramid(gray_levels(frame1), sizes, settings)
    pairs = first[0].shape[0]
    if initial_flow is None:
        starts = first[-1].new_zeros((pairs, 2, *sizes[-1]))
    else:
        starts = pyramid(initial_flow, sizes, settings, factor=float32(settings.scale_step))[-1]

    flow = first[0].new_empty((pairs, 2, *sizes[0]))
    iterations = torch.zeros((pairs, settings.nscales, settings.warps), dtype=torch.int32)
    for pair in range(pairs):
        u = starts[pair]
        if settings.gamma:
            u = torch.cat([u, torch.zeros_like(u[:1])])
        for level in reversed(range(len(sizes))):
            if level + 1 < len(sizes):
                u = _upsample(u, sizes[level], settings)
            u, counts = _solve_level(first[level][pair], second[level][pair], u, settings)
            iterations[pair, level] = torch.tensor(counts, dtype=torch.int32)
        flow[pair] = u[:2]
    return flow, iterations.to(frame0.device)


def gray_levels(frames: Tensor) -> Tensor:
    """Return frames as float32 of 0 to 255."""
    return frames.float() if frames.dtype == torch.uint8 else frames * 255.0


def pyramid_sizes(finest: tuple[int, int], settings: Settings) -> list[tuple[int, int]]:
    """(height, width) of the levels, finest first. Halves round to even, as in OpenCV."""
    sizes = [finest]
    while len(sizes) < settings.nscales:
        height, width = (round(side * settings.scale_step) for side in sizes[-1])
        if min(height, width) < MIN_LEVEL_SIDE:
            break
        sizes.append((height, width))
    return sizes


def pyramid(
    images: Tensor, sizes: list[tuple[int, int]], settings: Settings, factor: float = 1.0
) -> list[Tensor]:
    """Images (..., H, W) at all sizes, each level made from the one before and multiplied by ``factor``."""
    scale = 1.0 / settings.scale_step
    levels = [images]
    for size in sizes[1:]:
        levels.append(resize(levels[-1], size, (scale, scale), settings.cuda_form) * factor)
    return levels


def _upsample(u: Tensor, size: tuple[int, int], settings: Settings) -> Tensor:
    """The flow of the next finer level; a third component, of gray levels, keeps its values."""
    scales = (u.shape[1] / size[0], u.shape[2] / size[1])
    u = resize(u, size, scales, settings.cuda_form)
    return torch.cat([u[:2] * float32(1.0 / settings.scale_step), u[2:]])


def resize(image: Tensor, size: tuple[int, int], scales: tuple[float, float], cuda_form: bool) -> Tensor:
    """Bilinear, without antialiasing, along x and then along y; ``scales`` are input over output sizes."""
    first, second, weight = _between(size[1], scales[1], image.shape[-1], cuda_form, image.device)
    image = image[..., first] * (1.0 - weight) + image[..., second] * weight
    first, second, weight = _between(size[0], scales[0], image.shape[-2], cuda_form, image.device)
    weight = weight[:, None]
    return image[..., first, :] * (1.0 - weight) + image[..., second, :] * weight


def _between(
    outputs: int, scale: float, size: int, cuda_form: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the output pixels of an axis lie between input pixels: ``between`` of csrc/tvl1/params.h."""
    index = torch.arange(outputs, dtype=torch.float64)
    at = index * scale if cuda_form else (index + 0.5) * scale - 0.5
    first = at.floor().long()
    outside = (first < 0) | (first >= size - 1)
    weight = torch.where(outside, 0.0, at - first).float()
    first = first.clamp(0, size - 1)
    second = (first + 1).clamp(max=size - 1)
    return first.to(device), second.to(device), weight.to(device)


def gradient(image: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (H, W) along x and y; at the border half of the one-sided difference."""
    padded = F.pad(image[None], (1, 1, 1, 1), mode="replicate")[0]
    along_x = 0.5 * (padded[1:-1, 2:] - padded[1:-1, :-2])
    along_y = 0.5 * (padded[2:, 1:-1] - padded[:-2, 1:-1])
    return along_x, along_y


def warp(images: Tensor, u: Tensor, cuda_form: bool) -> Tensor:
    """Bicubic samples of images (C, H, W) at every pixel's position plus u (2, H, W)."""
    height, width = images.shape[1:]
    padded = F.pad(images, _PADDING, mode="replicate" if cuda_form else "constant")
    x = (torch.arange(width, device=u.device) + u[0]).clamp(-_BEFORE, width + _AFTER)
    y = (torch.arange(height, device=u.device)[:, None] + u[1]).clamp(-_BEFORE, height + _AFTER)
    column, row = x.floor(), y.floor()
    kernel = -0.5 if cuda_form else -0.75
    weights_x, weights_y = _bicubic(x - column, kernel), _bicubic(y - row, kernel)
    # The first tap, in the padded image: one before the sample's pixel.
    left, top = column.long() + _BEFORE, row.long() + _BEFORE
    a, b, c, d = (
        weight * _weighted(weights_y, [padded[:, top + j, left + i] for j in range(4)])
        for i, weight in enumerate(weights_x)
    )
    return (a + c) + (b + d)


def _bicubic(t: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    far = t + 1.0
    w0 = ((a * far - 5.0 * a) * far + 8.0 * a) * far - 4.0 * a
    w1, w2 = (((a + 2.0) * s - (a + 3.0)) * s * s + 1.0 for s in (t, 1.0 - t))
    return w0, w1, w2, ((1.0 - w0) - w1) - w2


def _weighted(weights: tuple[Tensor, Tensor, Tensor, Tensor], taps: list[Tensor]) -> Tensor:
    a, b, c, d = (weight * tap for weight, tap in zip(weights, taps, strict=True))
    return ((a + b) + c) + d


def median(u: Tensor, side: int) -> Tensor:
    """Median of side x side pixels of every component of u (C, H, W); the border is replicated."""
    reach = side // 2
    padded = F.pad(u, (reach, reach, reach, reach), mode="replicate")
    return padded.unfold(1, side, 1).unfold(2, side, 1).flatten(3).median(dim=3).values


def _solve_level(i0: Tensor, i1: Tensor, u: Tensor, settings: Settings) -> tuple[Tensor, list[int]]:
    """Return u after all warps of a level, and the iterations of each."""
    images = torch.stack([i1, *gradient(i1)])
    iteration = _Iteration(u, settings)
    counts = []
    for _ in range(settings.warps):
        iteration.linearize(i0, warp(images, iteration.u[:2], settings.cuda_form))
        run = _run_cuda_form if settings.cuda_form else _run_cpu_form
        counts.append(run(iteration, settings))
    return iteration.u, counts


def _run_cpu_form(iteration: _Iteration, settings: Settings) -> int:
    """Iterate until the flow converges, with a median before each round; return the number of iterations."""
    tolerance = iteration.tolerance
    count, error = 0, math.inf
    for _ in range(settings.outer_iterations):
        if not error > tolerance:
            break
        if settings.median_filtering > 1:
            flow, rest = iteration.u[:2], iteration.u[2:]
            iteration.u = torch.cat([median(flow, settings.median_filtering), rest])
        for _ in range(settings.inner_iterations):
            if not error > tolerance:
                break
            error = iteration.step().item()
            count += 1
    return count


def _run_cuda_form(iteration: _Iteration, settings: Settings) -> int:
    """Iterate until the flow converges; return the number of iterations.

    The error is checked in odd iterations only, and only after the last one, minus the tolerance per
    iteration since, has fallen below the tolerance.
    """
    tolerance = iteration.tolerance
    count, error, previous = 0, math.inf, 0.0
    while error > tolerance and count < settings.inner_iterations * settings.outer_iterations:
        checks = settings.epsilon > 0 and count % 2 == 1 and previous < tolerance
        change = iteration.step()
        if checks:
            error = previous = change.item()
        else:
            error, previous = math.inf, previous - tolerance
        count += 1
    return count


class _Iteration:
    """The state of a level: u (2 or, with gamma, 3 components, H, W) and its duals along x and y."""

    def __init__(self, u: Tensor, settings: Settings) -> None:
        self.u = u
        self.px, self.py = torch.zeros_like(u), torch.zeros_like(u)
        self.limit, self.taut = settings.limit, settings.taut
        self.theta, self.gamma = float32(settings.theta), float32(settings.gamma)
        self.tolerance = settings.epsilon * settings.epsilon * u[0].numel()

    def linearize(self, i0: Tensor, warped: Tensor) -> None:
        """Set the constants of the following iterations: I1 and its gradient, sampled at u."""
        i1, ix, iy = warped
        square = (ix * ix + iy * iy).clamp(min=MIN_GRADIENT)
        self.inverse = 1.0 / square
        self.rho = ((i1 - ix * self.u[0]) - iy * self.u[1]) - i0
        # The derivatives of the residual by the components of u.
        slopes = [ix, iy] if len(self.u) == 2 else [ix, iy, torch.full_like(ix, self.gamma)]
        self.slopes = torch.stack(slopes)

    def step(self) -> Tensor:
        """Iterate once; return the sum of the squared changes of u, in float64."""
        terms = self.slopes * self.u
        rho = self.rho + (terms[0] + terms[1])
        if len(terms) == 3:
            rho = rho + terms[2]
        step = (rho * self.inverse).clamp(-self.limit, self.limit)
        divergence = (self.px - _shifted(self.px, 2)) + (self.py - _shifted(self.py, 1))
        u = (self.u - step * self.slopes) + self.theta * divergence
        squares = (u - self.u) * (u - self.u)
        change = sum(squares[1:], start=squares[0]).double().sum()
        self.u = u

        ux, uy = torch.zeros_like(u), torch.zeros_like(u)
        ux[:, :, :-1] = u[:, :, 1:] - u[:, :, :-1]
        uy[:, :-1] = u[:, 1:] - u[:, :-1]
        # On a CPU torch's float32 root is off by up to one unit in the last place.
        norms = 1.0 + self.taut * (ux * ux + uy * uy).double().sqrt().float()
        scales = _reciprocals(norms)
        self.px = (self.px + self.taut * ux) * scales
        self.py = (self.py + self.taut * uy) * scales
        return change


def _shifted(p: Tensor, axis: int) -> Tensor:
    """p one pixel further along the axis, zeros coming in."""
    shifted = torch.zeros_like(p)
    shifted.narrow(axis, 1, p.shape[axis] - 1).copy_(p.narrow(axis, 0, p.shape[axis] - 1))
    return shifted


def _reciprocals(norms: Tensor) -> Tensor:
    """Return 1 / every component, with one division per pixel."""
    if len(norms) == 2:
        return (1.0 / (norms[0] * norms[1])) * norms.flip(0)
    n1, n2, n3 = norms
    both = torch.stack([n2 * n3, n1 * n3, n1 * n2])
    return (1.0 / (both[2] * n3)) * both
