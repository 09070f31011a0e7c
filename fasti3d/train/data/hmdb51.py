"""HMDB-51: 51 classes of actions in 6,766 videos, in three splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fasti3d.train.data.annotations import find_lists
from fasti3d.train.data.list_files import read_lines
from fasti3d.train.data.matching import CLASS_WAYS, found_videos, match, stem
from fasti3d.train.data.parts import Listed, part
from fasti3d.train.data.request import SPLITS, DatasetRequest
from fasti3d.train.data.video_dataset import DatasetError, VideoDataset
from fasti3d.utils.naming import quoted

_HOLDS = "HMDB-51's folders of classes, such as brush_hair/NAME.avi"
_PATTERN = "*_test_split{}.txt"
_NAME = re.compile(r"(.+)_test_split([123])\.txt")
_FOLDERS = ("testTrainMulti_7030_splits", "splits", "metafile", "annotations")
# The third mark is of videos that a split does not use.
_MARKS = {"1": "train", "2": "test", "0": None}


class _Line(NamedTuple):
    name: str  # class/NAME.avi
    label: int
    subset: str | None


def HMDB51(  # noqa: N802 (a data set's name)
    root: str | os.PathLike[str],
    *,
    subset: str = "train",
    split: int = 1,
    annotations: str | os.PathLike[str] | None = None,
) -> VideoDataset:
    """Open the train or test videos of a split of HMDB-51.

    The class order is alphabetical. Copies that replace characters such as ``#`` and ``[`` in names are
    matched by what is left of them, and a remark says how many.

    Args:
        root: the folder of the class folders, or one above it.
        subset: ``train`` or ``test``.
        split: 1, 2 or 3.
        annotations: the folder of ``brush_hair_test_split1.txt`` and so on; None looks in the root, one level
            below it, and beside it.

    Raises:
        DatasetError: something is missing, contradicts itself or belongs to another data set.

    Source: serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database.

    Example:
        >>> HMDB51("hmdb51_org", subset="test").coverage.found  # doctest: +SKIP
        1530
    """
    DatasetRequest("hmdb51", root, subset, split, annotations)
    folder = Path(root)
    lists = find_lists(folder, annotations, _PATTERN.format("[123]"), _FOLDERS, "HMDB-51")
    of_split: dict[int, dict[str, Path]] = {number: {} for number in SPLITS}
    for path in sorted(lists.iterdir()):
        if found := _NAME.fullmatch(path.name):
            of_split[int(found[2])][found[1]] = path
    classes = tuple(sorted({name for files in of_split.values() for name in files}))
    lines: dict[int, list[_Line]] = {}
    for number, files in of_split.items():
        if absent := [name for name in classes if name not in files]:
            if number != split:
                continue
            wanted = lists / f"{absent[0]}_test_split{split}.txt"
            raise DatasetError(
                f"{quoted(wanted)} is missing: expected one list per class, and split {split} has "
                f"{len(files)} for {len(classes)} classes"
            )
        lines[number] = [
            line for label, name in enumerate(classes) for line in _read_list(files[name], name, label)
        ]
    everything = [line for found in lines.values() for line in found]
    matches = match(folder, found_videos(folder, _HOLDS), (line.name for line in everything), CLASS_WAYS)
    return part(
        name="hmdb51",
        subset=subset,
        split=split,
        root=folder,
        classes=classes,
        listed=[Listed(stem(x.name), x.name, x.label) for x in lines[split] if x.subset == subset],
        everything=[Listed(stem(x.name), x.name, x.label) for x in everything],
        matches=matches,
        where=lists / _PATTERN.format(split),
    )


def _read_list(path: Path, name: str, label: int) -> Iterator[_Line]:
    seen: dict[str, str] = {}
    for place, line in read_lines(path):
        file, *mark = line.rsplit(None, 1)
        if not mark or mark[0] not in _MARKS or "/" in file:
            raise DatasetError(
                f"{place} is {line[:80]!r}: expected `NAME.avi MARK`, a mark of 0, 1 or 2, as of HMDB-51"
            )
        if file in seen:
            raise DatasetError(f"{place} repeats {quoted(file)} of {seen[file]}: expected each video once")
        seen[file] = place
        yield _Line(f"{name}/{file}", label, _MARKS[mark[0]])
