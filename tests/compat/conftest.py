"""The plain network that both ports are compared with."""

from __future__ import annotations

import pytest
import torch

from fasti3d import reference


@pytest.fixture(autouse=True, scope="module")
def _narrow(narrow: None) -> None:
    """Networks have few channels: what is tested here does not depend on them."""


@pytest.fixture(scope="module")
def plain(narrow: None) -> reference.I3D:
    torch.manual_seed(0)
    return reference.I3D().eval()
