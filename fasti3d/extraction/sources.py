"""From what the user names, a video, a folder or a list, to videos and the names of their outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from fasti3d.video.find import VIDEO_SUFFIXES, find_videos

# Clashes and files that are shown before a message says how many more there are.
_SHOWN = 3


@dataclass(frozen=True, order=True)
class Source:
    """A video and the name of its output: a path under the output folder, without a suffix."""

    name: str
    path: Path


def find_sources(given: Iterable[str | os.PathLike[str]]) -> list[Source]:
    """The videos that are named, in order of their outputs' names.

    Args:
        given: each one of

            - a video file: its output is called as it is, without the suffix;
            - a folder with images and no videos: one video, called as the folder;
            - any other folder: all videos in it and in its folders (by their suffixes; hidden ones are left
              out, links followed), and folders of images. Outputs lie in folders as the videos do;
            - a list, ``.txt`` in UTF-8: a path a line, from the list's own folder on; empty lines and those
              that start with # are skipped. Outputs of relative paths lie in folders as these say, but for
              paths that lead upwards with ``..``; those and absolute paths give their last part alone. What
              a list names need not be there: that is for whoever reads it to find.

    Raises:
        ValueError: nothing there, a folder or list without videos or that cannot be read, or two videos with
            the same output.
    """
    sources: dict[str, Source] = {}
    clashes: list[str] = []
    for path in map(Path, given):
        for source in _sources(path):
            other = sources.setdefault(source.name, source)
            if other.path.absolute() != source.path.absolute():
                clashes.append(f"{other.path} and {source.path} ({source.name})")
    if clashes:
        raise ValueError(
            f"the features of two videos would have the same name: {_some(clashes)}. Rename one of them, or "
            "give a folder that holds both in folders of their own"
        )
    return sorted(sources.values())


def _sources(path: Path) -> Iterator[Source]:
    if path.is_dir():
        found = list(_in_folder(path))
        if not found:
            raise ValueError(
                f"{path} holds neither videos ({', '.join(VIDEO_SUFFIXES)}) nor folders of images: "
                "give videos of other suffixes one by one, or in a list.txt"
            )
        yield from found
    elif not path.exists():
        raise ValueError(f"{path} is not there")
    elif path.suffix.lower() == ".txt":
        yield from _in_list(path)
    else:
        yield Source(path.stem, path)


def _in_folder(top: Path) -> Iterator[Source]:
    for video in find_videos(top):
        named = PurePath(top.absolute().name) if video == top else video.relative_to(top)
        yield Source(_output(named, video), video)


def _in_list(path: Path) -> Iterator[Source]:
    try:
        # Windows' editors begin a file with a mark of its encoding.
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    if "\0" in text:
        raise ValueError(
            f"{path} is no list of paths in UTF-8, but holds zero bytes, as UTF-16 does: save it as UTF-8"
        )
    # Not splitlines(): names may hold what Unicode counts as ends of lines.
    entries = [
        line.strip() for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#")
    ]
    if not entries:
        raise ValueError(f"{path} lists no videos")
    for entry in entries:
        video = path.parent / entry
        relative = PurePath(entry)
        plain = relative.is_absolute() or ".." in relative.parts
        named = PurePath(relative.name) if plain else relative
        yield Source(_output(named, video), video)


def _output(named: PurePath, video: Path) -> str:
    return (named if video.is_dir() else named.with_suffix("")).as_posix()


def _some(texts: list[str]) -> str:
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
