"""Safetensors files are told from others by their content."""

from __future__ import annotations

import io

import numpy as np
import pytest

from fasti3d.weights import containers


@pytest.mark.parametrize("length", [0x180, 0x280, 0x580])
def test_a_header_whose_length_begins_as_a_pickle_does(length: int) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(length)
    data = length.to_bytes(8, "little") + header + np.array([1, 2], "<f4").tobytes()
    assert data.startswith(b"\x80")
    tensors = containers.read(io.BytesIO(data)).groups[""]
    assert tensors["a"].tolist() == [1, 2]
