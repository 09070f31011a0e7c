"""What environment variables may not say."""

from __future__ import annotations


class SettingError(ValueError):
    """An environment variable of fasti3d has a value that it cannot have; ``import fasti3d`` may raise it."""


def wrong(variable: str, value: str, wanted: str) -> SettingError:
    """The error that says which variable, its value and what it must be."""
    return SettingError(
        f"the environment variable {variable} must be {wanted}, got {value!r}: set it anew, or unset it"
    )
