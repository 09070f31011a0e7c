"""``fasti3d plan``: what a forward pass does with clips of a shape."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.network import METAVAR, to_network
from fasti3d.cli.options import (
    Device,
    Json,
    NonLocal,
    Variant,
    option_errors,
    to_backbone,
    to_device,
    to_shape,
)

if TYPE_CHECKING:
    from torch import nn

    from fasti3d.backbone import Backbone
    from fasti3d.inspect.plan_report import PlanReport

_DTYPES = ("float32", "bfloat16", "float16")
# Of the table, also where the terminal, or what a pipe passes for one, is narrower.
_WIDTH = 140


def plan(
    shape: Annotated[
        str, typer.Option(metavar="N,C,T,H,W", help="Clips; C is 3 for RGB, 2 for optical flow.")
    ] = "1,3,64,224,224",
    dtype: Annotated[str, typer.Option(help="Of the clips: float32, bfloat16 or float16.")] = "float32",
    device: Device = "auto",
    network: Annotated[
        str | None,
        typer.Option(
            metavar=f"NAME|{METAVAR}",
            help="Another network than i3d: i3d-r50, i3d-r101, slow-r50, r3d-18, mc3-18, r2plus1d-18, or a "
            "function that returns one, as torchvision.models.video:r3d_18.",
            show_default=False,
        ),
    ] = None,
    variant: Variant = None,
    non_local: NonLocal = None,
    as_json: Json = False,
) -> None:
    """Print the steps of an eval-mode forward pass: arithmetic, memory traffic, and memory needed.

    Nothing is run. Another network is planned as fasti3d.fuse runs it. Convolutions are direct, or F(4,2,2):
    minimal filters with tiles of 4x2x2 outputs along time, height and width. On a GPU, direct/slab is
    whichever of two kernels is measured to be the faster. The last columns are the least time that a step can
    take on a GPU in half precision, by its published peaks of arithmetic and of memory; no program reaches
    them everywhere.
    """
    if dtype not in _DTYPES:
        raise typer.BadParameter(f"must be one of {', '.join(_DTYPES)}, got {dtype!r}", param_hint="--dtype")
    sizes = to_shape(shape)
    backbone = None
    if network is None or ":" not in network:
        backbone = to_backbone(network, variant, non_local, "")
    import torch

    from fasti3d.inspect import plan_report

    where, kind = to_device(device), getattr(torch, dtype)
    if backbone is not None:
        module = None if backbone.family == "i3d" else _built(backbone).to(where, kind)
    else:
        module = to_network(network or "", "--network").to(where, kind)
    with option_errors("--shape"):
        if module is None:
            report = plan_report.report_plan(sizes, kind, where)
        else:
            report = plan_report.plan(module, sizes)
    if as_json:
        print(json.dumps(_object(report)))
    else:
        _print(report)


def _built(backbone: Backbone) -> nn.Module:
    """A network of a name, with weights at random, in eval mode."""
    from fasti3d.i3d_resnet import I3DResNet
    from fasti3d.video_resnet.reference import VideoResNet

    if backbone.variant is None:
        return VideoResNet(backbone.network).eval()
    return I3DResNet(backbone.variant, backbone.kind.depth, backbone.non_local).eval()


def _object(report: PlanReport) -> dict[str, object]:
    from fasti3d.inspect.roofline import CHIPS

    return {
        "path": report.route.path,
        "compute_dtype": str(report.route.compute_dtype).removeprefix("torch."),
        "why": report.route.why,
        "steps": [dataclasses.asdict(step) for step in report.steps],
        "rewrites": [dataclasses.asdict(rewrite) for rewrite in report.rewrites],
        "flop": report.flop,
        "moved_bytes": report.moved_bytes,
        "arena_bytes": report.arena_bytes,
        "graph_arena_bytes": report.graph_arena_bytes,
        "weight_bytes": report.weight_bytes,
        "floor_seconds": {chip.name: report.floor_seconds(chip) for chip in CHIPS},
    }


def _print(report: PlanReport) -> None:
    from fasti3d.inspect.roofline import CHIPS, floor_seconds

    itemsize = report.route.compute_dtype.itemsize
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("step", no_wrap=True)
    table.add_column("writes", no_wrap=True)
    table.add_column("convolutions", no_wrap=True)
    for column in ("GFLOP", "MB moved", *(f"{chip.name} us" for chip in CHIPS)):
        table.add_column(column, justify="right", no_wrap=True)
    for step in report.steps:
        floors = [floor_seconds(step.flop, 2 * step.values, chip) for chip in CHIPS]
        table.add_row(
            Text(step.name),
            "x".join(map(str, step.shape)),
            " ".join(step.forms),
            f"{step.flop / 1e9:.1f}",
            f"{itemsize * step.values / 1e6:.1f}",
            *(f"{1e6 * floor:.1f}" for floor in floors),
        )
    totals = [f"{1e6 * report.floor_seconds(chip):.1f}" for chip in CHIPS]
    table.add_row("all", "", "", f"{report.flop / 1e9:.1f}", f"{report.moved_bytes / 1e6:.1f}", *totals)
    Console(highlight=False, width=max(output.out.width, _WIDTH)).print(table)
    rewrites = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rewrites.add_column("after the rewrite", no_wrap=True)
    rewrites.add_column("nodes", justify="right")
    rewrites.add_column("MB moved", justify="right")
    for rewrite in report.rewrites:
        rewrites.add_row(rewrite.name, str(rewrite.nodes), f"{itemsize * rewrite.values / 1e6:.1f}")
    output.out.print()
    Console(highlight=False, width=max(output.out.width, _WIDTH)).print(rewrites)
    dtype = str(report.route.compute_dtype).removeprefix("torch.")
    in_graph = report.graph_arena_bytes
    beside = "" if in_graph is None else f" ({in_graph / 1e6:.1f} MB in a CUDA graph)"
    output.out.print(
        Text(
            f"\n{report.route.path} in {dtype}: {report.route.why}\n"
            f"maps: {report.arena_bytes / 1e6:.1f} MB in one block{beside}; "
            f"packed weights: {report.weight_bytes / 1e6:.1f} MB"
        ),
        soft_wrap=True,
    )
