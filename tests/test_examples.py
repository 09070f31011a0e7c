"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib

import numpy as np
import pytest
import torch

import fasti3d

# Those with examples that need neither files nor a network connection.
MODULES = (
    "catalog",
    "compat.dual_tvl1",
    "compat.hassony2",
    "compat.pytorch_i3d",
    "flow.colour",
    "flow.encoding",
    "flow.error",
    "flow.params",
    "flow.solve",
    "i3d",
    "inflate",
    "ops.conv3d_bn_relu.forms",
    "ops.conv3d_bn_relu.winograd",
    "two_stream",
    "video.transform",
    "weights.published",
)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    names = {"torch": torch, "np": np, "fasti3d": fasti3d}
    found = doctest.testmod(importlib.import_module(f"fasti3d.{name}"), extraglobs=names)
    assert found.attempted
    assert not found.failed
