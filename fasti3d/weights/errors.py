"""The one error of this package."""

from __future__ import annotations


class WeightsError(Exception):
    """Weights that cannot be downloaded, read or used; the message names the file and the remedy."""
