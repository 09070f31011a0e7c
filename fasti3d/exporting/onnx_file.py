"""ONNX of an exported program: SAME padding inside of the nodes, and a record in the metadata."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.export import ExportedProgram

from fasti3d.exporting.program import BATCH, STEPS

if TYPE_CHECKING:
    import onnx_ir as ir

# The lowest in which all that is written has the form it has today.
OPSET = 18
# What a padded value must be for an operator to pad by itself.
_PADDING = {"Conv": 0.0, "MaxPool": -np.inf}


def to_onnx(
    program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], metadata: Mapping[str, str]
) -> bytes:
    """Return the ONNX file of a plain program.

    Args:
        program: without operators of this library.
        inputs, outputs: their names in the file.
        metadata: for ``metadata_props``.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    with _quietly():
        found = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert found is not None
    model = found.model
    fold_pads(model.graph)
    RemoveUnusedNodesPass()(model)
    _name_sizes(model.graph)
    _forget_sources(model)
    model.metadata_props.update(metadata)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _name_sizes(graph: ir.Graph) -> None:
    """Give the sizes that may vary the names n and 8*k (8*k1 in a second input) in place of torch's."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for i, clip in enumerate(graph.inputs):
        assert clip.shape is not None
        for size, name in ((clip.shape[0], BATCH), (clip.shape[2], f"{STEPS}{i or ''}")):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                names.setdefault(re.sub(r"^\d+\*", "", size.value), name)
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                text = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), size.value)
                value.shape[axis] = ir.SymbolicDim(text)  # type: ignore[index]


def fold_pads(graph: ir.Graph) -> None:
    """Let each Conv and MaxPool do the padding of the Pad that it reads, each side by its own number."""
    for node in list(graph):
        given = node.inputs[0] if node.op_type in _PADDING else None
        pad = None if given is None else given.producer()
        if pad is None or pad.op_type != "Pad":
            continue
        sides = _sides(pad, _PADDING[node.op_type])
        if sides is None:
            continue
        rank = len(sides) // 2
        before, after = sides[2:rank], sides[rank + 2 :]
        own = node.attributes.get_ints("pads", [0] * len(before + after))
        node.attributes.add(_ints("pads", [a + b for a, b in zip(own, before + after, strict=True)]))
        node.replace_input_with(0, pad.inputs[0])
        if not pad.outputs[0].uses():
            graph.remove(pad, safe=True)


def _ints(name: str, values: Sequence[int]) -> ir.Attr:
    import onnx_ir as ir

    return ir.AttrInt64s(name, values)


def _sides(pad: ir.Node, value: float) -> list[int] | None:
    """The padding of all axes, first at all fronts, if it is constant, of this value, and over the pixels."""
    if pad.attributes.get_string("mode", "constant") != "constant":
        return None
    sides, filled, axes = (_constant(pad, i) for i in (1, 2, 3))
    if sides is None or axes is not None or (len(pad.inputs) > 3 and pad.inputs[3] is not None):
        return None
    found: list[int] = sides.tolist()
    rank = len(found) // 2
    if any(found[i] or found[rank + i] for i in (0, 1)) or min(found) < 0:
        return None
    return found if float(0.0 if filled is None else filled.item()) == value else None


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    import onnx_ir as ir

    given = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if given is None else ir.convenience.get_const_tensor(given)
    return None if tensor is None else tensor.numpy()


def _forget_sources(model: ir.Model) -> None:
    """Drop what torch notes of the machine: paths and lines of source files."""
    for graph in model.graphs():
        graph.metadata_props.clear()
        for node in graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of itself: that torchvision's operators are not there, and the like."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
