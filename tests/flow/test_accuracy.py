"""TV-L1 against the true flow of FlyingChairs: the default as accurate as OpenCV, every preset useful."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tolerances import TVL1_ACCURACY
from torch import Tensor

from benchmarks import flow_data, flow_peers
from fasti3d.flow import PRESETS, average_endpoint_error
from fasti3d.runtime import extension

pytestmark = pytest.mark.skipif(extension.CORE is None, reason="the reference would take many minutes")


@pytest.fixture(scope="module")
def chairs(shared_data: Path) -> list[flow_data.Chairs]:
    pairs = flow_data.chairs()
    assert pairs, f"no FlyingChairs in {shared_data / 'flow'}"
    return pairs


def mean_error(solve: Callable[[Tensor, Tensor], Tensor], pairs: list[flow_data.Chairs]) -> float:
    flows = torch.stack([solve(pair.frame0, pair.frame1) for pair in pairs])
    return average_endpoint_error(flows, torch.stack([pair.truth for pair in pairs]))


def test_i3d_is_as_accurate_as_opencv(chairs: list[flow_data.Chairs]) -> None:
    """On a part where an epsilon of .05 costs a pixel, as OpenCV takes long.

    benchmarks/test_tvl1_accuracy.py has all pairs.
    """
    pytest.importorskip("cv2")
    rows, columns = slice(128, 256), slice(176, 336)
    frame0, frame1, truth = (image[..., rows, columns].contiguous() for image in chairs[1])
    part = [flow_data.Chairs(frame0, frame1, truth)]
    ours = mean_error(flow_peers.fasti3d(PRESETS["i3d"]), part)
    theirs = mean_error(flow_peers.opencv(), part)
    assert abs(ours - theirs) <= TVL1_ACCURACY.limit, TVL1_ACCURACY.why


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_finds_most_of_the_motion(chairs: list[flow_data.Chairs], preset: str) -> None:
    still = mean_error(lambda frame0, _: torch.zeros((2, *frame0.shape)), chairs)
    assert mean_error(flow_peers.fasti3d(PRESETS[preset]), chairs) < 0.6 * still


def test_large_motion_reaches_further(chairs: list[flow_data.Chairs]) -> None:
    """The default pyramid ends at 0.41 of the size, where 20 pixels are still 8: too far to be seen."""
    pairs = [flow_data.shifted(chairs[0].frame0, 20)]
    assert mean_error(flow_peers.fasti3d(PRESETS["large-motion"]), pairs) < 0.2
    assert mean_error(flow_peers.fasti3d(PRESETS["i3d"]), pairs) > 5
