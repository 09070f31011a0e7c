"""Waiting for other processes and threads: as long as a loaded machine may take, never longer than needed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

# Seconds; a test is ended after 300.
PATIENCE = 240


def until(condition: Callable[[], object]) -> None:
    """Returns as soon as ``condition()`` is true; fails the test if that takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"what was waited for did not come in {PATIENCE} seconds")
        time.sleep(0.01)
