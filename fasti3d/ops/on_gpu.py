"""How an operator whose GPU kernels Triton compiles is dispatched on a GPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fasti3d.runtime import gpu


def on_gpu(
    module: str, name: str, check: Callable[..., None], plain: Callable[..., None]
) -> Callable[..., None]:
    """The function of ``module`` called ``name``, after ``check``; ``plain`` where Triton runs no kernel, and
    for float64 and maps of no values.

    They take the operator's arguments, of which the first is a map. The module is imported at the first call:
    triton is slow to import, and absent where there is no GPU.
    """

    def run(x: Tensor, *others: Any) -> None:
        check(x, *others)
        if x.dtype == torch.float64 or not x.numel() or gpu.why_no_triton(x.device) is not None:
            plain(x, *others)
        else:
            getattr(importlib.import_module(module), name)(x, *others)

    return run
