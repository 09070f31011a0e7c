"""The ``forward`` of a fused network that runs as one plan where it can, and call by call elsewhere."""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from fasti3d.engine.layout import SpreadError
from fasti3d.fusion.lower import Lowered, UnplannableError, lower
from fasti3d.fusion.program import Program
from fasti3d.fusion.runs import Run, Traced
from fasti3d.fusion.trace import find_programs
from fasti3d.inputs import autocast_dtype
from fasti3d.ops.registry import needs_ordinary_path
from fasti3d.runtime.route import compute_dtype

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Attributes of these kinds are compared where a copy of a network is to run as the network did.
_PLAIN = (int, float, str, bool, type(None), torch.dtype)
_lock = threading.Lock()


class Planned:
    """Calls a module's ``forward``: its trace as one plan, where clip and modules are as the trace has them.

    It is the ``forward`` of an instance. Copies and pickles keep the trace, and make plans of their own.

    Args:
        module: a part of a fused network, or all of it.
        program: the trace of its ``forward``.
    """

    def __init__(self, module: nn.Module, program: Program) -> None:
        self._module = module
        self._program: Program | None = program
        self._structure = _structure(module)
        self._traced: Traced | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self._module
        if not torch.compiler.is_compiling():
            x = self._clip(args, kwargs)
            run = self.run_for(x) if x is not None else ""
            if x is not None and not isinstance(run, str):
                try:
                    return run(x)
                except SpreadError:  # call by call, convolutions are computed once more by the direct form
                    pass
        return type(module).forward(module, *args, **kwargs)

    @property
    def program(self) -> Program | None:
        return self._program

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(type(self._module).forward.__get__(self._module))

    @property
    def __code__(self) -> CodeType:
        """The method's, which torch.export looks for."""
        return type(self._module).forward.__code__

    def _clip(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The clip of a call whose results a plan can compute."""
        if self._program is None:  # a pickle of functions without names
            return None
        x = args[0] if len(args) == 1 and not kwargs else None
        if not args and len(kwargs) == 1:
            x = kwargs.get(self._program.clip)
        if not isinstance(x, Tensor) or type(x) not in (Tensor, nn.Parameter):
            return None
        if x.dim() != 5 or x.dtype not in _DTYPES or not x.numel():
            return None
        takes_gradients = torch.is_grad_enabled() and x.requires_grad
        if takes_gradients or needs_ordinary_path(x) or autocast_dtype(x.device) is not None:
            return None
        return x

    def run_for(self, x: Tensor) -> Run | str:
        """What computes the results of clips like x with the weights as they are now, or why nothing does."""
        traced = self._trace()
        return traced if isinstance(traced, str) else traced.run(x)

    def why_not(self) -> str:
        """Why clips in the dtype and on the device of the network's weights run layer by layer, as far as they
        and the clips that came so far tell; empty if a plan may run.
        """
        module, traced = self._module, self._trace()
        if isinstance(traced, str):
            return traced
        like = next((t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), None)
        with torch.no_grad():
            return (like is not None and traced.why_not(like)) or traced.why_all_failed()

    def _trace(self) -> Traced | str:
        """What the trace became, or why it no longer holds."""
        if self._program is None:
            return "the trace calls a function that no pickle can name: fuse the network again"
        if self._traced is None:
            with _lock:
                if _structure(self._module) != self._structure:
                    return "a part of the network changed since it was fused"
                self._traced = self._traced or Traced(self._module, self._program)
        return self._traced

    def __deepcopy__(self, memo: dict[int, Any]) -> Planned:
        other = memo[id(self)] = copy.copy(self)
        other._program = self._program
        other._module = copy.deepcopy(self._module, memo)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Without what is derived, and without a trace of functions that cannot be pickled."""
        program = self._program if self._program is not None and self._program.has_names else None
        return vars(self) | {"_traced": None, "_program": program}


def graph_of(
    module: nn.Module, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Lowered | None, str]:
    """The graph of a network in eval mode, fused or not, for clips of a shape; None and why, where none is.

    Its nodes are named as the network's modules are. Of a network that is not fused, batch norms and ReLUs
    are nodes of their own, which a plan's rewrites fold into convolutions.
    """
    x = torch.empty((0,), dtype=dtype, device=device).new_empty(tuple(shape))
    own = vars(module).get("forward")
    program = own.program if isinstance(own, Planned) else find_programs(module).get("")
    if program is None:
        return None, "its forward cannot be traced, keeps what it computes, or takes more than one clip"
    try:
        return lower(module, program, x, compute_dtype(x.device, dtype)), ""
    except UnplannableError as error:
        return None, str(error)


def _structure(module: nn.Module) -> tuple[Any, ...]:
    """What a trace depends on, as far as it can be told of a copy as well."""
    return tuple(
        (
            name,
            type(part),
            tuple(
                (key, _frozen(value)) for key, value in vars(part).items() if not isinstance(value, Planned)
            ),
        )
        for name, part in module.named_modules(remove_duplicate=False)
    )


def _frozen(value: Any) -> Any:
    """A value that changes no more and equals that of a copy; of others their kind."""
    if type(value) in (tuple, list):
        return type(value), tuple(map(_frozen, value))
    return value if isinstance(value, _PLAIN) else type(value)
