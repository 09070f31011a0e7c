"""Slabs beside Triton's form without a GPU: in Triton's interpreter, which folds the clips of stems."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from kernel_processes import assert_passes_interpreted


def test_in_the_interpreter() -> None:
    assert_passes_interpreted("interpreted_conv3d_slab.py")
