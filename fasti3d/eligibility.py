"""When the fused path may stand in for the ordinary one, and what its weights are derived from."""

from __future__ import annotations

from torch import Tensor, nn

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

Size = tuple[int, int, int]


def describe(model: nn.Module) -> tuple[tuple[float, ...], list[Tensor]] | None:
    """What an eval-mode model's outputs depend on: its batch norms' eps, and its tensors.

    None where the ordinary path must run: a part in training mode, a hook that has to fire, or a
    part that is not as the plan takes it to be. Parts a truncated model lacks are left out.
    """
    eps: list[float] = []
    tensors: list[Tensor] = []
    for part in (*network.TRUNK, "dropout", "logits"):
        root = getattr(model, part, None)
        if root is None:
            continue
        if not _as_specified(part, root):
            return None
        for module in root.modules():
            if type(module) not in KNOWN or module.training or is_watched(module):
                return None
            if isinstance(module, nn.Conv3d):
                tensors += [module.weight] if module.bias is None else [module.weight, module.bias]
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.running_mean is None or module.running_var is None or module.weight is None:
                    return None
                eps.append(module.eps)
                tensors += [module.weight, module.bias, module.running_mean, module.running_var]
    return tuple(eps), tensors


def _as_specified(part: str, module: nn.Module) -> bool:
    """Whether a part is of the kind, and has the windows, that the network's table gives it."""
    one, three = (1, 1, 1), (3, 3, 3)
    if part == "dropout":
        return True
    if part == "logits":
        return _is_unit(module, one, one, classifier=True)
    spec = network.TRUNK[part]
    if isinstance(spec, network.Conv):
        return _is_unit(module, spec.kernel, spec.stride)
    if isinstance(spec, network.Pool):
        return _is_pool(module, spec.kernel, spec.stride)
    return (
        isinstance(module, Mixed)
        and all(_is_unit(unit, one, one) for unit in (module.b0, module.b1a, module.b2a, module.b3b))
        and all(_is_unit(unit, three, one) for unit in (module.b1b, module.b2b))
        and _is_pool(module.b3a, three, one)
    )


def _is_unit(unit: nn.Module, kernel: Size, stride: Size, *, classifier: bool = False) -> bool:
    if not (isinstance(unit, Unit3D) and isinstance(unit.conv3d, nn.Conv3d)):
        return False
    conv = unit.conv3d
    return (
        unit.kernel == conv.kernel_size == kernel
        and unit.stride == conv.stride == stride
        and (conv.padding, conv.dilation, conv.groups) == ((0, 0, 0), (1, 1, 1), 1)
        and (unit.bn is None if classifier else isinstance(unit.bn, nn.modules.batchnorm._BatchNorm))
    )


def _is_pool(pool: nn.Module, kernel: Size, stride: Size) -> bool:
    return isinstance(pool, MaxPool3dSame) and (pool.kernel, pool.stride) == (kernel, stride)


def is_watched(module: nn.Module) -> bool:
    """Whether something else runs when the module is called: a hook, or a ``forward`` of the instance."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
