"""Videos of a list: a path and a label per line, as mmaction2 and SlowFast write them."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fasti3d.train.data.list_files import read_lines
from fasti3d.train.data.matching import Matches, found_videos, stem
from fasti3d.train.data.parts import Listed, part
from fasti3d.train.data.request import DatasetRequest
from fasti3d.train.data.video_dataset import DatasetError, VideoDataset
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import brief

_HOLDS = "the videos of the list"
_MAX_DIGITS = 9


class _Line(NamedTuple):
    place: str
    path: str
    label: int | None


def VideoList(  # noqa: N802 (a kind of data set)
    list: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    prefix: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    subset: str = "train",
) -> VideoDataset:
    """Open the videos of a list.

    A line is a path and a label from 0 on, between them a blank, comma or tab; the path may have blanks. A
    third number in the middle is the frame count of a folder of images, as in mmaction2's rawframe lists.
    Without labels in any line, videos have none.

    Args:
        list: the file.
        root: the folder that paths are relative to; None is that of the list, or of absolute paths the one
            that holds all of them.
        prefix: a folder below the root that is put before every path.
        classes: a file with the name of a class per line; None names them by their numbers.
        subset: what the list is of: ``train``, ``val`` or ``test``.

    Raises:
        DatasetError: something is missing or contradicts itself.

    Example:
        >>> VideoList("train.csv", "videos").coverage.listed  # doctest: +SKIP
        240
    """
    DatasetRequest("list", root, subset, annotations=classes, list=list, prefix=prefix)
    path = Path(list)
    lines = [_parsed(place, line) for place, line in read_lines(path)]
    names = _class_names(lines, classes, path)
    folder = _folder(path, lines, root, prefix)
    listed: dict[str, Listed] = {}
    places: dict[str, str] = {}
    paths: dict[str, Path] = {}
    for line in lines:
        name = _relative(line, folder)
        if name in places:
            raise DatasetError(
                f"{line.place} repeats {quoted(name)} of {places[name]}: expected each video once"
            )
        places[name] = line.place
        key = stem(name)
        if key in listed:
            raise DatasetError(
                f"{line.place} names {quoted(name)} beside {quoted(listed[key].name)}: expected videos "
                "whose names differ in more than the suffix"
            )
        listed[key] = Listed(key, name, line.label)
        if os.path.exists(folder / name):
            paths[name] = folder / name
    unlisted: tuple[str, ...] = ()
    if root is not None or prefix is not None:
        there = (video.relative_to(folder).as_posix() for video in found_videos(folder, _HOLDS))
        unlisted = tuple(sorted(video for video in there if video not in paths))
    everything = [*listed.values()]
    return part(
        name="list",
        subset=subset,
        split=None,
        root=folder,
        classes=names,
        listed=everything,
        # A test list need not have every class.
        everything=everything if subset == "train" else [],
        matches=Matches(paths, unlisted, ()),
        where=path,
    )


def _parsed(place: str, line: str) -> _Line:
    path, label = _without_number(line)
    path = path.strip('"').replace("\\", "/")
    if stem(path) == path:
        # What has no suffix is a folder of images with their count, or a video with several labels.
        before, _ = _without_number(path)
        rest = before
        while (shorter := _without_number(rest)[0]) != rest:
            rest = shorter
        if stem(rest) != rest:
            raise DatasetError(f"{place} is {brief(repr(line))}: expected one label after the path")
        path = before
    if not path or (label is None and stem(path) == path):
        raise DatasetError(
            f"{place} is {brief(repr(line))}: expected a path and a label, such as `videos/a.mp4 0`"
        )
    if label is not None and label < 0:
        raise DatasetError(f"{place} has the label {label}: expected labels from 0 on")
    return _Line(place, path, label)


def _without_number(text: str) -> tuple[str, int | None]:
    """The text before a last whole number, and that; None where there is none.

    A blank, a comma or a tab is between them; the text may have them too.
    """
    head = text.rstrip("0123456789")
    digits = text[len(head) :]
    if head.endswith(("-", "+")):
        head, digits = head[:-1], head[-1] + digits
    before = head.rstrip().removesuffix(",").rstrip()
    if before == head or not digits[-1:].isdigit() or len(digits) > _MAX_DIGITS:
        return text, None
    return before, int(digits)


def _class_names(lines: list[_Line], classes: str | os.PathLike[str] | None, path: Path) -> tuple[str, ...]:
    without = [line for line in lines if line.label is None]
    if without and len(without) < len(lines):
        raise DatasetError(
            f"{without[0].place} has no label, but other lines have: expected one in every line"
        )
    labels = {line.label: line.place for line in lines if line.label is not None}
    if classes is None:
        if without:
            raise DatasetError(
                f"{quoted(path)} has no labels: expected a file of class names, with --annotations"
            )
        highest = max(labels)
        if highest >= 2 * len(lines) + 1000:
            raise DatasetError(
                f"{labels[highest]} has the label {highest}: expected labels from 0 on without gaps"
            )
        return tuple(map(str, range(highest + 1)))
    names: dict[str, str] = {}
    for place, line in read_lines(Path(classes)):
        if line in names:
            raise DatasetError(
                f"{place} repeats the class {brief(line)} of {names[line]}: expected each once"
            )
        names[line] = place
    if labels and (highest := max(labels)) >= len(names):
        raise DatasetError(
            f"{labels[highest]} has the label {highest}: expected 0 to {len(names) - 1}, as "
            f"{quoted(classes)} names {len(names)} classes"
        )
    return tuple(names)


def _folder(
    path: Path, lines: list[_Line], root: str | os.PathLike[str] | None, prefix: str | os.PathLike[str] | None
) -> Path:
    if root is None and prefix is None and all(PurePosixPath(line.path).is_absolute() for line in lines):
        return Path(os.path.commonpath([os.path.dirname(line.path) for line in lines]))
    folder = Path(path.parent if root is None else root, prefix or "")
    if not os.path.isdir(folder):
        raise DatasetError(
            f"{quoted(folder)} is not a folder: expected one that holds the videos of {quoted(path)}"
        )
    return folder


def _relative(line: _Line, folder: Path) -> str:
    """The path from the folder on."""
    name = os.path.normpath(line.path)
    if os.path.isabs(name):
        name = os.path.relpath(name, folder.absolute())
    if name.startswith("..") and name.split(os.sep)[0] == "..":
        raise DatasetError(
            f"{line.place} names {quoted(line.path)}, which is outside of {quoted(folder)}: expected paths "
            "below it; give the folder that they are relative to as --root or --prefix"
        )
    return Path(name).as_posix()
