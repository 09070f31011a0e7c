"""The plain network that both ports are compared with."""

from __future__ import annotations

import pytest
import torch

from fasti3d import reference


@pytest.fixture(scope="module")
def plain() -> reference.I3D:
    torch.manual_seed(0)
    return reference.I3D().eval()
