"""The one error of this package."""

from __future__ import annotations


class WeightsError(Exception):
    """Weights that cannot be had, read or used; the message names the file and the remedy."""


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its class where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def brief(text: object, most: int = 100) -> str:
    """A name from a file or of one, in one line and at most ``most`` characters long."""
    plain = str(text)
    plain = plain if plain.isprintable() else repr(plain)
    return plain if len(plain) <= most else f"{plain[: most - 10]}... ({len(plain):,} characters)"
