"""The operators' schemas where no extension defines them, and their references as the default kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fasti3d import extension

_LIBRARY = torch.library.Library("fasti3d", "FRAGMENT")


def define(name: str, schema: str) -> None:
    """Makes an operator that is written in Python wherever it runs."""
    _LIBRARY.define(name + schema)


def register(name: str, schema: str, reference: Callable) -> None:
    """Makes ``torch.ops.fasti3d.<name>`` exist and run ``reference`` wherever no kernel was compiled.

    ``schema`` is the text that csrc/library.cpp defines too, without the name.
    """
    if extension.CORE is None:
        _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")


def register_cuda(name: str, kernel: Callable) -> None:
    """Makes an operator run ``kernel``, written in Python, on GPUs where no CUDA kernel was compiled."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(f"fasti3d::{name}", "CUDA"):
        _LIBRARY.impl(name, kernel, "CUDA")
