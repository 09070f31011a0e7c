"""From a network to an exported program of plain PyTorch with batch norm folded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from fasti3d.exporting.fold import folded_copy
from fasti3d.exporting.plain_operators import decompositions
from fasti3d.i3d import I3D
from fasti3d.network import TIME_STRIDE

# Of the batch and the steps of time, in the files too.
BATCH, STEPS = "n", "k"
# Of clips whose length may vary.
MIN_FRAMES = 24


class Endpoints(nn.Module):
    """An I3D whose results are the maps of these names."""

    def __init__(self, network: I3D, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.network.forward_endpoints(x, self.names)
        return tuple(maps[name] for name in self.names)


class WholeSteps(nn.Module):
    """Clips of whole steps of 8 frames: written so that every size is a multiple in a trace.

    SAME padding is then the same numbers at every length, and another length is an error when the program
    runs.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *clips: Tensor) -> Any:
        return self.network(*(x.unflatten(2, (-1, TIME_STRIDE)).flatten(2, 3) for x in clips))


def plain_program(network: nn.Module, clips: tuple[Tensor, ...], *, fixed_time: bool) -> ExportedProgram:
    """Export an eval-mode network: without operators of this library, batch norms folded into convolutions.

    Args:
        network: takes the clips.
        clips: (N, C, T, H, W) of two or more each. The batch is dynamic, height and width are fixed.
        fixed_time: T is fixed; else any multiple of 8 from 24 on, of which the clips' is one.

    Raises:
        ValueError: the network cannot be exported so.
    """
    batch = Dim(BATCH, min=1)
    shapes: list[Any] = []
    for i in range(len(clips)):
        # Fewer steps leave one after the head's pool, which torch takes for another network.
        steps = Dim(f"{STEPS}{i or ''}", min=MIN_FRAMES // TIME_STRIDE)
        shapes.append({0: batch} if fixed_time else {0: batch, 2: TIME_STRIDE * steps})
    plain = folded_copy(network)
    if not fixed_time:
        plain, shapes = WholeSteps(plain).eval(), [tuple(shapes)]
    # Sizes of one are those of any other size, where a trace does not say so.
    with torch.no_grad(), _quietly(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        try:
            program = torch.export.export(plain, clips, dynamic_shapes=tuple(shapes))
        except Exception as error:  # of many kinds
            raise ValueError(_why_not(error, fixed_time)) from error
        if any(str(node.target).startswith("fasti3d.") for node in program.graph.nodes):
            program = program.run_decompositions(decompositions())
    _forget_sources(program.graph_module)
    return program


def _why_not(error: Exception, fixed_time: bool) -> str:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    remedy = "" if fixed_time else " (if it needs one length of clips, export it with a fixed time)"
    return f"model cannot be exported by torch.export{remedy}: {first}"


def _forget_sources(graph: fx.GraphModule) -> None:
    """Drops the paths and lines of source files, which would go into the exported file."""
    for node in graph.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn"):
            node.meta.pop(key, None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings that torch's exporters cause in themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
