"""JSON and names from files that other programs may have written."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]  # an object


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: It is not JSON, or nested too deep for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def brief(text: object, max_length: int = 100) -> str:
    """Return text for a message: in one line, and at most ``max_length`` characters long."""
    plain = str(text)
    plain = plain if plain.isprintable() else repr(plain)
    if len(plain) <= max_length:
        return plain
    return f"{plain[: max_length - 30]}... ({len(plain):,} characters)"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class if it has none."""
    return brief((str(error).splitlines() or [""])[0] or type(error).__name__, 300)
