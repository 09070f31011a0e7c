"""``fasti3d weights``: list, get, verify, convert and inflate checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.text import Text

from fasti3d.choices import check_inflation
from fasti3d.cli import output
from fasti3d.cli.options import checked
from fasti3d.utils.parsing import brief

if TYPE_CHECKING:
    from fasti3d.weights import Entry

app = typer.Typer(help="List, fetch, check, convert and inflate checkpoints.", no_args_is_help=True)

_NAME = typer.Argument(help="A name of `fasti3d weights list`.", show_default=False)


@app.command("list")
def list_() -> None:
    """List the public checkpoints that fasti3d knows by name."""
    from fasti3d.weights import registry

    for name, entry in registry().items():
        kind = f"{entry.stream}, {entry.num_classes} classes, {entry.licence}"
        output.out.print(Text.assemble((name, "bold"), f"  {kind}"), soft_wrap=True)
        for line in (entry.description, *_network(entry), f"from {entry.source}"):
            output.out.print(Padding(Text(line, style="dim"), (0, 0, 0, 4)))


def _network(entry: Entry) -> list[str]:
    """The network of an entry, its accuracy, and whether it is fetched; nothing of an I3D."""
    from fasti3d.weights.entry import UserFile

    if entry.backbone.family == "i3d" or entry.accuracy is None:
        return []
    top1, top5 = entry.accuracy
    lines = [f"{entry.backbone.says}; prepared as {entry.preprocessing}; top-1 {top1:.2f}, top-5 {top5:.2f}"]
    if isinstance(entry.download, UserFile):
        return [*lines, f"never fetched, as {entry.download.why}: give your file's path"]
    return [*lines, f"checked by {entry.download.proof}"]


@app.command()
def get(name: Annotated[str, _NAME]) -> None:
    """Fetch a checkpoint into the cache if it is missing, check its hash, and print its path."""
    print(fetch(name))


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="Without a name, all in the cache are checked.", show_default=False)
    ] = None,
) -> None:
    """Check checkpoints in the cache by their hashes; fetch nothing."""
    from fasti3d import weights

    if name is not None:
        known(name)
    cached = {path.stem for path in (weights.cache_dir() / "weights").glob("*.safetensors")}
    failed = False
    for wanted in [name] if name else sorted(cached & weights.registry().keys()):
        try:
            print(f"{weights.verify(wanted)}: good")
        except weights.WeightsError as error:
            failed = True
            output.complain("error", error)
    raise typer.Exit(failed)


@app.command()
def convert(
    src: Annotated[Path, typer.Argument(help="A checkpoint in any format fasti3d reads, or a name.")],
    dst: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Convert a checkpoint to safetensors with pytorch-i3d's names."""
    from fasti3d import weights

    try:
        print(weights.convert(str(src), dst))
    except weights.WeightsError as error:
        output.fail(error)


@app.command()
def inflate(
    src: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="torchvision's GoogLeNet (.pth), or TF-slim's Inception-v1 variables (.npz).",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The safetensors file to write.")],
    flow: Annotated[bool, typer.Option("--flow", help="For 2 channels of optical flow, not RGB.")] = False,
    mode: Annotated[
        str,
        typer.Option(
            help="average: the 2-D filter over the frames, at every frame; centre: at the middle frame.",
            callback=checked(check_inflation),
        ),
    ] = "average",
) -> None:
    """Inflate a 2-D network of ImageNet into an I3D of 400 classes, whose classifier is untrained."""
    from fasti3d.inflate import inflate_file
    from fasti3d.weights import WeightsError

    try:
        report = inflate_file(src, out, flow=flow, mode=mode)
    except WeightsError as error:
        output.fail(error)
    print(out)
    unused = f"; not used: {', '.join(map(brief, report.unused))}" if report.unused else ""
    output.err.print(
        Text(f"{len(report.filled)} tensors filled; new, to be trained: {', '.join(report.new)}{unused}"),
        soft_wrap=True,
    )


def known(name: str) -> None:
    """End with exit code 2 unless the registry has this name."""
    from fasti3d.weights import registry

    if name not in registry():
        raise typer.BadParameter(
            f"no public weights are called {name!r}: choose from {', '.join(registry())}"
        )


def check_there(weights: str, option: str = "--weights") -> None:
    """End with exit code 2 for what is neither a name nor a file."""
    from fasti3d.weights import WeightsError, registry
    from fasti3d.weights.paths import find_file

    try:
        if weights not in registry():
            find_file(weights)
    except WeightsError as error:
        raise typer.BadParameter(
            f"{weights[:300]!r} is neither a file nor a name of `fasti3d weights list`: {error}, and those"
            f" are {', '.join(registry())}",
            param_hint=option,
        ) from None


def find(weights: str, option: str = "--weights") -> Path:
    """Return the file of a name, fetched if necessary, or of a path; or end with exit code 1 or 2."""
    from fasti3d.weights import registry

    check_there(weights, option)
    return fetch(weights) if weights in registry() else Path(weights).expanduser()


def fetch(name: str) -> Path:
    """Return the cached file of a name, fetched with a progress bar; end with exit code 1 or 2 on failure."""
    from fasti3d import weights

    known(name)
    try:
        with output.progress_bar(f"fetching {name}") as advance:
            return weights.get(name, progress=advance)
    except weights.WeightsError as error:
        output.fail(error)
