"""How an operator is registered, and how its callers are told apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules import module as module_globals
from torch.utils._python_dispatch import _get_current_dispatch_mode

import fasti3d.runtime.extension  # noqa: F401 - loads the compiled kernels

_LIBRARY = torch.library.Library("fasti3d", "FRAGMENT")


def operator(
    schema: str,
    reference: Callable | None,
    *,
    fake: Callable | None = None,
    cuda: Callable | None = None,
    setup_context: Callable | None = None,
    backward: Callable | None = None,
    tags: Sequence[torch.Tag] = (),
) -> bool:
    """Register an operator, ``torch.ops.fasti3d.<name>``: all of it but its compiled kernels.

    Args:
        schema: name, arguments and results, as ``torch.library.define`` takes them. Kernels in csrc/ name the
            operator and repeat nothing of this.
        reference: the operator in plain PyTorch, which runs wherever there is no kernel. None if there is
            only the compiled kernel.
        fake: the results for tracing, empty. An operator that returns nothing needs none.
        cuda: the kernel for GPUs that is written in Python; one that nvcc compiled takes precedence.
        setup_context: what ``backward`` needs, as ``torch.library.register_autograd`` takes it.
        backward: the gradient, likewise. Without it there is none.
        tags: of the operator.

    Returns:
        Whether nvcc compiled a kernel of it.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=tags)
    compiled = has_cuda_kernel(name)
    if reference is not None:
        _LIBRARY.impl(name, _as_kernel(reference), "CompositeExplicitAutograd")
    if cuda is not None and not compiled:
        _LIBRARY.impl(name, _as_kernel(cuda), "CUDA")
    torch.library.register_fake(f"fasti3d::{name}", fake or _returns_nothing)
    if backward is not None:
        torch.library.register_autograd(f"fasti3d::{name}", backward, setup_context=setup_context)
    return compiled


def _returns_nothing(*arguments: Any, **options: Any) -> None:
    return None


def _as_kernel(function: Callable) -> Callable:
    """The function with the errors of compiled kernels, which are all RuntimeError, as torch's own are."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except ValueError as error:
            raise RuntimeError(str(error)) from None

    return run


def has_cuda_kernel(name: str) -> bool:
    """Whether an operator has a kernel for CUDA devices."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fasti3d::{name}", "CUDA")


def takes_operators(x: Tensor) -> bool:
    """Whether a compiler or an exporter, and nothing else, follows what is computed from ``x``.

    Operators then go into its graph as they are; not into one for ONNX, which knows none of them.
    """
    return (
        torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
        and type(x) in (Tensor, nn.Parameter, FakeTensor)
        # Not "is None", which compilers take to be false of this.
        and isinstance(torch._C._functorch.peek_interpreter_stack(), NoneType)
        and forward_ad._current_level < 0
        and not module_globals._has_any_global_hook()
    )


def needs_ordinary_path(x: Tensor) -> bool:
    """Whether something is watching or transforming the computation itself: a compiler, a tracer, vmap."""
    return (
        type(x) not in (Tensor, nn.Parameter)
        or x.is_meta
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        # Not is_in_torch_dispatch_mode(), which tells of all threads together.
        or _get_current_dispatch_mode() is not None
        or forward_ad._current_level >= 0
        or module_globals._has_any_global_hook()
    )


def takes_gradients(*tensors: Tensor) -> bool:
    """Whether gradients with respect to any of the tensors may be asked for by the caller.

    An exported graph is run later, under whatever mode: operators in it have gradients of their own.
    """
    return (
        torch.is_grad_enabled()
        # Not is_exporting(), which torch 2.11 takes to be true of all that it compiles.
        and not torch.compiler._is_exporting_flag
        and any(t.requires_grad for t in tensors)
    )
