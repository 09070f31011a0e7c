"""The error of an environment variable with an invalid value."""

from __future__ import annotations


class SettingError(ValueError):
    """An environment variable of fasti3d has an invalid value; ``import fasti3d`` may raise it."""


def wrong(variable: str, value: str, wanted: str) -> SettingError:
    """The error that names the variable, its value and what it must be."""
    return SettingError(
        f"the environment variable {variable} must be {wanted}, got {value!r}: change it, or unset it"
    )
