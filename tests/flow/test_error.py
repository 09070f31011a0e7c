"""Average endpoint error: by hand, with unknown truth, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fasti3d.flow import average_endpoint_error


def test_by_hand() -> None:
    truth = np.zeros((2, 1, 4), np.float32)
    flow = np.array([[[3, 0, 0, 1]], [[4, 0, -2, 0]]], np.float32)
    assert average_endpoint_error(flow, truth) == pytest.approx((5 + 0 + 2 + 1) / 4)
    assert average_endpoint_error(flow, flow) == 0


def test_a_batch_is_the_mean_of_all_pixels() -> None:
    flow, truth = np.random.default_rng(0).normal(size=(2, 3, 2, 5, 6)).astype(np.float32)
    errors = [average_endpoint_error(a, b) for a, b in zip(flow, truth, strict=True)]
    assert average_endpoint_error(flow, truth) == pytest.approx(sum(errors) / 3)
    wanted = np.sqrt(((flow.astype(float) - truth) ** 2).sum(1)).mean()
    assert average_endpoint_error(torch.from_numpy(flow), truth) == pytest.approx(wanted, rel=1e-12)


def test_unknown_truth_and_pixels_that_are_not_valid_do_not_count() -> None:
    flow = np.ones((2, 1, 5), np.float32)
    truth = np.ones((2, 1, 5), np.float32)
    truth[0, 0] = [0, np.nan, 2e9, 3, -np.inf]
    assert average_endpoint_error(flow, truth) == pytest.approx((1 + 2) / 2)
    flow[:, 0, 1:3] = np.nan  # nobody asks
    assert average_endpoint_error(flow, truth) == pytest.approx((1 + 2) / 2)
    for valid in (np.array([[1, 1, 1, 0, 1]]), torch.tensor([[True, True, True, False, True]])):
        assert average_endpoint_error(flow, truth, valid=valid) == pytest.approx(1)


def test_many_pixels_lose_no_precision() -> None:
    flow = np.full((2, 1500, 2000), 0.1, np.float32)
    wanted = math.sqrt(2) * float(np.float32(0.1))
    assert average_endpoint_error(flow, np.zeros_like(flow)) == pytest.approx(wanted, rel=1e-12)


def test_what_is_refused() -> None:
    flow = np.zeros((2, 4, 5), np.float32)
    with pytest.raises(ValueError, match=r"one shape, got \(2, 4, 5\) and \(2, 4, 6\)"):
        average_endpoint_error(flow, np.zeros((2, 4, 6)))
    with pytest.raises(ValueError, match=r"one shape, got \(2, 4, 5\) and \(1, 2, 4, 5\)"):
        average_endpoint_error(flow, flow[None])
    with pytest.raises(ValueError, match=r"truth must be of shape .*got \(4, 5\)"):
        average_endpoint_error(flow, flow[0])
    with pytest.raises(ValueError, match=r"valid must be of shape \(4, 5\).*got \(5, 4\)"):
        average_endpoint_error(flow, flow, valid=np.ones((5, 4)))
    with pytest.raises(ValueError, match="nothing to compare"):
        average_endpoint_error(flow, np.full_like(flow, np.nan))
    with pytest.raises(ValueError, match="nothing to compare"):
        average_endpoint_error(flow, flow, valid=np.zeros((4, 5)))
    with pytest.raises(ValueError, match="finite"):
        average_endpoint_error(np.full_like(flow, np.inf), flow)
    with pytest.raises(TypeError, match="truth"):
        average_endpoint_error(flow, None)  # type: ignore[arg-type]
