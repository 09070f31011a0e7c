"""What GPU tests do where a part they need is missing."""

from __future__ import annotations

import os

import pytest


def require(why_not: str | None) -> None:
    """Skips the test if there is a reason to; fails it where FASTI3D_REQUIRE_CUDA=1 says that it must run."""
    if why_not and os.environ.get("FASTI3D_REQUIRE_CUDA") == "1":
        pytest.fail(f"FASTI3D_REQUIRE_CUDA=1, but {why_not}")
    if why_not:
        pytest.skip(why_not)
