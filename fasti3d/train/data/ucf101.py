"""UCF-101: 101 classes of actions in 13,320 videos, in three splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fasti3d.train.data.annotations import find_lists
from fasti3d.train.data.list_files import read_lines
from fasti3d.train.data.matching import CLASS_WAYS, found_videos, match, stem
from fasti3d.train.data.parts import Listed, part
from fasti3d.train.data.request import SPLITS, SUBSETS, DatasetRequest
from fasti3d.train.data.video_dataset import DatasetError, VideoDataset
from fasti3d.utils.naming import quoted

_HOLDS = "UCF-101's folders of classes, such as ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
_CLASSES = "classInd.txt"
_FOLDERS = ("ucfTrainTestlist", "splits", "annotations", "metafile")


class _Line(NamedTuple):
    place: str
    name: str  # Class/v_Class_gXX_cYY.avi
    label: int


def UCF101(  # noqa: N802 (a data set's name)
    root: str | os.PathLike[str],
    *,
    subset: str = "train",
    split: int = 1,
    annotations: str | os.PathLike[str] | None = None,
) -> VideoDataset:
    """Open the train or test list of a split of UCF-101.

    The class order is that of ``classInd.txt``, which is not alphabetical: Hammering is before HammerThrow.

    Args:
        root: the folder of the class folders, or one above it.
        subset: ``train`` or ``test``.
        split: 1, 2 or 3.
        annotations: the folder of ``classInd.txt``, ``trainlist01.txt``, ``testlist01.txt`` and so on; None
            looks in the root, one level below it, and beside it.

    Raises:
        DatasetError: something is missing, contradicts itself or belongs to another data set.

    Source: crcv.ucf.edu/data/UCF101.php.

    Example:
        >>> UCF101("UCF-101", subset="test", split=2).coverage.found  # doctest: +SKIP
        3734
    """
    DatasetRequest("ucf101", root, subset, split, annotations)
    folder = Path(root)
    lists = find_lists(folder, annotations, _CLASSES, _FOLDERS, "UCF-101")
    classes = _read_classes(lists / _CLASSES)
    wanted = lists / f"{subset}list{split:02}.txt"
    if not wanted.is_file():
        raise DatasetError(f"{quoted(wanted)} is missing: expected it beside {_CLASSES}")
    files = [lists / f"{kind}list{number:02}.txt" for number in SPLITS for kind in SUBSETS["ucf101"]]
    lines = {path: list(_read_list(path, classes)) for path in files if path.is_file()}
    _check_disjoint(*(lines.get(lists / f"{kind}list{split:02}.txt", []) for kind in SUBSETS["ucf101"]))
    names = (line.name for found in lines.values() for line in found)
    matches = match(folder, found_videos(folder, _HOLDS), names, CLASS_WAYS)
    return part(
        name="ucf101",
        subset=subset,
        split=split,
        root=folder,
        classes=classes,
        listed=[Listed(stem(x.name), x.name, x.label) for x in lines[wanted]],
        everything=[Listed(stem(x.name), x.name, x.label) for found in lines.values() for x in found],
        matches=matches,
        where=wanted,
    )


def _read_classes(path: Path) -> tuple[str, ...]:
    classes: list[str] = []
    for place, line in read_lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[0] != str(len(classes) + 1):
            raise DatasetError(
                f"{place} is {line[:80]!r}: expected `{len(classes) + 1} ClassName`, as of UCF-101"
            )
        if fields[1] in classes:
            raise DatasetError(f"{place} names the class {fields[1]} again: expected each class once")
        classes.append(fields[1])
    return tuple(classes)


def _check_disjoint(train: list[_Line], test: list[_Line]) -> None:
    places = {line.name: line.place for line in train}
    for line in test:
        if line.name in places:
            raise DatasetError(
                f"{line.place} names {quoted(line.name)}, which is in {places[line.name]} too: expected "
                "lists that share no video"
            )


def _read_list(path: Path, classes: tuple[str, ...]) -> Iterator[_Line]:
    labels = {name: label for label, name in enumerate(classes)}
    seen: dict[str, str] = {}
    for place, line in read_lines(path):
        name, *numbers = line.split()
        name = name.replace("\\", "/")
        folder, _, file = name.partition("/")
        if not file or "/" in file or len(numbers) > 1:
            raise DatasetError(
                f"{place} is {line[:80]!r}: expected `Class/v_Class_g01_c01.avi`, in training lists with its "
                "number after it, as of UCF-101"
            )
        if folder not in labels:
            raise DatasetError(
                f"{place} names the class {folder[:80]!r}, which is not among the {len(classes)} of "
                f"{_CLASSES}: expected lists of one data set"
            )
        if numbers and numbers[0] != str(labels[folder] + 1):
            raise DatasetError(
                f"{place} gives {folder} the number {numbers[0][:20]}, and {_CLASSES} {labels[folder] + 1}: "
                "expected lists of one data set"
            )
        if name in seen:
            raise DatasetError(f"{place} repeats {quoted(name)} of {seen[name]}: expected each video once")
        seen[name] = place
        yield _Line(place, name, labels[folder])
