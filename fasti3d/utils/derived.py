"""Values made of tensors, such as packed weights and plans, kept until the tensors change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_Value = TypeVar("_Value")


class DerivedCache(Generic[_Value]):
    """The last value that was made, with the key that tells of what. Threads may share it.

    Copies and pickles are empty: a value is derived, large and quick to make.

    Example:
        >>> weight, cache = torch.ones(2), DerivedCache()
        >>> cache.get("a", weight.sum, lambda: weight), cache.get("a", weight.prod, lambda: weight)
        (tensor(2.), tensor(2.))
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, _Value, object] | None = None
        self._lock = threading.Lock()

    def get(
        self,
        key: Any,
        build: Callable[[], _Value],
        hold: Callable[[], object],
        keep: Callable[[], bool] = lambda: True,
    ) -> _Value:
        """The value of ``key``, which one thread makes if the last one has another key.

        ``hold`` gives what is kept alive with the value, so that nothing new takes its place in the key: the
        tensors whose identities are in the key, or others of their memory if it has addresses. ``keep`` is
        asked after a value was made.
        """
        kept = self._kept
        if kept is None or kept[0] != key:
            with self._lock:
                kept = self._kept
                if kept is None or kept[0] != key:
                    kept = key, build(), hold()
                    if keep():
                        self._kept = kept
        return kept[1]

    def clear(self) -> None:
        """Gives the value up."""
        self._kept = None

    def __reduce__(self) -> tuple[type[DerivedCache[_Value]], tuple[()]]:
        return DerivedCache, ()


def memory_of(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Tensors of the same memory, which stays theirs when one of ``tensors`` is given another."""
    return [t.detach() for t in tensors]


class DerivedCaches(Generic[_Value]):
    """A `DerivedCache` for each of some tensors, with which it goes."""

    def __init__(self) -> None:
        self._caches: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._lock = threading.Lock()

    def of(self, tensor: Tensor) -> DerivedCache[_Value]:
        with self._lock:
            cache = self._caches.get(tensor)
            if cache is None:
                cache = self._caches[tensor] = DerivedCache()
        found: DerivedCache[_Value] = cache
        return found

    def __len__(self) -> int:
        return len(self._caches)
