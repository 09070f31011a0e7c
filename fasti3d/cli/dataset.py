"""``fasti3d dataset check``: what is there of a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.dataset_options import (
    Annotations,
    Dataset,
    Group,
    Holdout,
    ListFile,
    Prefix,
    Root,
    Split,
    dataset_errors,
    indexed,
)
from fasti3d.cli.options import at_least
from fasti3d.train.data.request import SUBSETS, DatasetRequest, named_subset
from fasti3d.utils.naming import quoted

if TYPE_CHECKING:
    from fasti3d.train.data.video_dataset import VideoDataset

app = typer.Typer(help="Look at data sets of labeled videos.", no_args_is_help=True)

_EXAMPLES = 5
_WORTH_SAYING = 0.01
# What these have of their subsets differs from copy to copy.
_OPTIONAL = ("kinetics400", "kinetics600", "kinetics700", "folder")


@app.callback()
def _verbs() -> None: ...


@app.command()
def check(
    dataset: Dataset,
    root: Root = None,
    subset: Annotated[
        str | None, typer.Option(help="Only train, val or test; by default all.", show_default=False)
    ] = None,
    split: Split = 1,
    annotations: Annotations = None,
    list_file: ListFile = None,
    prefix: Prefix = None,
    holdout: Holdout = None,
    group: Group = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Videos to read at a time.", show_default="one per core", callback=at_least(1)),
    ] = None,
) -> None:
    """Compare a data set's lists with the videos that are there, and read each video once.

    Exit code 1 means that a listed video is missing or cannot be read, 2 that the call is wrong, or the data
    set another one than it says.
    """
    with dataset_errors():
        requests = [
            DatasetRequest(dataset, root, one, split, annotations, list_file, prefix, holdout, group)
            for one in (_subsets(dataset, annotations) if subset is None else (subset,))
        ]
        parts = _opened(requests)
    first = parts[0]
    split_name = "" if first.split is None else f", split {first.split}"
    _say(f"{first.name} in {quoted(first.root)}{split_name}: {len(first.classes)} classes")
    failed = False
    for part in parts:
        failed |= not _report(part, workers)
    _examples("unlisted", dict.fromkeys(first.coverage.unlisted))
    for remark in dict.fromkeys(remark for part in parts for remark in part.coverage.remarks):
        _say(f"note: {remark}")
    raise typer.Exit(failed)


def _subsets(dataset: str, annotations: Path | None) -> Sequence[str]:
    """The subsets to look at; of a single list the one that it is of."""
    if dataset == "list":
        return ("train",)
    if dataset.startswith("kinetics") and annotations is not None and os.path.isfile(annotations):
        return (named_subset(annotations.stem) or "train",)
    return SUBSETS.get(dataset, ("train",))


def _opened(requests: Sequence[DatasetRequest]) -> list[VideoDataset]:
    from fasti3d.train.data.open import open_request
    from fasti3d.train.data.video_dataset import MissingPartError

    parts, absent = [], []
    for request in requests:
        try:
            parts.append(open_request(request))
        except MissingPartError as error:
            if request.name not in _OPTIONAL:
                raise
            absent.append(error)
    if not parts:
        raise absent[0]
    return parts


def _report(part: VideoDataset, workers: int | None) -> bool:
    """Print what is there of one part; return whether all of it can be read."""
    index = indexed(part, workers)
    coverage = part.coverage
    _say(
        f"{part.subset}: {coverage.listed:,} listed, {coverage.found:,} found, "
        f"{len(index.unreadable):,} unreadable, {len(index.broken):,} broken"
    )
    _examples(f"{part.subset}, missing", dict.fromkeys(coverage.missing))
    _examples(f"{part.subset}, unreadable", index.unreadable)
    _examples(f"{part.subset}, broken, used as far as they go", index.broken)
    if index.repeated >= _WORTH_SAYING:
        _say(
            f"note: {index.repeated:.0%} of the {part.subset} frames at {index.fps:g} per second repeat the "
            "one before, as some videos have fewer; flow is zero there"
        )
    return not coverage.missing and not index.unreadable


def _examples(what: str, found: Mapping[str, str | None]) -> None:
    if not found:
        return
    _say(f"{what}: {len(found):,}")
    for name, reason in list(found.items())[:_EXAMPLES]:
        _say(f"  {quoted(name)}" + (f": {reason}" if reason else ""))
    if len(found) > _EXAMPLES:
        _say(f"  and {len(found) - _EXAMPLES:,} more")


def _say(text: str) -> None:
    output.out.print(Text(output.printable(text)), soft_wrap=True)
