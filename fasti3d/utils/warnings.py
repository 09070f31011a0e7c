"""Warnings that are recorded as well as shown."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def recorded_warnings(category: type[Warning]) -> Iterator[list[str]]:
    """Record the texts of a category's warnings raised inside, in any thread; all are still shown.

    Example:
        >>> with recorded_warnings(UserWarning) as texts:  # doctest: +SKIP
        ...     warnings.warn("odd")
        >>> texts  # doctest: +SKIP
        ['odd']
    """
    texts: list[str] = []
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", category)
            yield texts
    finally:
        texts += [str(item.message) for item in caught if issubclass(item.category, category)]
        for item in caught:
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
