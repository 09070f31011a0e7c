"""What tests and benchmarks share: the markers of what needs a GPU or takes minutes."""

from __future__ import annotations

import os

import pytest
import torch

# A kernel that is wrong is to fail its tests and not to be replaced.
os.environ.setdefault("FASTI3D_SELF_CHECK", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("FASTI3D_SLOW") != "1":
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: set FASTI3D_SLOW=1"))
    if torch.cuda.is_available():
        return
    if os.environ.get("FASTI3D_REQUIRE_CUDA") == "1":
        raise pytest.UsageError("FASTI3D_REQUIRE_CUDA=1, but torch finds no CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
