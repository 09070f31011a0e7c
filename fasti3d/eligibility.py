"""When the fused path may stand in for the ordinary one, and what its weights are derived from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_globals
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from fasti3d import network
from fasti3d.reference import BatchNorm3d, MaxPool3dSame, Mixed, Unit3D

# Modules whose eval-mode forward the plan knows. Any other class, a parametrization or a wrapper may
# compute something else, and is left to the ordinary path.
KNOWN: set[type[nn.Module]] = {
    Unit3D,
    Mixed,
    MaxPool3dSame,
    BatchNorm3d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.Conv3d,
    nn.Dropout,
    nn.Identity,
}

_KINDS: dict[type, type[nn.Module]] = {
    network.Conv: Unit3D,
    network.Mixed: Mixed,
    network.Pool: MaxPool3dSame,
}


def needs_ordinary_path(x: Tensor) -> bool:
    """Whether something is watching or transforming the computation itself: a compiler, a tracer, vmap."""
    return (
        type(x) not in (Tensor, nn.Parameter)
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or is_in_torch_dispatch_mode()
        or module_globals._has_any_global_hook()
    )


def describe(model: nn.Module) -> tuple[tuple[Any, ...], list[Tensor]] | None:
    """The structure of an eval-mode model and the tensors its outputs depend on.

    None where the ordinary path must run: a part in training mode, a hook that has to fire, or a
    part that was replaced by something the plan does not know. Parts a truncated model lacks are left out.
    """
    structure: list[Any] = []
    tensors: list[Tensor] = []
    parts = [(name, getattr(model, name, None)) for name in (*network.TRUNK, "dropout", "logits")]
    for part, root in parts:
        for name, module in root.named_modules(prefix=part) if root is not None else ():
            if type(module) not in KNOWN or module.training or _is_watched(module):
                return None
            if not _in_place(name, module):
                return None
            if isinstance(module, nn.Conv3d):
                if (module.padding, module.dilation, module.groups) != ((0, 0, 0), (1, 1, 1), 1):
                    return None
                structure.append((name, module.kernel_size, module.stride))
                tensors += [module.weight] if module.bias is None else [module.weight, module.bias]
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.running_mean is None or module.running_var is None or module.weight is None:
                    return None
                structure.append((name, module.eps))
                tensors += [module.weight, module.bias, module.running_mean, module.running_var]
            elif isinstance(module, Unit3D | MaxPool3dSame):
                structure.append((name, module.kernel, module.stride))
    return tuple(structure), tensors


def _in_place(name: str, module: nn.Module) -> bool:
    """Whether a part, and what it holds, is of the kind that the plan takes it for."""
    if name in network.TRUNK or name == "logits":
        kind: type = _KINDS[type(network.TRUNK[name])] if name in network.TRUNK else Unit3D
        if not isinstance(module, kind):
            return False
    if isinstance(module, Unit3D):
        norm: type = type(None) if name == "logits" else nn.modules.batchnorm._BatchNorm
        return isinstance(module.conv3d, nn.Conv3d) and isinstance(module.bn, norm)
    if isinstance(module, Mixed):
        units = (module.b0, module.b1a, module.b1b, module.b2a, module.b2b, module.b3b)
        return all(isinstance(unit, Unit3D) for unit in units) and isinstance(module.b3a, MaxPool3dSame)
    return True


def _is_watched(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
