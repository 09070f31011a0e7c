"""Damaged files, 80 of each kind: a result, or the documented error in one line; no hang, little memory."""

from __future__ import annotations

import resource
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import loaders
import pytest
from mutations import mutated

# What a reader may take beside what the tests have already. Its files have a few KB.
_MEMORY = 1 << 30
_SECONDS = 60
_LONGEST_MESSAGE = 1500


@pytest.fixture
def bounded() -> Iterator[None]:
    """In the test much memory is a MemoryError, and a file that takes too long a TimeoutError."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)

    def late(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done in {_SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, limits[1]))
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.signal(signal.SIGALRM, before)


_NAMES = [loader.name for loader in loaders.loaders()]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", _NAMES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    (loader,) = (loader for loader in loaders.loaders() if loader.name == name)
    path = tmp_path / loader.file
    path.write_bytes(loader.wrap(loader.seed))
    loader.load(path)  # which is good
    outcomes: Counter[str] = Counter()
    for number in range(loader.cases):
        path.write_bytes(loader.wrap(mutated(loader.seed, number)))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                loader.load(path)
            outcomes["read"] += 1
        except loader.allowed as error:
            text = str(error)
            assert text, f"mutation {number}: no message"
            assert len(text.splitlines()) == 1, f"mutation {number}: {text}"
            assert len(text) < _LONGEST_MESSAGE + len(str(path)), f"mutation {number}: {text}"
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} gives {type(error).__name__}: {error}") from error
    assert outcomes["refused"] or not loader.allowed
