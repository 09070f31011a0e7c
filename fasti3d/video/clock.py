"""Converts the time stamps of a file to seconds that only increase."""

from __future__ import annotations

from fasti3d.limits import MAX_LAST

# A longer step, in seconds, is a broken clock and not a still picture. In formats whose stamps may restart
# anywhere, such as MPEG-TS, the limit is shorter.
MAX_STEP = 900.0
MAX_STEP_RESTARTING = 60.0

# A gradually decreasing frame rate is not a break: a step may be this many times the longest one before it.
_SLOWER = 2.0


class Clock:
    """Converts each frame's stamp to seconds since the first frame, and repairs broken ones.

    The rule: a frame without a stamp follows the one before it by that one's duration. A stamp that is not
    later than the one before, or more than ``max_step`` later, is a break in the clock, unless the file is
    that slow: the longest step before, or its first frame's duration, is at least half of this one. At a
    break that frame too follows the one before by its duration, and the frames after keep their distance to
    it. The duration of a frame is the one the file gives, if a step may be as long, else the latest step of
    up to ``MAX_LAST``, else ``period``.

    Args:
        period: seconds from frame to frame where the file says nothing better.
        max_step: ``MAX_STEP`` or ``MAX_STEP_RESTARTING``, in seconds.
        origin: the stamp in seconds that stands for 0, where the frames begin in the middle of a video whose
            clock has no breaks; None for that of the first frame.

    Attributes:
        repaired: whether a break has been repaired so far.
    """

    def __init__(self, period: float, max_step: float = MAX_STEP, origin: float | None = None) -> None:
        self.repaired = False
        self._max_step = max_step
        self._offset = None if origin is None else 0.0 - origin  # seconds to add to a stamp
        self._time: float | None = None
        self._duration = period
        self._longest = 0.0

    def __call__(self, stamp: float | None, duration: float) -> tuple[float, float]:
        """Return (time, duration) of the next frame in seconds, from its stamp and duration (0: unknown)."""
        previous = self._time
        expected = 0.0 if previous is None else previous + self._duration
        if previous is None:
            self._longest = duration if duration > 0 else self._duration
        if stamp is None:
            time = expected
        elif self._offset is None:
            self._offset = expected - stamp
            time = expected
        else:
            time = stamp + self._offset
            if previous is None:
                pass
            elif self._is_plausible(time - previous):
                self._longest = max(self._longest, time - previous)
            else:
                self.repaired = True
                self._offset = expected - stamp
                time = expected
        if self._is_plausible(duration):
            self._duration = duration
        elif previous is not None and time - previous <= MAX_LAST:
            self._duration = time - previous
        self._time = time
        return time, self._duration

    def _is_plausible(self, step: float) -> bool:
        return 0 < step <= max(self._max_step, _SLOWER * self._longest)
