"""From the videos, folders and lists that are given to videos and the names of their outputs."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from fasti3d.extraction.formats import FILES
from fasti3d.utils.naming import output_name, quoted
from fasti3d.utils.resources import is_resource_error
from fasti3d.video.find import VIDEO_SUFFIXES, find_videos

# The report of videos that failed, in the output folder, and what locks it.
REPORT = "errors.jsonl"
REPORT_LOCK = f".{REPORT}.lock"

# Clashes shown before a message says how many more there are.
_MAX_SHOWN = 3


@dataclass(frozen=True, order=True)
class Source:
    """A video and the name of its output: a path under the output folder, without a suffix."""

    name: str
    path: Path


def find_sources(given: Iterable[str | os.PathLike[str]]) -> list[Source]:
    """Return the videos that are given, sorted by the names of their outputs.

    Args:
        given: Each one of

            - a video file: its output has its name, without the suffix;
            - a folder with images and no videos: one video, named as the folder;
            - any other folder: all videos in it and in its folders (by their suffixes; hidden ones are left
              out, links followed), and folders of images. Outputs lie in folders as the videos do;
            - a list, ``.txt`` in UTF-8: one path per line, relative to the list's own folder; empty lines and
              those that start with # are skipped. Outputs of relative paths lie in the same folders, but for
              paths that lead upwards with ``..``; of those and of absolute paths only the last part counts. A
              path in a list need not exist, nor be a possible name of a file: that is found when it is read.

            The last part of an output's name is that of ``fasti3d.utils.naming.output_name``; a first part
            that is the name of the report, ``errors.jsonl``, or of its lock, gets an underscore.

    Raises:
        ValueError: A source is missing, a folder or list holds no videos or cannot be read, or two videos
            would have the same output, or one of them a file where the other needs a folder.

    Example:
        >>> [source.name for source in find_sources(["videos/walk.mp4"])]  # doctest: +SKIP
        ['walk']
    """
    sources: dict[str, Source] = {}
    clashes: list[str] = []
    for path in map(Path, given):
        for source in _sources(path):
            other = sources.setdefault(source.name, source)
            if other.path.absolute() != source.path.absolute():
                clashes.append(_clash(other, source))
    clashes += _in_the_way(sources)
    if clashes:
        raise ValueError(
            f"the features of two videos would have the same name: {_some(clashes)}. Rename one of them, or "
            "give a folder that holds both in folders of their own"
        )
    return sorted(sources.values())


def _clash(one: Source, other: Source) -> str:
    return f"{quoted(one.path)} and {quoted(other.path)} ({quoted(other.name)})"


def _in_the_way(sources: dict[str, Source]) -> list[str]:
    """Clashes of a file that a video may need with a folder that another one needs."""
    within: dict[str, Source] = {}
    for source in sources.values():
        for folder in PurePath(source.name).parents:
            within.setdefault(folder.as_posix(), source)
    clashes = []
    for place, source in within.items():
        head, _, last = place.rpartition("/")
        for before, after in FILES:
            if last.startswith(before) and last.endswith(after):
                stem = last[len(before) : len(last) - len(after)]
                other = sources.get(f"{head}/{stem}" if head else stem)
                if other is not None:
                    clashes.append(_clash(other, source))
    return clashes


def _sources(path: Path) -> Iterator[Source]:
    # Unlike Path's own, these do not raise for what no file can be called.
    if os.path.isdir(path):
        found = list(_in_folder(path))
        if not found:
            raise ValueError(
                f"{quoted(path)} holds neither videos ({', '.join(VIDEO_SUFFIXES)}) nor folders of images: "
                "give videos of other suffixes one by one, or in a list.txt"
            )
        yield from found
    elif not os.path.exists(path):
        raise ValueError(f"{quoted(path)} is not there")
    elif path.suffix.lower() == ".txt":
        yield from _in_list(path)
    else:
        yield _source(PurePath(path.name), path)


def _in_folder(top: Path) -> Iterator[Source]:
    for video in find_videos(top):
        yield _source(PurePath() if video == top else video.relative_to(top), video)


def _in_list(path: Path) -> Iterator[Source]:
    try:
        data = path.read_bytes()
    except OSError as error:
        if is_resource_error(error):
            raise
        raise ValueError(f"{quoted(path)} cannot be read: {error.strerror or error}") from None
    # Windows' editors begin a file with a mark of its encoding.
    text = data.decode("utf-8-sig", errors="surrogateescape")
    # Not splitlines(): names may hold what Unicode counts as ends of lines.
    entries = [
        line.strip() for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")
    ]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (
        entries and all("\0" in entry for entry in entries)
    ):
        raise ValueError(
            f"{quoted(path)} is not a list of paths in UTF-8, but UTF-16 or full of zero bytes: save it as "
            "UTF-8"
        )
    if not entries:
        raise ValueError(f"{quoted(path)} lists no videos")
    for entry in entries:
        relative = PurePath(entry)
        plain = relative.is_absolute() or ".." in relative.parts
        yield _source(PurePath(relative.name) if plain else relative, path.parent / entry)


def _source(named: PurePath, video: Path) -> Source:
    """A video whose output lies in the folders of ``named``."""
    name = PurePath(named.parent, output_name(video, is_folder=os.path.isdir(video)))
    first, *others = name.parts
    if first in (REPORT, REPORT_LOCK):
        name = PurePath(f"{first}_", *others)
    return Source(name.as_posix(), video)


def _some(texts: list[str]) -> str:
    more = len(texts) - _MAX_SHOWN
    return "; ".join(texts[:_MAX_SHOWN]) + (f"; and {more} more" if more > 0 else "")
