from __future__ import annotations

import pytest

from fasti3d.video.clock import MAX_STEP, Clock


def times(
    stamps: list[float | None], durations: list[float] | None = None, period: float = 1.0
) -> list[float]:
    clock = Clock(period)
    return [clock(s, d)[0] for s, d in zip(stamps, durations or [0.0] * len(stamps), strict=True)]


def test_starts_at_zero_and_keeps_distances() -> None:
    assert times([5.0, 5.5, 7.0, 7.25]) == [0.0, 0.5, 2.0, 2.25]


def test_frames_without_stamps_follow_by_the_period() -> None:
    assert times([None, None, None], period=0.5) == [0.0, 0.5, 1.0]


def test_a_frame_without_a_stamp_follows_by_the_duration_before_it() -> None:
    assert times([0.0, None, 4.0], [1.5, 1.0, 1.0]) == [0.0, 1.5, 4.0]


def test_first_stamp_after_frames_without_one() -> None:
    assert times([None, None, 10.0, 11.0], period=2.0) == [0.0, 2.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([0.0, 1.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0]),  # goes back
        ([0.0, 1.0, 1e6, 1e6 + 1], [0.0, 1.0, 2.0, 3.0]),  # jumps
        ([0.0, 1.0, 1e6, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0, 4.0]),  # one stamp is wrong
        ([0.0, 1.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0]),  # a stamp twice
        ([0.0, 0.0, 0.0], [0.0, 1.0, 2.0]),  # all the same
    ],
)
def test_breaks_are_mended(stamps: list[float], expected: list[float]) -> None:
    clock = Clock(1.0)
    assert [clock(s, 0.0)[0] for s in stamps] == expected
    assert clock.repaired


def test_a_long_still_picture_is_no_break() -> None:
    clock = Clock(1.0)
    assert [clock(s, 0.0)[0] for s in (0.0, MAX_STEP, MAX_STEP + 1)] == [0.0, MAX_STEP, MAX_STEP + 1]
    assert not clock.repaired


def test_a_long_rest_says_nothing_of_how_long_frames_last() -> None:
    clock = Clock(0.04)
    assert [clock(s, 0.0) for s in (0.0, 0.1, 600.1)] == [(0.0, 0.04), (0.1, 0.1), (600.1, 0.1)]


def test_duration_is_the_files_own_else_the_last_step_else_the_period() -> None:
    clock = Clock(0.2)
    assert [clock(s, d)[1] for s, d in ((0.0, 0.0), (0.5, 0.0), (0.75, 0.1), (1.0, 1e9))] == [
        0.2,
        0.5,
        0.1,
        0.25,
    ]
