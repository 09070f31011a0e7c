"""Finds the files of listed videos in a folder, also in copies that changed names or suffixes."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from fasti3d.train.data.video_dataset import DatasetError
from fasti3d.utils.naming import quoted
from fasti3d.video.find import VIDEO_SUFFIXES, find_videos

_ODD = re.compile(r"[^0-9a-z]+")


def found_videos(root: Path, holds: str) -> list[Path]:
    """Return the videos below the root.

    Raises:
        DatasetError: There are none, or a folder cannot be read.
    """
    try:
        found = list(find_videos(root))
    except ValueError as error:
        raise DatasetError(f"{error}: expected a folder with {holds}") from error
    if not found:
        raise DatasetError(f"the root {quoted(root)} holds no videos: expected {holds}")
    return found


def stem(name: str) -> str:
    """Return a file's name without the suffix of a video; other dots are part of the name."""
    base, suffix = os.path.splitext(name)
    return base if suffix.lower() in VIDEO_SUFFIXES else name


def normalized(name: str) -> str:
    """Return what stays of a name in copies that replace odd characters: lower case, others as one "_"."""
    return _ODD.sub("_", name.lower())


class Way(NamedTuple):
    """A way to tell which file a listed name means: both give the same key.

    Attributes:
        remark: what is said of files that are found so; None for files that are called as listed.
        of_name: the key of a listed name.
        of_file: the key of a file, from its path relative to the root.
    """

    remark: str | None
    of_name: Callable[[str], str]
    of_file: Callable[[PurePath], str]


class Matches(NamedTuple):
    """What was found of a list.

    Attributes:
        paths: the file of each name that was found.
        unlisted: the other files, relative to the root, sorted.
        remarks: a sentence for each way that gave files, but for those that are called as listed.
    """

    paths: dict[str, Path]
    unlisted: tuple[str, ...]
    remarks: tuple[str, ...]


def match(root: Path, files: Iterable[Path], names: Iterable[str], ways: Sequence[Way]) -> Matches:
    """Find the files of listed names: by the first way whatever it finds, the rest by the next.

    Raises:
        DatasetError: Two files, or two names, have one key.
    """
    rest = {path: path.relative_to(root) for path in files}
    wanted = list(dict.fromkeys(names))
    paths: dict[str, Path] = {}
    remarks: list[str] = []
    for way in ways:
        by_key: defaultdict[str, list[Path]] = defaultdict(list)
        for path, relative in rest.items():
            by_key[way.of_file(relative)].append(path)
        claimed: dict[str, str] = {}
        for name in wanted:
            key = way.of_name(name)
            found = by_key.get(key, [])
            if len(found) > 1:
                two = " and ".join(quoted(rest[path].as_posix()) for path in sorted(found)[:2])
                raise DatasetError(
                    f"{quoted(root)} holds {len(found)} videos of {quoted(name)}, such as {two}: expected "
                    "one, so move the others elsewhere"
                )
            if found and (other := claimed.setdefault(key, name)) != name:
                raise DatasetError(
                    f"{quoted(rest[found[0]].as_posix())} in {quoted(root)} is the only file for two listed "
                    f"videos, {quoted(other)} and {quoted(name)}: expected one each, named as in the list"
                )
        new = {name: by_key[key][0] for key, name in claimed.items()}
        if new and way.remark:
            name, path = next(iter(new.items()))
            example = f"{quoted(name)} is {quoted(rest[path].as_posix())}"
            remarks.append(f"{len(new):,} found {way.remark}: {example}")
        paths |= new
        wanted = [name for name in wanted if name not in new]
        for path in new.values():
            del rest[path]
    return Matches(paths, tuple(sorted(path.as_posix() for path in rest.values())), tuple(remarks))


def _class_and_stem(path: PurePath) -> str:
    return "/".join((*path.parts[-2:-1], stem(path.name)))


def _normal(name: str) -> str:
    return "/".join(normalized(part) for part in stem(name).split("/"))


# Of names CLASS/FILE. Copies of a data set may have other suffixes, replaced characters, or no class folders.
CLASS_WAYS = (
    Way(None, stem, _class_and_stem),
    Way("by a normalized name", _normal, lambda path: _normal(_class_and_stem(path))),
    Way(
        "outside of their class's folder",
        lambda name: stem(PurePath(name).name),
        lambda path: stem(path.name),
    ),
)
