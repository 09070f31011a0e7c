"""Any eval-mode network on the library's fused convolution."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

from fasti3d.fusion.layers import FoldedConv3d, FusedConv3d
from fasti3d.fusion.planned import Planned
from fasti3d.fusion.trace import find_chains, find_programs


def become(module: nn.Module, other: nn.Module) -> None:
    """Turns a module into another one, wherever it is referred to: also from lists that are no ModuleList."""
    module.__class__ = type(other)
    module.__dict__ = other.eval().__dict__


def fuse(module: nn.Module) -> nn.Module:
    """Copy an eval-mode network so that it runs on fasti3d's kernels, as one plan where it can be traced.

    Every ``nn.Conv3d`` becomes a `FusedConv3d`, with the following ``nn.BatchNorm3d`` (or ``SyncBatchNorm``)
    and ``nn.ReLU`` inside, which become ``nn.Identity``. Those with groups, dilation or other padding than
    zeros become a `FoldedConv3d` if a batch norm follows, and stay otherwise. All else stays as it is, also
    convolutions with hooks, parametrizations or float64 weights, and an `I3D`, which fuses itself.

    A symbolic trace (torch.fx) of ``forward`` tells what follows a convolution. Of the same trace a plan is
    made for each shape of clips: sums and ReLUs happen in the convolutions before them, max-pools,
    concatenations, average heads and depthwise convolutions are its own, all maps share one block of memory,
    and torch runs the rest. A plan runs for one clip (N, C, T, H, W) without gradients or autocast, while no
    module inside has hooks or was replaced; otherwise, and in graphs of compilers, the layers run call by
    call. Where a ``forward`` cannot be traced, keeps what it computes, or overwrites what is read elsewhere,
    its submodules are planned by themselves; a warning names it if batch norms were left.
    Only ``forward`` is looked at, with stand-ins for tensors, as always with torch.fx; of a plan its Python
    code does not run.

    The copy is for inference: its parameters need no gradients, weights that change in ``module`` later are
    not followed, its own are, and its state dict holds folded weights. It can be moved, cast, copied,
    pickled, compiled, and shared by threads. (Call ``fuse`` while no other thread runs a network: the tracing
    of torch.fx reaches all of them.)

    Args:
        module: any network in eval mode; it is not changed.

    Returns:
        The fused copy, which takes and returns what ``module`` does; in half precision within the rounding of
        folded weights.

    Raises:
        TypeError: not an ``nn.Module``.
        ValueError: a part in training mode, or no ``nn.Conv3d`` that can be fused.

    Example:
        >>> network = torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3), torch.nn.BatchNorm3d(8), torch.nn.ReLU())
        >>> fuse(network.eval())[0]
        FusedConv3d(3, 8, kernel_size=(3, 3, 3), stride=(1, 1, 1), padding=(0, 0, 0), relu=True)
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
            become(conv, (FusedConv3d if chain.fused else FoldedConv3d)(conv, bn, chain.relu is not None))
            for name in (chain.bn, chain.relu):
                if name:
                    become(parts[name], nn.Identity())
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
