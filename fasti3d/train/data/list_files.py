"""Text files of a data set: lists, in any line ends, read whole and checked."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from fasti3d.train.data.video_dataset import DatasetError
from fasti3d.utils.naming import quoted
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.resources import is_resource_error

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """Return the text of a list: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        DatasetError: It cannot be read, is binary, or is in another encoding.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except (OSError, ValueError) as error:
        if is_resource_error(error):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{quoted(path)} cannot be read: {reason}: a list is needed") from error
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        what = (
            "is binary" if b"\0" in data else f"is not UTF-8 (byte {error.start} is {data[error.start]:#04x})"
        )
        raise DatasetError(f"{quoted(path)} {what}: a list is text, so save it as UTF-8") from error
    if "\0" in text:
        raise DatasetError(f"{quoted(path)} is binary: a list is text, so save it as UTF-8")
    return text


def text_lines(path: Path) -> list[str]:
    """Return the lines of a list, without their ends, which are of any system.

    Raises:
        DatasetError: As ``read_text``, or there is nothing in it.
    """
    text = read_text(path)
    if not text.strip():
        raise DatasetError(f"{quoted(path)} is empty: a list is needed")
    # Not splitlines(): some of what that splits at may be part of a name.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of each line that is not blank: "FILE, line 3" for messages, and the stripped text.

    Raises:
        DatasetError: As ``text_lines``.
    """
    for number, line in enumerate(text_lines(path), 1):
        if line.strip():
            yield f"{quoted(path)}, line {number}", line.strip()
