"""An extension of griffe that reads docstrings as Markdown: this project has two habits of Sphinx's in them."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A section of one example, which griffe knows in the plural alone, and a block of code after two colons.
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_LITERAL = re.compile(r"(?<=\w)::$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Changes the docstring of each object as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            obj.docstring.value = _LITERAL.sub(":", text)
