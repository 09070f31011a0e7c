"""What tests and benchmarks share: the marker of what needs a GPU."""

from __future__ import annotations

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    if os.environ.get("FASTI3D_REQUIRE_CUDA") == "1":
        raise pytest.UsageError("FASTI3D_REQUIRE_CUDA=1, but torch finds no CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
