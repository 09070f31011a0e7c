"""What the published data sets share: one part, such as a split's training list, of all that is listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fasti3d.train.data.matching import Matches
from fasti3d.train.data.video_dataset import Coverage, DatasetError, Video, VideoDataset
from fasti3d.utils.naming import quoted


def check_subset(dataset: str, subset: str, subsets: Sequence[str]) -> None:
    """Raise a DatasetError for a subset that the data set has not."""
    if subset not in subsets:
        raise DatasetError(f"{dataset} has the subsets {', '.join(subsets)}, got {subset!r}")


def check_split(dataset: str, split: int, splits: Sequence[int]) -> None:
    """Raise a DatasetError for a split that the data set has not."""
    if split not in splits:
        raise DatasetError(f"{dataset} has the splits {', '.join(map(str, splits))}, got {split}")


def part(
    *,
    name: str,
    subset: str,
    split: int | None,
    root: Path,
    classes: tuple[str, ...],
    listed: Iterable[tuple[str, str, int | None]],
    labels: Iterable[tuple[str, int | None]],
    matches: Matches,
    where: Path,
) -> VideoDataset:
    """Put together one part of a data set.

    Args:
        listed: (key, name, label) of the part.
        labels: (name, label) of all parts.
        matches: the files of the names of all parts.
        where: the part's list.

    Raises:
        DatasetError: no video of the part was found, or none of some class in any part.
    """
    listed = list(listed)
    videos = tuple(
        Video(matches.paths[file], label, key) for key, file, label in listed if file in matches.paths
    )
    if not videos:
        there = f"{len(matches.unlisted):,} other videos" if matches.unlisted else "none"
        example = f", such as {quoted(matches.unlisted[0])}" if matches.unlisted else ""
        raise DatasetError(
            f"{quoted(root)} holds none of the {len(listed):,} videos of {quoted(where)}, such as "
            f"{quoted(listed[0][1])}, but {there}{example}: expected the videos of that list"
        )
    check_classes(classes, ((label, file in matches.paths) for file, label in labels), root)
    missing = tuple(key for key, file, _ in listed if file not in matches.paths)
    return VideoDataset(
        name,
        subset,
        split,
        root,
        classes,
        videos,
        Coverage(len(listed), missing, matches.unlisted, matches.remarks),
    )


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
