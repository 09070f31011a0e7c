"""Which calls of a ``forward`` the engine has nodes for."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasti3d.engine.describe.parts import DROPOUTS, NORMS
from fasti3d.engine.graph import Add, Concat, Conv, Node, Norm, Pool, Relu, Triple
from fasti3d.forms import is_altered
from fasti3d.fusion.layers import FoldedConv3d, FusedConv3d
from fasti3d.fusion.program import Call, Ref
from fasti3d.ops.depthwise_conv3d.op import has_depthwise_kernel
from fasti3d.runtime.route import compute_dtype

# A tensor where it is held: a module's dictionary and its key there.
Slot = tuple[dict[str, Any], str]


class Operation(NamedTuple):
    """What a call computes of maps.

    Attributes:
        reads: the maps.
        node: the node with a number for its result, of the maps' numbers.
        in_place: whether the result replaces the first of the maps.
    """

    reads: tuple[Ref, ...]
    node: Callable[[int, Sequence[int]], Node]
    in_place: bool = False


def operation(call: Call, module: nn.Module | None, like: Tensor) -> Operation | Ref | None:
    """What a call computes, the value that it gives back as it is, or None where torch is to run it.

    ``module`` is what is called, and the maps are in the dtype and on the device of ``like``.
    """
    if call.kind == "call_module":
        assert module is not None
        return _of_module(call, module, like)
    if call.kind == "call_function":
        rule = _FUNCTIONS.get(call.target)
    else:
        rule = _METHODS.get(call.target) if call.kind == "call_method" else None
    return None if rule is None else rule(call)


def tensors_of(module: nn.Module) -> list[Slot]:
    """Where the tensors are that a module's node computes with."""
    if isinstance(module, FusedConv3d | FoldedConv3d):
        return [(module._buffers, "folded_weight"), (module._buffers, "folded_bias")]
    if type(module) in (nn.Conv3d, nn.Linear):
        return [(module._parameters, "weight"), (module._parameters, "bias")]
    if type(module) in NORMS:
        held = [(module._parameters, name) for name in ("weight", "bias")]
        return held + [(module._buffers, name) for name in ("running_mean", "running_var")]
    return []


def _of_module(call: Call, module: nn.Module, like: Tensor) -> Operation | Ref | None:
    x = call.args[0] if len(call.args) == 1 and not call.kwargs else None
    if not isinstance(x, Ref) or is_altered(module) or module._modules:
        return None
    if type(module) in DROPOUTS:
        return None if module.training else x
    if type(module) is nn.ReLU:
        return _relu(call, x, module.inplace)
    if type(module) is nn.MaxPool3d:
        m = module
        return _max_pool(
            call, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
        )
    if isinstance(module, FusedConv3d | FoldedConv3d | nn.Conv3d):
        return _conv(call, x, module, like)
    return _norm(call, x, module, like) if type(module) in NORMS else None


def _conv(call: Call, x: Ref, module: Any, like: Tensor) -> Operation | None:
    if isinstance(module, nn.Conv3d):
        if type(module) is not nn.Conv3d or module._parameters.get("weight") is None:
            return None
        weight, bias, relu = module.weight, module.bias, False
    else:
        weight, bias, relu = module.folded_weight, module.folded_bias, module.relu
    same = isinstance(module, FusedConv3d) and module.padding is None
    padding = None if same else triple(module.padding)
    stride, groups = triple(module.stride), 1
    dilation: Triple | None = (1, 1, 1)
    if not isinstance(module, FusedConv3d):
        dilation, groups = triple(module.dilation), module.groups
        if module.padding_mode != "zeros" or padding is None or dilation is None:
            return None
    assert stride is not None
    assert dilation is not None
    dtype = compute_dtype(like.device, like.dtype)
    plain = groups == 1 and dilation == (1, 1, 1)
    if not fits(like, weight) or not (
        plain or has_depthwise_kernel(weight, groups, stride, dilation, dtype, like.device)
    ):
        return None

    def node(out: int, values: Sequence[int]) -> Node:
        return Conv(*(out, values[0], weight, bias, stride, padding, relu), groups=groups, name=call.path)

    return Operation((x,), node)


def _norm(call: Call, x: Ref, module: Any, like: Tensor) -> Operation | None:
    mean, var, weight, bias = module.running_mean, module.running_var, module.weight, module.bias
    used = [t for t in (mean, var, weight, bias) if t is not None]
    if module.training or mean is None or var is None:
        return None
    if not all(fits(like, t, torch.float32) for t in used):
        return None
    return Operation(
        (x,), lambda out, values: Norm(out, values[0], mean, var, weight, bias, module.eps, name=call.path)
    )


