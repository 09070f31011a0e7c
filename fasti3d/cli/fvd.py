"""``fasti3d fvd``: the Fréchet Video Distance between generated and real videos."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.text import Text

from fasti3d.choices import FVDPreset, check_choice, check_dtype
from fasti3d.cli import output
from fasti3d.cli.options import (
    Device,
    Weights,
    at_least,
    checked,
    option_errors,
    to_device,
    to_dtype,
    to_rate,
)
from fasti3d.cli.weights import check_there, find
from fasti3d.metrics.limits import check_frames, check_layout, check_range
from fasti3d.utils.targets import check_statistics, check_target

if TYPE_CHECKING:
    from fasti3d.metrics import FVDResult

_SIDE = "A folder of videos or of folders of images, an .npy or .npz array, or saved statistics."


def _limits(text: str | None) -> tuple[float, float] | None:
    """``LOW,HIGH`` as two numbers."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"must be two numbers, LOW,HIGH, got {text!r}") from None
    return low, high


def _check_draws(count: int) -> None:
    if count < 0 or count == 1:
        raise ValueError(f"must be at least 2, or 0, got {count}")


def fvd(
    real: Annotated[Path, typer.Argument(metavar="REAL", help=_SIDE, show_default=False)],
    generated: Annotated[
        Path, typer.Argument(metavar="GENERATED", help="The same for the other side.", show_default=False)
    ],
    frames: Annotated[
        int, typer.Option(help="Frames in a clip, at least 9.", callback=checked(check_frames))
    ] = 16,
    preset: Annotated[
        str,
        typer.Option(
            help="Whose variant: tf (the original), stylegan-v, videogpt or cd-fvd.",
            callback=checked(lambda name: check_choice("preset", name, get_args(FVDPreset))),
        ),
    ] = "tf",
    weights: Weights = "kinetics400-rgb",
    clips: Annotated[
        int | None,
        typer.Option(
            help="Clips on each side, at least 2; by default one per video and all of an array.",
            show_default=False,
            callback=at_least(2),
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the choice of clips.")] = 0,
    fps: Annotated[
        str,
        typer.Option(
            help="Frames per second to sample from video files, or `native` for every frame.",
            callback=checked(to_rate),
        ),
    ] = "native",
    layout: Annotated[
        str,
        typer.Option(help="Axes of arrays: NTHWC, NCTHW or NTCHW.", callback=checked(check_layout)),
    ] = "NTHWC",
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range",
            metavar="LOW,HIGH",
            help="Black and white of floating-point arrays: 0,1 or -1,1 or 0,255.",
            show_default=False,
            callback=checked(lambda text: check_range(_limits(text))),
        ),
    ] = None,
    bootstrap: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Resamples for a 95 % interval, about 200; 0 for none.",
            callback=checked(_check_draws),
        ),
    ] = 0,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Estimate the score of infinitely many clips.")
    ] = False,
    save_stats: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Save the real side's statistics, which can stand for it next time.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the score against the number of clips: a .png, .svg or .pdf.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the receipt, one JSON object, and nothing else.")
    ] = False,
    device: Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            help="float32, in which scores are published, bfloat16 or float16.", callback=checked(check_dtype)
        ),
    ] = "float32",
    batch: Annotated[
        int | None,
        typer.Option(
            help="Clips in one forward pass; the default fits the device.",
            show_default=False,
            callback=at_least(1),
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail at a damaged or short video instead of skipping it.")
    ] = False,
) -> None:
    """Compute the Fréchet Video Distance between real and generated videos; lower is closer.

    Clips are from random places, the same for the same seed. Videos that are damaged or too short are
    skipped with a warning. Exit code 1 means that there is no score, 2 that the call was wrong.
    """
    rate, limits = to_rate(fps), _limits(value_range)
    if save_stats is not None:
        with option_errors("--save-stats"):
            check_statistics(save_stats)
    if plot is not None:
        with option_errors("--plot"):
            check_target(plot)
    check_there(weights)
    from fasti3d.metrics.comparison import fvd as compare
    from fasti3d.metrics.plot import draw_curve
    from fasti3d.video import VideoError
    from fasti3d.weights import WeightsError

    to_dtype(dtype, to_device(device))
    source = find(weights)
    try:
        with warnings.catch_warnings(), output.progress_bar("clips") as advance:
            # The receipt has them; they are printed from there.
            warnings.simplefilter("ignore", UserWarning)
            result = compare(
                real,
                generated,
                frames=frames,
                preset=preset,
                weights=source,
                clips=clips,
                seed=seed,
                fps=rate,
                layout=layout,
                value_range=limits,
                device=device,
                dtype=dtype,
                batch=batch,
                strict=strict,
                bootstrap=bootstrap,
                extrapolate=extrapolate,
                curve=plot is not None,
                save_stats=save_stats,
                progress=advance,
            )
    except (VideoError, WeightsError, ValueError, OSError, FloatingPointError) as error:
        output.fail(error)
    for text in result.receipt["warnings"]:
        output.complain("warning", text)
    if as_json:
        print(json.dumps(result.receipt))
    else:
        _print(result)
    if plot is not None:
        try:
            draw_curve(result, plot)
        except ValueError as error:
            output.fail(f"{plot}: {error}")
        except OSError as error:
            output.fail(f"{plot}: {error.strerror or error}")


def _print(result: FVDResult) -> None:
    receipt = result.receipt
    score = Text.assemble("FVD ", (f"{result.score:.2f}", "bold"))
    if result.interval is not None:
        score.append(" (95 % interval {:.2f} to {:.2f})".format(*result.interval))
    output.out.print(score, soft_wrap=True)
    if result.infinite is not None:
        output.out.print(f"of infinitely many clips about {result.infinite:.2f}", soft_wrap=True)
    output.out.print(
        f"{receipt['real']['clips']} real and {receipt['generated']['clips']} generated clips of "
        f"{receipt['frames']} frames, preset {receipt['preset']}, seed {receipt['seed']}, weights "
        f"{receipt['weights']['sha256'][:12]}, {receipt['device']} in {receipt['dtype']}",
        style="dim",
        soft_wrap=True,
    )
