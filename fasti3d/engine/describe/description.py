"""What a description of a network gives."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fasti3d.engine.code import Code, decode
from fasti3d.engine.graph import Graph, Triple


class Description(NamedTuple):
    """What the outputs of an eval-mode network depend on.

    Attributes:
        trunk: its code, and in it its tensors.
        names: the values of its endpoints.
        window: of the head's average pool; None averages over the whole map.
        classifier: weight and bias, where the fused path knows all of the head.
        why: why it does not know all of it; empty if it does.
    """

    trunk: Code
    names: dict[str, int]
    window: Triple | None
    classifier: tuple[Tensor, Tensor | None] | None
    why: str

    @property
    def tensors(self) -> list[Tensor]:
        return self.trunk.tensors

    @property
    def head_tensors(self) -> list[Tensor]:
        return [t for t in self.classifier or () if t is not None]

    @property
    def structure(self) -> tuple[object, ...]:
        """What no tensor holds: windows, strides, eps."""
        return tuple(self.trunk.numbers), tuple(self.trunk.floats), self.window

    def coded(self) -> tuple[Code, dict[str, int]]:
        """The code with the head, and the values of all endpoints that the fused path knows."""
        code, names = self.trunk.copy(), dict(self.names)
        weight, bias = self.classifier or (None, None)
        *_, last = names.values()
        names["Features"], scores = code.head(last, self.window, weight, bias, "Logits")
        if weight is not None:
            names["Logits"] = scores
            names["Predictions"] = code.softmax(scores, "Predictions")
        return code, names

    def graph(self) -> Graph:
        code, names = self.coded()
        return decode(code.numbers, code.tensors, code.floats, names, code.paths)
