"""JSON and names from files that anybody may have written."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]  # an object


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: not JSON, or nested so deep that Python does not follow.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def brief(text: object, most: int = 100) -> str:
    """A name for a message: in one line, and at most ``most`` characters long."""
    plain = str(text)
    plain = plain if plain.isprintable() else repr(plain)
    return plain if len(plain) <= most else f"{plain[: most - 30]}... ({len(plain):,} characters)"


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return brief((str(error).splitlines() or [""])[0] or type(error).__name__, 300)
