"""Work that overlaps: items made ahead in another thread, and taken in groups."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

# Windows made ahead of their use: 10 MB each at 64x224x224.
READ_AHEAD = 2

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of ``size``; the last one may be shorter.

    Example:
        >>> list(batched("abc", 2))
        [['a', 'b'], ['c']]
    """
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
    """Yield the same items, made in another thread up to ``depth`` ahead.

    An error of the source is raised here, after the items before it. Closing this generator ends the thread
    and closes the source. The other thread has the context variables of this one.

    Example:
        >>> list(read_ahead(iter("abc"), 2))
        ['a', 'b', 'c']
    """
    context = copy_context()

    def make() -> T | _End:
        return context.run(next, items, _END)

    try:
        with ThreadPoolExecutor(1, thread_name_prefix="fasti3d-read-ahead") as reader:
            pending = deque(reader.submit(make) for _ in range(depth))
            try:
                while not isinstance(item := pending.popleft().result(), _End):
                    pending.append(reader.submit(make))
                    yield item
            finally:
                for future in pending:
                    future.cancel()
    finally:
        if isinstance(items, Generator):
            items.close()


class _End:
    """What stands for the end of a source."""


_END = _End()
