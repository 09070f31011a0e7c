"""Signals that ask a run to save and end: SIGTERM and SIGUSR1, as schedulers send them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class StopRequest(BaseException):
    """The run is to end now; what it needs to go on is saved."""


class Stopping:
    """Whether the run is asked to end.

    Between steps that is looked up; where a checkpoint has just been saved, a signal ends the work at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False

    def request(self) -> None:
        """Ask the run to end."""
        self.requested = True
        if self._at_once:
            raise StopRequest

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a request raises StopRequest from wherever the program is."""
        self._at_once = True
        try:
            if self.requested:
                raise StopRequest
            yield
        finally:
            self._at_once = False


@contextmanager
def stopping_on_signals() -> Iterator[Stopping]:
    """Yield what SIGTERM and SIGUSR1 ask; the handlers before it return at the end of the block."""
    stopping = Stopping()
    if threading.current_thread() is not threading.main_thread():
        yield stopping  # where handlers cannot be set
        return

    def obey(number: int, frame: FrameType | None) -> None:
        stopping.request()

    before = {number: signal.signal(number, obey) for number in _SIGNALS}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
