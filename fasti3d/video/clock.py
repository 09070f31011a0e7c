"""From the time stamps of a file to seconds that only increase."""

from __future__ import annotations

# A step longer than this, in seconds, is taken for a broken clock and not for a still picture.
MAX_STEP = 60.0


class Clock:
    """Turns each frame's stamp into seconds since the first frame, mending what is broken.

    The rule: a frame without a stamp follows the one before it by that one's duration. A stamp that
    is not later than the one before, or more than ``MAX_STEP`` later, is a break in the clock: that
    frame too follows the one before by its duration, and the frames after keep their distance to it.
    The duration of a frame is the one the file gives, else the step before it, else ``period``.

    Args:
        period: seconds from frame to frame where the file says nothing better.

    Attributes:
        mended: whether a break has been met so far.
    """

    def __init__(self, period: float) -> None:
        self.mended = False
        self._offset: float | None = None  # seconds to add to a stamp
        self._time: float | None = None
        self._duration = period

    def __call__(self, stamp: float | None, duration: float) -> tuple[float, float]:
        """The (time, duration) in seconds of the next frame, from its stamp and duration (0 if unknown)."""
        previous = self._time
        expected = 0.0 if previous is None else previous + self._duration
        if stamp is None:
            time = expected
        elif self._offset is None:
            self._offset = expected - stamp
            time = expected
        else:
            time = stamp + self._offset
            if previous is not None and not previous < time <= previous + MAX_STEP:
                self.mended = True
                self._offset = expected - stamp
                time = expected
        if 0 < duration <= MAX_STEP:
            self._duration = duration
        elif previous is not None:
            self._duration = time - previous
        self._time = time
        return time, self._duration
