"""An extension of griffe that reads this project's docstrings, which have habits that it does not know."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A section of one example, which griffe knows in the plural alone, and a block of code after two colons.
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_LITERAL = re.compile(r"(?<=\w)::$", re.MULTILINE)
# Parameters that share a text, with the lines that continue it.
_SHARED = re.compile(
    r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) .*)*)$", re.MULTILINE
)


class Docstrings(griffe.Extension):
    """Changes the docstring of each object as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            obj.docstring.value = _SHARED.sub(_apart, _LITERAL.sub(":", text))


def _apart(match: re.Match[str]) -> str:
    """The text once per parameter."""
    return "\n".join(f"{match['indent']}{name}: {match['text']}" for name in match["names"].split(", "))
