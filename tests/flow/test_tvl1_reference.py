"""The reference of fasti3d::tvl1: its parts and the whole against OpenCV, and what OpenCV cannot show."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from flow_making import moving
from torch import Tensor
from tvl1_making import arguments
from tvl1_making import reference as on_one_thread

from fasti3d.flow import TVL1Params
from fasti3d.ops.tvl1 import reference
from fasti3d.ops.tvl1.reference import Settings

CPU_FORM, CUDA_FORM = False, True

# OpenCV's names, in the order of its create().
OPENCV_ORDER = (
    "tau", "lambda_", "theta", "nscales", "warps", "epsilon", "inner_iterations", "outer_iterations",
    "scale_step", "gamma", "median_filtering",
)  # fmt: skip

# One linearization with a fixed number of iterations: no rounding error is amplified by a stop or by sampling
# somewhere else, so that one step of a wrong formula would show.
ONE_WARP = TVL1Params(nscales=1, warps=1, epsilon=0, inner_iterations=20, outer_iterations=2)


def settings(**changes: Any) -> Settings:
    return Settings(**dataclasses.asdict(TVL1Params(**changes)))


def solve(
    frame0: Tensor, frame1: Tensor | None, params: TVL1Params, initial_flow: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    return on_one_thread(frame0, frame1, initial_flow, *arguments(params))


def opencv_solve(
    cv2: ModuleType, frame0: Tensor, frame1: Tensor, params: TVL1Params, start: Tensor | None = None
) -> Tensor:
    solver = cv2.optflow.DualTVL1OpticalFlow_create(
        *(getattr(params, name) for name in OPENCV_ORDER), start is not None
    )
    flow = None if start is None else start.permute(1, 2, 0).contiguous().numpy().copy()
    return torch.from_numpy(solver.calc(frame0.numpy(), frame1.numpy(), flow)).permute(2, 0, 1)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 255


@pytest.fixture(scope="module")
def cv2() -> ModuleType:
    return pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def optflow(cv2: ModuleType) -> ModuleType:
    if not hasattr(cv2, "optflow"):
        pytest.skip("this OpenCV was built without its contributed modules")
    return cv2


def opencv_major(cv2: ModuleType) -> int:
    return int(cv2.__version__.split(".")[0])


@pytest.mark.parametrize("step", [0.8, 0.5, 0.731])
@pytest.mark.parametrize("size", [(61, 83), (27, 25)])
def test_pyramid_is_opencvs(cv2: ModuleType, step: float, size: tuple[int, int]) -> None:
    image = noise(*size)
    wanted = cv2.resize(image.numpy(), None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR)
    form = settings(scale_step=step, nscales=2)
    sizes = [size, wanted.shape]
    if min(wanted.shape) >= 16:
        assert reference.pyramid_sizes(size, form) == sizes
    levels = reference.pyramid(image, sizes, form)
    assert levels[0] is image
    assert (levels[1] - torch.from_numpy(wanted)).abs().max() <= 1e-4


def test_enlarging_is_opencvs(cv2: ModuleType) -> None:
    u = noise(2, 38, 51)
    larger = reference.resize(u, (48, 64), (38 / 48, 51 / 64), CPU_FORM)
    for ours, image in zip(larger, u, strict=True):
        wanted = cv2.resize(image.numpy(), (64, 48), interpolation=cv2.INTER_LINEAR)
        assert (ours - torch.from_numpy(wanted)).abs().max() <= 1e-4


def test_the_cuda_form_aligns_corners_when_resizing() -> None:
    image, scale = noise(41, 53).double().numpy(), 1 / 0.8
    rows, columns = np.arange(33) * scale, np.arange(42) * scale
    wanted = np.stack([np.interp(columns, np.arange(53), row) for row in image])
    wanted = np.stack([np.interp(rows, np.arange(41), column) for column in wanted.T], axis=1)
    ours = reference.resize(torch.from_numpy(image).float(), (33, 42), (scale, scale), CUDA_FORM)
    assert np.abs(ours.numpy() - wanted).max() <= 1e-4


def test_pyramid_stops_before_a_side_falls_under_16() -> None:
    assert reference.pyramid_sizes((48, 64), settings()) == [(48, 64), (38, 51), (30, 41), (24, 33), (19, 26)]
    assert reference.pyramid_sizes((32, 99), settings(scale_step=0.5)) == [(32, 99), (16, 50)]
    assert reference.pyramid_sizes((31, 99), settings(scale_step=0.5)) == [(31, 99), (16, 50)]
    assert reference.pyramid_sizes((30, 99), settings(scale_step=0.5)) == [(30, 99)]
    assert reference.pyramid_sizes((3, 3), settings()) == [(3, 3)]


def test_sampling_is_opencvs(cv2: ModuleType) -> None:
    images = torch.stack([noise(40, 56), noise(40, 56) - 100, noise(40, 56) * 0.1])
    u = torch.randn((2, 40, 56), generator=torch.Generator().manual_seed(2)) * 6
    u[0, 0, 0], u[1, 0, 1] = 3000.0, -3000.0
    if opencv_major(cv2) < 5:  # which samples at multiples of 1/32 of a pixel
        u = (u * 32).round() / 32
    map_x = (torch.arange(56) + u[0]).numpy()
    map_y = (torch.arange(40)[:, None] + u[1]).numpy()
    for ours, image in zip(reference.warp(images, u, CPU_FORM), images, strict=True):
        wanted = cv2.remap(image.numpy(), map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
        assert (ours - torch.from_numpy(wanted)).abs().max() <= 5e-4


def test_the_cuda_form_samples_parabolas_exactly() -> None:
    """Of all bicubic kernels only that of parameter -0.5 does."""
    x, y = torch.arange(56.0) - 28, torch.arange(40.0)[:, None] - 20

    def parabola(x: Tensor, y: Tensor) -> Tensor:
        return 0.1 * x * x - 0.2 * x * y + 0.05 * y * y + x - 3

    u = torch.rand((2, 40, 56), generator=torch.Generator().manual_seed(3)) * 4 - 2
    sampled = reference.warp(parabola(x, y)[None], u, CUDA_FORM)[0]
    inner = (slice(4, -4), slice(4, -4))
    assert (sampled - parabola(x + u[0], y + u[1]))[inner].abs().max() <= 1e-3


@pytest.mark.parametrize("away", [-1e30, -1e4, -70.0, -5.5, 5.5, 70.0, 1e4, 1e30])
def test_outside_is_black_or_the_edge(away: float) -> None:
    image = noise(1, 20, 24) + 1
    u = torch.zeros((2, 20, 24))
    u[0] = away
    outside = (torch.arange(24) + away < -2) | (torch.arange(24) + away > 25)
    edge = image[:, :, :1] if away < 0 else image[:, :, -1:]
    assert (reference.warp(image, u, CPU_FORM)[..., outside] == 0).all()
    clamped = reference.warp(image, u, CUDA_FORM)[..., outside]
    assert (clamped - edge).abs().max() <= 1e-3


@pytest.mark.parametrize("side", [3, 5])
def test_median_is_opencvs(cv2: ModuleType, side: int) -> None:
    u = noise(2, 23, 31)
    wanted = [torch.from_numpy(cv2.medianBlur(plane.numpy(), side)) for plane in u]
    assert torch.equal(reference.median(u, side), torch.stack(wanted))


def test_gradient_is_half_the_difference_of_the_neighbors() -> None:
    image = noise(17, 23)
    along_y, along_x = (torch.from_numpy(axis.copy()) for axis in np.gradient(image.numpy()))
    for one_sided, axis in ((along_x, 1), (along_y, 0)):
        for border in (0, -1):
            one_sided.select(axis, border).mul_(0.5)
    ours_x, ours_y = reference.gradient(image)
    assert torch.allclose(ours_x, along_x, atol=1e-5)
    assert torch.allclose(ours_y, along_y, atol=1e-5)


@pytest.mark.parametrize("median", [1, 3, 5])
@pytest.mark.parametrize("gamma", [0.0, 0.4])
@pytest.mark.parametrize("started", [False, True])
def test_one_warp_is_opencvs(optflow: ModuleType, median: int, gamma: float, started: bool) -> None:
    params = dataclasses.replace(ONE_WARP, median_filtering=median, gamma=gamma)
    frames = moving(2)
    start = None
    if started:
        start = torch.randn((2, 48, 64), generator=torch.Generator().manual_seed(4)) * 2
        if opencv_major(optflow) < 5:
            start = (start * 32).round() / 32
    ours, iterations = solve(frames[:1], frames[1:], params, None if start is None else start[None])
    assert iterations.tolist() == [[[40]]]
    wanted = opencv_solve(optflow, frames[0], frames[1], params, start)
    assert wanted.abs().max() > 0.5
    assert (ours[0] - wanted).abs().max() <= 1e-3


def test_levels_are_joined_as_in_opencv(optflow: ModuleType) -> None:
    """One iteration a level: what the resizes and the scaling of flow and start do is all that shows."""
    params = TVL1Params(
        nscales=3, warps=1, epsilon=0, inner_iterations=1, outer_iterations=1, gamma=0.2, median_filtering=1
    )
    if opencv_major(optflow) < 5:
        pytest.skip("OpenCV 4 samples at multiples of 1/32 of a pixel")
    frames = moving(2)
    start = torch.randn((2, 48, 64), generator=torch.Generator().manual_seed(5)) * 3
    ours, iterations = solve(frames[:1], frames[1:], params, start[None])
    assert iterations.flatten().tolist() == [1, 1, 1]
    wanted = opencv_solve(optflow, frames[0], frames[1], params, start)
    assert (ours[0] - wanted).abs().max() <= 5e-3
    assert (ours[0] - wanted).abs().mean() <= 1e-5


def test_real_frames_end_to_end_against_opencv(optflow: ModuleType, shared_data: Path) -> None:
    if opencv_major(optflow) < 5:
        pytest.skip("OpenCV 4 samples at multiples of 1/32 of a pixel")
    video = optflow.VideoCapture(str(shared_data / "videos" / "flipping_pancake.mkv"))
    pictures = [video.read()[1] for _ in range(14)][-2:]
    greys = [optflow.cvtColor(picture, optflow.COLOR_BGR2GRAY)[70:134, 110:206] for picture in pictures]
    frames = torch.from_numpy(np.stack(greys))
    ours, _ = solve(frames, None, TVL1Params())
    wanted = opencv_solve(optflow, frames[0], frames[1], TVL1Params())
    assert wanted.norm(dim=0).max() > 2
    apart = (ours[0] - wanted).norm(dim=0)
    assert apart.median() <= 0.02
    assert apart.mean() <= 0.03
    assert (apart <= 0.1).float().mean() >= 0.98


@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_motion_is_found(mode: Any) -> None:
    frames = moving(2, step=(1.5, -0.8))
    flow, _ = solve(frames, None, TVL1Params(mode=mode, epsilon=0.02))
    assert flow.shape == (1, 2, 48, 64)
    inner = flow[:, :, 6:-6, 6:-6]
    assert (inner - torch.tensor([1.5, -0.8])[:, None, None]).norm(dim=1).mean() < 0.1


@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_pairs_do_not_depend_on_each_other(mode: Any) -> None:
    frames = moving(4)
    params = TVL1Params(mode=mode, nscales=2, warps=2, gamma=0.1, inner_iterations=8, outer_iterations=2)
    flow, iterations = solve(frames, None, params)
    together, also = solve(frames[:-1], frames[1:], params)
    assert torch.equal(flow, together)
    assert torch.equal(iterations, also)
    alone, count = solve(frames[2:3], frames[3:], params)
    assert torch.equal(flow[2:], alone)
    assert torch.equal(iterations[2:], count)


def test_inputs_are_left_alone() -> None:
    frames, start = moving(2), torch.ones((1, 2, 48, 64))
    solve(frames, None, dataclasses.replace(ONE_WARP, gamma=0.1), start)
    assert torch.equal(frames, moving(2))
    assert (start == 1).all()


def test_the_cpu_form_looks_at_every_error() -> None:
    frames = moving(2)
    stops = TVL1Params(nscales=1, warps=1, median_filtering=1, epsilon=0.03)
    stopped, iterations = solve(frames, None, stops)
    count = int(iterations)
    assert 1 < count < 300

    def after(iterations: int) -> Tensor:
        fixed = dataclasses.replace(stops, epsilon=0, inner_iterations=iterations, outer_iterations=1)
        return solve(frames, None, fixed)[0][0]

    assert torch.equal(after(count), stopped[0])
    for end, still in ((count, True), (count - 1, False)):
        change = (after(end) - after(end - 1)).square().sum(dim=0).mean().sqrt()
        assert (change <= stops.epsilon) == still


class Scripted(SimpleNamespace):
    """Iterations whose errors were written down beforehand."""

    def step(self) -> Tensor:
        return torch.tensor(self.errors.pop(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("errors", "count"),
    [
        # Looks at the second already; nothing before counts.
        ([9.0, 0.5], 2),
        ([0.5, 3.0, 0.5, 0.5, 0.5, 0.5], 6),
        # An error of 10 is worth no look until it has been lowered below 1: 11 iterations later is even.
        ([10.0] * 13 + [1.0], 14),
        # An error of exactly the tolerance stops.
        ([5.0, 1.0], 2),
        # The cap.
        ([100.0] * 30, 30),
    ],
)
def test_the_cuda_form_looks_at_few_errors(errors: list[float], count: int) -> None:
    scripted = Scripted(errors=list(errors), tolerance=1.0)
    form = settings(mode="opencv-cuda", inner_iterations=10, outer_iterations=3)
    assert reference._run_cuda_form(scripted, form) == count  # type: ignore[arg-type]


@pytest.mark.parametrize(("mode", "least"), [("opencv-cpu", 1), ("opencv-cuda", 2)])
def test_iterations_are_counted_by_level_and_warp(mode: Any, least: int) -> None:
    params = TVL1Params(mode=mode, nscales=4, warps=3, epsilon=1e6)
    frames = moving(2, height=26, width=30)
    _, iterations = solve(frames, None, params)
    assert iterations.dtype == torch.int32
    assert iterations.tolist() == [[[least] * 3, [least] * 3, [least] * 3, [0] * 3]]
    fixed = dataclasses.replace(params, epsilon=0, inner_iterations=2, outer_iterations=3)
    assert solve(frames, None, fixed)[1].tolist() == [[[6] * 3, [6] * 3, [6] * 3, [0] * 3]]
