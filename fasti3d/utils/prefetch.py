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


class read_ahead(Iterator[T]):  # noqa: N801 - called as the generator functions beside it are
    """The same items, made in another thread up to ``depth`` ahead, from now on.

    An error of the source is raised where its item would be. Closing, the end and an error end the thread and
    close the source. The other thread has the context variables of this one.

    Example:
        >>> list(read_ahead(iter("abc"), 2))
        ['a', 'b', 'c']
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._items = items
        self._context = copy_context()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="fasti3d-read-ahead")
        self._pending = deque(self._reader.submit(self._make) for _ in range(depth))

    def __next__(self) -> T:
        if not self._pending:
            raise StopIteration
        try:
            item = self._pending.popleft().result()
        except BaseException:
            self.close()
            raise
        if isinstance(item, _End):
            self.close()
            raise StopIteration
        self._pending.append(self._reader.submit(self._make))
        return item

    def _make(self) -> T | _End:
        return self._context.run(next, self._items, _END)

    def close(self) -> None:
        """End the thread, after the item that it is at."""
        for future in self._pending:
            future.cancel()
        self._pending.clear()
        self._reader.shutdown()
        if isinstance(self._items, Generator):
            self._items.close()


class _End:
    """What stands for the end of a source."""


_END = _End()
