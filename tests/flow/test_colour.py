"""The colour wheel: known directions, the benchmark's program pixel by pixel, odd values and shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fasti3d.flow import flow_to_rgb

WHEEL = (
    [(255, 255 * i // 15, 0) for i in range(15)]
    + [(255 - 255 * i // 6, 255, 0) for i in range(6)]
    + [(0, 255, 255 * i // 4) for i in range(4)]
    + [(0, 255 - 255 * i // 11, 255) for i in range(11)]
    + [(255 * i // 13, 0, 255) for i in range(13)]
    + [(255, 0, 255 - 255 * i // 6) for i in range(6)]
)


def colour(x: float, y: float, longest: float) -> tuple[int, ...]:
    """One pixel, as the benchmark's program computes it."""
    radius = math.hypot(x, y) / longest
    place = (math.atan2(-y, -x) / math.pi + 1) / 2 * (len(WHEEL) - 1)
    first = int(place)
    share = place - first
    rgb = []
    for a, b in zip(WHEEL[first], WHEEL[(first + 1) % len(WHEEL)], strict=True):
        full = (a + share * (b - a)) / 255
        rgb.append(int(255 * (1 - radius * (1 - full) if radius <= 1 else full * 0.75)))
    return tuple(rgb)


def one(x: float, y: float, **options: float) -> list[int]:
    return flow_to_rgb(np.array([x, y], np.float32).reshape(2, 1, 1), **options).ravel().tolist()


@pytest.mark.parametrize(
    ("x", "y", "rgb"),
    [
        (0, 0, (255, 255, 255)),
        (1, 0, (255, 0, 0)),
        (1, -0.0, (255, 0, 0)),
        (0, 1, (255, 229, 0)),
        (-1, 0, (0, 209, 255)),
        (0, -1, (87, 0, 255)),
    ],
)
def test_directions(x: float, y: float, rgb: tuple[int, int, int]) -> None:
    assert one(x, y) == list(rgb)


def test_saturation_is_length_and_more_than_the_longest_is_darker() -> None:
    assert one(0, 0, max_magnitude=4) == [255, 255, 255]
    assert one(1, 0, max_magnitude=4) == [255, 191, 191]
    assert one(4, 0, max_magnitude=4) == [255, 0, 0]
    assert one(4.01, 0, max_magnitude=4) == [191, 0, 0]


@pytest.mark.parametrize("longest", [None, 12.5])
def test_every_pixel_is_the_benchmark_s(longest: float | None) -> None:
    flow = (np.random.default_rng(0).normal(size=(2, 60, 80)) * 5).astype(np.float32)
    got = flow_to_rgb(flow, max_magnitude=longest)
    assert got.shape == (60, 80, 3)
    assert got.dtype == np.uint8
    most = longest or float(np.hypot(*flow).max())
    vectors = flow.reshape(2, -1).T.tolist()
    wanted = np.array([colour(x, y, most) for x, y in vectors]).reshape(60, 80, 3)
    # Values are cut to whole numbers, and float32 may be on the other side of one.
    difference = np.abs(got.astype(int) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_unknown_flow_is_black_and_does_not_count_for_the_longest() -> None:
    flow = np.zeros((2, 1, 6), np.float32)
    flow[0] = [3, np.nan, 0, np.inf, 1.1e9, -6]
    flow[1, 0, 2] = -2e9
    assert flow_to_rgb(flow).tolist() == [
        [[255, 127, 127], [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0], one(-1, 0)]
    ]
    assert not flow_to_rgb(np.full((2, 3, 3), np.nan)).any()


def test_a_batch_shares_its_longest_unless_one_is_given() -> None:
    flow = (
        torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1, 5, 20])[:, None, None, None]
    )
    for longest in (None, 9.0):
        got = flow_to_rgb(flow, max_magnitude=longest)
        assert got.shape == (3, 5, 7, 3)
        most = longest or float(torch.hypot(flow[:, 0], flow[:, 1]).max())
        singles = [flow_to_rgb(item, max_magnitude=most) for item in flow]
        assert torch.equal(got, torch.stack(singles))
    assert torch.equal(flow_to_rgb(flow.double()), flow_to_rgb(flow))
    assert np.array_equal(flow_to_rgb(flow.numpy()), flow_to_rgb(flow).numpy())


def test_no_pixels_give_no_colours() -> None:
    assert flow_to_rgb(torch.zeros(0, 2, 4, 4)).shape == (0, 4, 4, 3)


def test_memory_of_any_layout() -> None:
    flow = np.random.default_rng(1).normal(size=(2, 9, 11)).astype(">f4")
    odd = flow[:, ::-1, ::2]
    odd.flags.writeable = False
    assert np.array_equal(flow_to_rgb(odd), flow_to_rgb(np.ascontiguousarray(odd)))


@pytest.mark.parametrize("shape", [(3, 4, 4), (4, 4), (4, 4, 2)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"flow must be of shape .*2, H, W.*" + str(shape[0])):
        flow_to_rgb(np.zeros(shape))


@pytest.mark.parametrize("longest", [0, -1, math.nan, math.inf])
def test_a_longest_that_is_none_is_refused(longest: float) -> None:
    with pytest.raises(ValueError, match="max_magnitude must be above 0"):
        flow_to_rgb(np.zeros((2, 4, 4)), max_magnitude=longest)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="got list"):
        flow_to_rgb([[0.0]])  # type: ignore[type-var]
    with pytest.raises(TypeError, match="got object"):
        flow_to_rgb(np.full((2, 1, 1), None))
    with pytest.raises(ValueError, match="real"):
        flow_to_rgb(np.zeros((2, 1, 1), complex))