def fits(like: Tensor, tensor: Tensor, *dtypes: torch.dtype) -> bool:
    return tensor.dtype in (like.dtype, *dtypes) and tensor.device == like.device


def _relu(call: Call, x: Any, in_place: bool) -> Operation | None:
    if not isinstance(x, Ref):
        return None
    return Operation((x,), lambda out, values: Relu(out, values[0], name=call.path), in_place)


def _max_pool(
    call: Call,
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
) -> Operation | None:
    kernel, zeros = triple(kernel_size), triple(padding)
    step = triple(stride) if stride not in (None, [], ()) else kernel
    if (
        not isinstance(x, Ref)
        or kernel is None
        or step is None
        or zeros is None
        or triple(dilation) != (1, 1, 1)
        or ceil_mode is not False
        or return_indices is not False
        or any(2 * p > k for p, k in zip(zeros, kernel, strict=True))
    ):
        return None
    return Operation((x,), lambda out, values: Pool(out, values[0], kernel, step, zeros, name=call.path))


def triple(value: Any) -> Triple | None:
    """(t, h, w) of what torch takes for one, which NumPy's integers are too; None for anything else."""
    values = value if isinstance(value, tuple | list) else (value,)
    try:
        numbers = [operator.index(v) for v in values]
    except TypeError:
        return None
    if len(numbers) not in (1, 3):
        return None
    t, h, w = numbers * (3 // len(numbers))
    return t, h, w


def _rule(signature: Callable[..., Any]) -> Callable[[Call], Operation | Ref | None]:
    """A rule from a function that takes a call's arguments as torch does, and the call as ``call``."""
    parameters = inspect.signature(signature)

    def rule(call: Call) -> Operation | Ref | None:
        try:
            bound = parameters.bind(*call.args, **call.kwargs, call=call)
        except TypeError:  # another overload
            return None
        found: Operation | Ref | None = signature(*bound.args, **bound.kwargs)
        return found

    return rule


@_rule
def _relu_call(input: Any, inplace: Any = False, *, call: Call) -> Operation | None:
    return _relu(call, input, inplace) if isinstance(inplace, bool) else None


@_rule
def _relu_in_place(input: Any, *, call: Call) -> Operation | None:
    return _relu(call, input, True)


def _sum(x: Any, y: Any, alpha: Any, call: Call, *, in_place: bool) -> Operation | None:
    if not (isinstance(x, Ref) and isinstance(y, Ref)) or type(alpha) not in (int, float) or alpha != 1:
        return None
    return Operation((x, y), lambda out, values: Add(out, values[0], values[1], name=call.path), in_place)


@_rule
def _add(input: Any, other: Any, *, alpha: Any = 1, call: Call) -> Operation | None:
    return _sum(input, other, alpha, call, in_place=False)


@_rule
def _add_in_place(input: Any, other: Any, *, alpha: Any = 1, call: Call) -> Operation | None:
    return _sum(input, other, alpha, call, in_place=True)


@_rule
def _cat(tensors: Any, dim: Any = 0, *, call: Call) -> Operation | None:
    if dim not in (1, -4) or not isinstance(tensors, tuple | list) or len(tensors) < 2:
        return None
    if not all(isinstance(x, Ref) for x in tensors):
        return None
    return Operation(tuple(tensors), lambda out, values: Concat(out, tuple(values), name=call.path))


@_rule
def _dropout(
    input: Any, p: Any = 0.5, training: Any = True, inplace: Any = False, *, call: Call
) -> Ref | None:
    return input if training is False and isinstance(input, Ref) else None


@_rule
def _max_pool_call(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
    *,
    call: Call,
) -> Operation | None:
    return _max_pool(call, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


_FUNCTIONS: dict[Any, Callable[[Call], Operation | Ref | None]] = {
    F.relu: _relu_call,
    torch.relu: _relu_call,
    torch.relu_: _relu_in_place,
    operator.add: _add,
    operator.iadd: _add_in_place,
    torch.add: _add,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.concatenate: _cat,
    F.max_pool3d: _max_pool_call,
    torch.max_pool3d: _max_pool_call,
    **dict.fromkeys((F.dropout, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout), _dropout),
}
_METHODS = {"relu": _relu_call, "relu_": _relu_in_place, "add": _add, "add_": _add_in_place}
