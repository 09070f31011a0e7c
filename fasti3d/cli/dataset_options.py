"""Options that say which data set is meant, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fasti3d.cli import output
from fasti3d.train.data.request import SUBSETS
from fasti3d.train.data.video_dataset import DatasetError

if TYPE_CHECKING:
    from fasti3d.train.data.index import Index
    from fasti3d.train.data.video_dataset import VideoDataset

Dataset = Annotated[str, typer.Option(metavar="NAME", help=f"{', '.join(SUBSETS)}.", show_default=False)]
# For a verb that can do without one.
OptionalDataset = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"{', '.join(SUBSETS)}.", show_default=False)
]
Root = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The folder of the videos.", show_default=False)
]
Split = Annotated[int, typer.Option(help="1, 2 or 3, of UCF-101 and HMDB-51.")]
Annotations = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The folder of the lists, if not in or beside the root; of a list, the file of class names.",
        show_default=False,
    ),
]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--list", metavar="FILE", help="With list: a path and a label per line.", show_default=False
    ),
]
Prefix = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="With list: put before every path, below --root.", show_default=False),
]
Holdout = Annotated[
    float | None,
    typer.Option(help="With folder: the share of videos to hold out, such as 0.2.", show_default=False),
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="With --holdout: videos for which it finds the same text are held out together.",
        show_default=False,
    ),
]


@contextmanager
def dataset_errors() -> Iterator[None]:
    """Report a DatasetError inside in one line: exit code 2."""
    try:
        yield
    except DatasetError as error:
        output.complain("error", error)
        raise typer.Exit(2) from None


def indexed(dataset: VideoDataset, workers: int | None = None) -> Index:
    """Return the index of a data set, made under a progress bar."""
    from fasti3d.train.data.index import index

    with output.progress_bar(f"reading {dataset.name} {dataset.subset}") as advance:
        return index(dataset, workers=workers, progress=advance)
