"""What the published data sets share: one part, such as a split's training list, of all that is listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fasti3d.train.data.matching import Matches
from fasti3d.train.data.video_dataset import Coverage, DatasetError, Video, VideoDataset
from fasti3d.utils.naming import quoted


class Listed(NamedTuple):
    """A line of a list."""

    key: str
    name: str  # as for ``matching.match``
    label: int | None


def part(
    *,
    name: str,
    subset: str,
    split: int | None,
    root: Path,
    classes: tuple[str, ...],
    listed: Sequence[Listed],
    everything: Sequence[Listed],
    matches: Matches,
    where: Path,
) -> VideoDataset:
    """Put together one part of a data set.

    Args:
        listed: The videos of the part.
        everything: The videos of all parts, which all must have come up in ``matches``.
        matches: The files that were found.
        where: The part's list, for messages.

    Raises:
        DatasetError: The part has no videos, or of all parts none was found, or none of some class.
    """
    if not listed:
        raise DatasetError(f"{quoted(where)} lists no video for {subset}: expected some")
    everything = [*{x.name: x for x in everything}.values()]  # lists of several splits name the same
    videos = tuple(Video(matches.paths[x.name], x.label, x.key) for x in listed if x.name in matches.paths)
    if not matches.paths:
        example = f", such as {quoted(matches.unlisted[0])}" if matches.unlisted else ""
        raise DatasetError(
            f"{quoted(root)} holds none of the {len(everything):,} listed videos, such as "
            f"{quoted(listed[0].name)} of {quoted(where)}, but {len(matches.unlisted):,} others{example}: "
            "expected those of the list"
        )
    check_classes(classes, ((x.label, x.name in matches.paths) for x in everything), root)
    missing = tuple(x.key for x in listed if x.name not in matches.paths)
    coverage = Coverage(len(listed), missing, matches.unlisted, matches.remarks)
    return VideoDataset(name, subset, split, root, classes, videos, coverage)


def check_classes(classes: tuple[str, ...], found: Iterable[tuple[int | None, bool]], root: Path) -> None:
    """Raise a DatasetError if no video of some class was found.

    Args:
        classes: all of them.
        found: of each listed video its label, and whether it was found.
    """
    listed, there = [0] * len(classes), [0] * len(classes)
    for label, is_found in found:
        if label is not None:
            listed[label] += 1
            there[label] += is_found
    empty = [label for label, count in enumerate(there) if not count]
    if empty and any(listed):
        first = empty[0]
        raise DatasetError(
            f"{len(empty)} of {len(classes)} classes have no video in {quoted(root)}, such as "
            f"{classes[first]!r}, of which {listed[first]} are listed and 0 were found: expected videos of "
            "every class"
        )
