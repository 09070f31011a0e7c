"""``fasti3d export``: a network as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table
from rich.text import Text

from fasti3d.catalog import NETWORKS
from fasti3d.choices import Dtype, check_choice
from fasti3d.cli import output
from fasti3d.cli.network import METAVAR, to_network
from fasti3d.cli.options import FlowWeights, checked, option_errors
from fasti3d.cli.weights import check_there, find
from fasti3d.exporting.formats import check_file, check_tools, format_of
from fasti3d.network import check_endpoints
from fasti3d.utils.naming import quoted

if TYPE_CHECKING:
    from torch import nn

    from fasti3d.exporting import Export

_FORMATS = ("onnx", "torch-export", "aoti")
_CLIP = "64,224,224"


def _to_clip(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"must be three whole numbers above 0, T,H,W, got {text!r}")
    return sizes


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar=f"MODEL|{METAVAR}",
            help="A name of `fasti3d weights list`, a checkpoint's path, a network with random weights "
            "(i3d_rgb, i3d_flow, i3d_two_stream), or a function that returns any network.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="A .onnx, or a .pt2.", show_default=False)
    ],
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX, opset 18.")] = False,
    torch_export: Annotated[
        bool, typer.Option("--torch-export", help="For torch.export.load; what a .pt2 is without an option.")
    ] = False,
    aoti: Annotated[
        bool,
        typer.Option(
            "--aoti", help="Compiled by AOTInductor for CPUs like this one, also for C++; its time is fixed."
        ),
    ] = False,
    flow_weights: FlowWeights = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            metavar="ENDPOINT",
            help="Logits (the default), Predictions, Features or a map such as Mixed_5c; may be repeated.",
            callback=checked(check_endpoints),
            show_default=False,
        ),
    ] = None,
    clip: Annotated[
        str, typer.Option(metavar="T,H,W", help="Frames and pixels.", callback=checked(_to_clip))
    ] = _CLIP,
    fixed_time: Annotated[
        bool, typer.Option("--fixed-time", help="T frames only, not any multiple of 8.")
    ] = False,
    uint8: Annotated[
        bool, typer.Option("--uint8", help="Clips are RGB bytes, which the file scales to [-1, 1].")
    ] = False,
    dtype: Annotated[
        str,
        typer.Option(
            help="Of weights and clips: float32, bfloat16 or float16.",
            callback=checked(lambda name: check_choice("dtype", name, get_args(Dtype))),
        ),
    ] = "float32",
    video: Annotated[
        Path | None,
        typer.Option(
            help="To compare on beside noise; without it the clip of `fasti3d demo` if it is cached, or "
            "a generated one.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")] = False,
) -> None:
    """Write a network to a file that runs without fasti3d, after comparing what it computes.

    The file takes any number of clips of these pixels, and any multiple of 8 frames. It is run beside the
    network, in onnxruntime and OpenVINO where they are installed or in torch, on noise and a video at four
    shapes; one that is off by more than 1e-4 of the largest value (2e-2 in half precision) is not written.
    Exit code 1 means that; 2 that the call was wrong.
    """
    chosen = [name for name, given in zip(_FORMATS, (onnx, torch_export, aoti), strict=True) if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"choose one format, got --{' and --'.join(chosen)}")
    with option_errors("--out"):
        kind = format_of(out, chosen[0] if chosen else None)
        check_file(out, overwrite)
    if video is not None and not video.exists():
        raise typer.BadParameter(f"{quoted(video)} is not there", param_hint="--video")
    is_factory = ":" in model and not Path(model).exists()
    if not is_factory and model not in NETWORKS:
        check_there(model, "MODEL")
    if flow_weights is not None:
        if is_factory or model in NETWORKS:
            raise typer.BadParameter("goes with RGB weights only", param_hint="--flow-weights")
        check_there(flow_weights, "--flow-weights")
    try:
        check_tools(kind)
    except ImportError as error:
        output.fail(error)
    import torch

    from fasti3d.classification.sample_clip import cached_clip
    from fasti3d.exporting import ParityError
    from fasti3d.exporting.api import export as run
    from fasti3d.video import VideoError
    from fasti3d.weights import WeightsError

    try:
        network = _network(model, flow_weights, is_factory).to(getattr(torch, dtype)).eval()
        with option_errors("MODEL"):
            result = run(
                network,
                out,
                kind,
                clip=_to_clip(clip),
                outputs=outputs or None,
                fixed_time=fixed_time,
                uint8=uint8,
                video=video or cached_clip(),
                overwrite=overwrite,
            )
    except (WeightsError, ParityError, VideoError) as error:
        output.fail(error)
    _print(result)


def _network(model: str, flow_weights: str | None, is_factory: bool) -> nn.Module:
    if is_factory:
        return to_network(model, "MODEL")
    if model in NETWORKS:
        from fasti3d.catalog import create_model

        return create_model(model)
    from fasti3d.models import load_model
    from fasti3d.two_stream import TwoStreamI3D

    rgb = load_model(find(model, "MODEL"), device="cpu", dtype="float32")
    if flow_weights is None:
        return rgb
    flow = load_model(find(flow_weights, "--flow-weights"), device="cpu", dtype="float32")
    with option_errors("--flow-weights"):
        return TwoStreamI3D(rgb, flow)


def _print(result: Export) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("runtime", "clips", "shape"):
        table.add_column(column)
    table.add_column("error", justify="right")
    for run in result.comparisons:
        shape = "x".join(map(str, run.shape))
        table.add_row(run.runtime, Text(output.printable(run.clips)), shape, f"{run.error:.1e}")
    output.out.print(table)
    for skipped in result.skipped:
        output.complain("warning", f"not run in {skipped.runtime}, which is {skipped.why}")
    size = f"{result.path.stat().st_size / 1e6:.1f} MB"
    described = f"{result.format}, {', '.join(result.inputs)} -> {', '.join(result.outputs)}, {size}"
    output.out.print(Text(f"\n{output.printable(quoted(result.path))}: {described}"), soft_wrap=True)
