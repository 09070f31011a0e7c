"""Any eval-mode network on the library's fused convolution."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from fasti3d.fusion.layers import FoldedConv3d, FusedConv3d
from fasti3d.fusion.planned import Planned
from fasti3d.fusion.trace import find_chains, find_programs


def _become(module: nn.Module, other: nn.Module) -> None:
    """Turns a module into another one, wherever it is referred to: also from lists that are no ModuleList."""
    module.__class__ = type(other)
    module.__dict__ = other.eval().__dict__


def fuse(module: nn.Module) -> nn.Module:
    """A copy of an eval-mode network whose convolutions run on fasti3d's fused kernel.

    Every ``nn.Conv3d`` becomes a `FusedConv3d`, with the ``nn.BatchNorm3d`` (or ``SyncBatchNorm``) and the
    ``nn.ReLU`` behind it, each of which may be missing; these become ``nn.Identity``. Torch's own
    kernel runs those with groups (also depthwise), dilation or other padding than zeros: with a batch norm
    they become a `FoldedConv3d`, which it is folded into, without one they stay. All else stays as it is: the
    network's classes, names, methods and Python code, other layers, and convolutions with hooks,
    parametrizations or float64 weights. An `I3D` inside fuses itself and stays too.

    What is behind a convolution is read off a symbolic trace (torch.fx) of the network's ``forward``. A batch
    norm or ReLU is taken in if it is a module that is called once, and the only reader of what it is called
    on; a ReLU that is a function, is used in two places or follows an addition stays torch's. Where a
    ``forward`` cannot be traced, because it branches on values or shapes, its submodules are traced by
    themselves, and a warning names it if batch norms were left. Only ``forward`` is looked at, given, as
    always with torch.fx, stand-ins for tensors: another method, or another answer to ``isinstance(x,
    Tensor)``, must not lead to a use of a convolution's result without what follows it there.

    The copy is for inference: its parameters need no gradients, weights that change in ``module``
    later are not followed, and its state dict holds folded weights under their own names. It
    can be moved, cast, copied, pickled, compiled, and shared by threads. (Call ``fuse`` itself while no other
    thread runs a network: torch.fx's tracing reaches all of them.)

    Args:
        module: any network in eval mode; it is not changed.

    Returns:
        The fused copy, which takes and returns what ``module`` does; in half precision within the rounding of
        folded weights.

    Raises:
        TypeError: not an ``nn.Module``.
        ValueError: a part in training mode, or no ``nn.Conv3d`` that can be fused.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    for name, part in module.named_modules():
        if part.training:
            raise ValueError(
                f"module must be in eval mode, but {name or 'it'} ({type(part).__name__}) is in training "
                "mode: call module.eval() first"
            )
    with torch.inference_mode(False):
        fused = copy.deepcopy(module).requires_grad_(False)
        for part in fused.modules():
            if isinstance(vars(part).get("forward"), Planned):
                del part.forward  # of parts that were fused before
        chains, untraced = find_chains(fused)
        if not chains:
            raise ValueError(
                f"module ({type(module).__name__}) holds no nn.Conv3d that can be fused: those with "
                "hooks cannot, nor those with groups or dilation but no batch norm, and a fasti3d.I3D fuses "
                "itself"
            )
        parts = dict(fused.named_modules())
        for chain in chains:
            conv, bn = parts[chain.conv], parts[chain.bn] if chain.bn else None
            _become(conv, (FusedConv3d if chain.fused else FoldedConv3d)(conv, bn, chain.relu is not None))
            for name in (chain.bn, chain.relu):
                if name:
                    _become(parts[name], nn.Identity())
        for name, program in find_programs(fused).items():
            part = fused.get_submodule(name)
            vars(part)["forward"] = Planned(part, program)
    lost = [
        f"{name or 'it'} ({type(parts[name]).__name__}: {error})"
        for name, error in untraced.items()
        if any(isinstance(part, nn.BatchNorm3d) for part in parts[name].modules())
    ]
    if lost:
        warnings.warn(
            "the forward of some parts of module cannot be traced, and batch norms that they call by "
            f"themselves are not fused: {'; '.join(lost)}",
            stacklevel=2,
        )
    return fused
