"""The names of videos in messages, and of their outputs."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

# Control characters, halves of characters (bytes that are not UTF-8), and ends of lines and paragraphs.
_UNSHOWN = frozenset({"Cc", "Cs", "Zl", "Zp"})

# Bytes in the name of a file, if the system does not say.
_MAX_NAME = 255
_DIGEST = 12


def is_shown(character: str) -> bool:
    """Return whether a character can be shown in a line of text as it is."""
    return unicodedata.category(character) not in _UNSHOWN


def quoted(path: str | os.PathLike[str]) -> str:
    """Return a path for a message of one line: as it is, or quoted and escaped if it cannot be shown so."""
    text = os.fspath(path)
    return text if all(map(is_shown, text)) else repr(text)


def output_name(video: str | os.PathLike[str], *, is_folder: bool = False) -> str:
    """Return the name of a video's output, which is one part of a path and never ``.`` or ``..``.

    It is the video's name without its suffix, what follows the last dot that is neither first nor last. It is
    the whole name for a folder of images, and if only dots would be left (``..mp4``); for a folder given as
    ``..`` or ``/``, the name that the folder has, or ``root``.

    Example:
        >>> output_name("in/walk.v2.mp4"), output_name("..mp4"), output_name("frames.d", is_folder=True)
        ('walk.v2', '..mp4', 'frames.d')
    """
    name = PurePath(video).name
    if name in ("", ".."):
        return Path(video).resolve().name or "root"
    dot = name.rfind(".")
    stem = name if is_folder or not 0 < dot < len(name) - 1 else name[:dot]
    return stem if stem.strip(".") else name


def shortened(name: str, folder: Path, added: int) -> str:
    """Return the name, cut and with a digest of the whole if ``added`` bytes more are too many for a file.

    Args:
        name: One part of a path.
        folder: The file's folder, which need not exist.
        added: Bytes that come before and after the name.
    """
    room = _longest_name(folder) - added
    if len(os.fsencode(name)) <= room:
        return name
    digest = "~" + hashlib.sha256(os.fsencode(name)).hexdigest()[:_DIGEST]
    kept = name
    while kept and len(os.fsencode(kept)) > room - len(digest):
        kept = kept[:-1]
    return kept + digest


def alike(names: Iterable[str], folder: Path) -> tuple[str, str] | None:
    """Return two different names that are one file in this folder, as if A and a are the same; else None.

    Names that differ only in case, in how accents are composed, or in dots and spaces at their ends are tried
    in the folder, in a temporary one.
    """
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(_folded(name), name)
        if other != name and _are_one(other, name, folder):
            return other, name
    return None


def _folded(name: str) -> str:
    parts = unicodedata.normalize("NFKC", name.casefold()).split("/")
    return "/".join(part.rstrip(". ") for part in parts)


def _are_one(name: str, other: str, folder: Path) -> bool:
    with TemporaryDirectory(dir=folder, prefix=".names.", suffix=".tmp") as place:
        try:
            os.makedirs(os.path.join(place, name))
        except (OSError, ValueError):
            return False  # no file can be called so
        return os.path.exists(os.path.join(place, other))


def _longest_name(folder: Path) -> int:
    for place in (folder, *folder.absolute().parents):
        try:
            return os.pathconf(place, "PC_NAME_MAX")
        except FileNotFoundError:
            continue
        except (AttributeError, OSError, ValueError):
            break
    return _MAX_NAME
