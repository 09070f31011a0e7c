"""Devices and dtypes by name."""

from __future__ import annotations

import pytest
import torch

from fasti3d.runtime import devices


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_or_unknown(name: str) -> None:
    with pytest.raises(ValueError, match="device"):
        devices.resolve_device(name)


def test_device_and_dtype_by_name() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert devices.resolve_device("cpu") == cpu
    assert devices.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert devices.resolve_dtype("auto", cuda) == torch.float16
    assert devices.resolve_dtype("auto", cpu) == torch.float32
    assert devices.resolve_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype must be auto.*'half'"):
        devices.resolve_dtype("half", cpu)
