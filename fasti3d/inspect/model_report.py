"""Which parts of a model run fused, and why others do not."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fasti3d.fused import FusedNetwork
from fasti3d.fusion.planned import Planned


@dataclass(frozen=True)
class PartReport:
    """A part of a model that could run fused.

    Attributes:
        path: its name in the model; empty for the model itself.
        kind: its class.
        runs: ``fused``, ``fused but for its head``, ``layer by layer`` or ``as an ordinary module``.
        why: one sentence; empty where all of it is fused.
    """

    path: str
    kind: str
    runs: str
    why: str


def report_model(model: nn.Module) -> tuple[PartReport, ...]:
    """Every network of this library in a model, and every part that `fuse` traced, as it runs in eval mode
    under ``torch.no_grad()``.

    Args:
        model: any module.

    Example:
        >>> [part.runs for part in report_model(fasti3d.I3D().eval())]
        ['fused']
    """
    found = []
    for path, part in model.named_modules():
        if isinstance(part, FusedNetwork):
            found.append(PartReport(path, type(part).__name__, *_of_network(part)))
        elif isinstance(planned := vars(part).get("forward"), Planned):
            why = planned.why_not()
            runs = "layer by layer" if why else "fused"
            found.append(PartReport(path, type(part).__name__, runs, why))
    return tuple(found)


def _of_network(model: FusedNetwork) -> tuple[str, str]:
    if why := model.why_not_fused():
        return "as an ordinary module", why
    why = model.why_not_whole()
    return ("fused but for its head", why) if why else ("fused", "")
