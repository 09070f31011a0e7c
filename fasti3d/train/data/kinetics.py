"""Kinetics-400, 600 and 700: clips of ten seconds, listed in CSV files."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from fasti3d.train.data.annotations import list_places, missing_lists
from fasti3d.train.data.list_files import text_lines
from fasti3d.train.data.matching import Way, found_videos, match, stem
from fasti3d.train.data.parts import Listed, part
from fasti3d.train.data.request import SUBSETS, DatasetRequest, named_subset
from fasti3d.train.data.video_dataset import DatasetError, VideoDataset
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import brief

_HOLDS = "Kinetics' videos, such as abseiling/-0WZKTu0xZk_000010_000020.mp4"
_COLUMNS = ("youtube_id", "time_start", "time_end")
_FOLDERS = ("annotations", "lists", "csv")
_TIMES = re.compile(r"(.+)_(\d+)_(\d+)")
# The mirrors' folder of videos that replace truncated ones.
_REPLACEMENT = "replacement"


class _Row(NamedTuple):
    place: str
    label: str | None  # as in the CSV
    video: str  # YouTube's id
    clip: str  # <id>_<start>_<end>

    @property
    def name(self) -> str:
        return f"{self.label or ''}/{self.clip}"


def Kinetics(  # noqa: N802 (a data set's name)
    root: str | os.PathLike[str],
    *,
    classes: int = 400,
    subset: str = "train",
    annotations: str | os.PathLike[str] | None = None,
) -> VideoDataset:
    """Open the training, validation or test videos of Kinetics.

    The class order is that of the sorted names of the CSV files, in their spelling. Videos are
    ``<id>_<start>_<end>`` with times of six digits, or the bare id, of any suffix, in class folders or flat;
    one in a folder ``replacement…`` takes the place of another of its name.

    Args:
        root: the folder of the videos, at any depth.
        classes: 400, 600 or 700.
        subset: ``train``, ``val`` or ``test``, whose list may have no labels.
        annotations: the folder of ``train.csv``, ``val.csv`` (or validate) and ``test.csv``, alone or with a
            prefix such as ``kinetics400_``; or the file of the subset. None looks in the root, one level
            below it, and beside it.

    Raises:
        DatasetError: something is missing, contradicts itself or belongs to another data set.

    Source: github.com/cvdfoundation/kinetics-dataset.

    Example:
        >>> Kinetics("k400", subset="val").coverage.found  # doctest: +SKIP
        19881
    """
    DatasetRequest(f"kinetics{classes}", root, subset, annotations=annotations)
    name, folder = f"Kinetics-{classes}", Path(root)
    files = _lists(folder, annotations, subset, name, classes)
    rows = {kind: list(_read_rows(path)) for kind, path in files.items()}
    spellings: dict[str, str] = {}
    for kind in sorted(rows, key=SUBSETS["kinetics400"].index):
        for row in rows[kind]:
            if row.label is not None:
                spellings.setdefault(_normal(row.label), row.label)
    labels = tuple(sorted(spellings.values()))
    if not labels:
        raise DatasetError(
            f"{quoted(files[subset])} has no column label: expected train.csv beside it, for the classes"
        )
    if len(labels) > classes:
        raise DatasetError(
            f"{quoted(files[subset])} and the lists beside it have {len(labels)} classes: expected the "
            f"{classes} of {name}"
        )
    label_of = {spelling: label for label, spelling in enumerate(labels)}

    def listed(row: _Row) -> Listed:
        label = None if row.label is None else label_of[spellings[_normal(row.label)]]
        return Listed(row.clip, row.name, label)

    everything = [row for kind in rows.values() for row in kind]
    videos, replaced = _replaced(found_videos(folder, _HOLDS), folder)
    matches = match(folder, videos, (row.name for row in everything), _ways(everything))
    remarks = matches.remarks
    trained = {row.clip for row in rows.get("train", [])}
    if shared := [row.clip for row in rows.get("val", []) if row.clip in trained]:
        remarks += (f"{len(shared):,} clips are listed for train and for val, such as {shared[0]}",)
    if replaced:
        remarks += (f"{replaced:,} taken from a folder {_REPLACEMENT} in place of others of their names",)
    if len(labels) < classes:
        remarks += (f"{len(labels)} of the {classes} classes of {name} are listed",)
    return part(
        name=f"kinetics{classes}",
        subset=subset,
        split=None,
        root=folder,
        classes=labels,
        listed=[listed(row) for row in rows[subset]],
        everything=[listed(row) for row in everything],
        matches=matches._replace(remarks=remarks),
        where=files[subset],
    )


def _lists(
    root: Path, annotations: str | os.PathLike[str] | None, subset: str, name: str, classes: int
) -> dict[str, Path]:
    """The CSV file of each subset that there is; the wanted one is among them."""
    given = None
    if annotations is not None and os.path.isfile(annotations):
        given = Path(annotations)
        places = [given.parent]
    else:
        places = list_places(root, annotations, _FOLDERS, name)
    for place in places:
        found: dict[str, list[Path]] = {}
        for path in sorted(place.glob("*.csv")):
            if kind := named_subset(path.stem):
                found.setdefault(kind, []).append(path)
        if given is not None:
            found[subset] = [given]
        # Lists of several versions may lie in one folder.
        files = {
            kind: [path for path in paths if str(classes) in path.stem] or paths
            for kind, paths in found.items()
        }
        if len(files.get(subset, ())) > 1:
            two = " and ".join(quoted(path) for path in files[subset][:2])
            raise DatasetError(
                f"{two} are both lists of {subset}: expected one, so name it with --annotations"
            )
        if subset in files:
            return {kind: paths[0] for kind, paths in files.items() if len(paths) == 1}
    raise missing_lists(root, annotations, f"{subset}.csv", name)


def _read_rows(path: Path) -> Iterator[_Row]:
    seen: dict[str, str] = {}
    header: list[str] | None = None
    reader = csv.reader(text_lines(path), strict=True)
    try:
        for fields in reader:
            place = f"{quoted(path)}, line {reader.line_num}"
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [field.strip().lower() for field in fields]
                if absent := [column for column in _COLUMNS if column not in header]:
                    raise DatasetError(
                        f"{place} has the columns {brief(', '.join(header))}, and not {absent[0]}: expected "
                        "label,youtube_id,time_start,time_end,split, as of Kinetics"
                    )
                continue
            if len(fields) != len(header):
                raise DatasetError(f"{place} has {len(fields)} fields: expected the {len(header)} of line 1")
            row = _row(place, dict(zip(header, (field.strip() for field in fields), strict=True)))
            if row.clip in seen:
                raise DatasetError(f"{place} repeats {row.clip} of {seen[row.clip]}: expected each clip once")
            seen[row.clip] = place
            yield row
    except csv.Error as error:
        raise DatasetError(f"{quoted(path)}, line {reader.line_num} is not CSV: {error}") from error
    if not seen:
        raise DatasetError(f"{quoted(path)} lists no videos: expected a header and a line for each")


def _row(place: str, fields: dict[str, str]) -> _Row:
    label, video = fields.get("label"), fields["youtube_id"]
    label = label and label.strip('"').strip()  # some copies quote them twice
    if label == "":
        raise DatasetError(f"{place} has an empty label: expected a class's name")
    if not video or "/" in video or (label is not None and "/" in label):
        raise DatasetError(
            f"{place} has the label {brief(label)} and the id {brief(repr(video))}: expected names"
        )
    times = [_seconds(place, column, fields[column]) for column in _COLUMNS[1:]]
    return _Row(place, label, video, f"{video}_{times[0]:06}_{times[1]:06}")


def _seconds(place: str, column: str, text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise DatasetError(f"{place} has the {column} {brief(repr(text))}: expected seconds, such as 10")
    return int(seconds)


def _normal(label: str) -> str:
    """What is equal in all spellings of a class: mirrors write "_" for blanks, and drop quotes."""
    return re.sub(r"[\s_]+", "_", label.replace('"', "").strip().lower())


def _replaced(videos: list[Path], root: Path) -> tuple[list[Path], int]:
    """The videos without those that one in a folder of replacements stands for, and how many those are."""
    better = {path for path in videos if any(map(_is_replacement, path.relative_to(root).parts[:-1]))}
    names = {_clip(path) for path in better}
    kept = [path for path in videos if path in better or _clip(path) not in names]
    return kept, len(videos) - len(kept)


def _is_replacement(folder: str) -> bool:
    return folder.lower().startswith(_REPLACEMENT)


def _clip(path: PurePath) -> str:
    """A file's name without suffix, its times in six digits."""
    name = stem(path.name)
    times = _TIMES.fullmatch(name)
    return f"{times[1]}_{int(times[2]):06}_{int(times[3]):06}" if times else name


def _ways(rows: list[_Row]) -> tuple[Way, ...]:
    ids = {row.name: row.video for row in rows}

    def in_folder(clip: str, folder: str) -> str:
        return f"{_normal(folder)}/{clip}"

    def class_folder(name: str) -> str:
        folder, _, clip = name.rpartition("/")
        return in_folder(clip, folder)

    return (
        Way(None, class_folder, lambda path: in_folder(_clip(path), path.parent.name)),
        Way(
            "outside of their class's folder",
            lambda name: name.rpartition("/")[2],
            _clip,
        ),
        Way("by their ids alone", ids.__getitem__, lambda path: stem(path.name)),
    )
