"""What a program says that lets torch multiply float32 in TF32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32_allowed() -> Iterator[None]:
    """In the block products in TF32 are allowed, as convolutions in TF32 are from the beginning."""
    switch = torch.backends.cuda.matmul
    before, switch.fp32_precision = switch.fp32_precision, "tf32"
    try:
        yield
    finally:
        switch.fp32_precision = before
