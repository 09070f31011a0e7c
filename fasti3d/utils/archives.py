"""Zip archives and NumPy arrays: every declared size is checked before anything is unpacked.

Those that are written have equal bytes for equal content.
"""

from __future__ import annotations

import ast
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasti3d.utils.parsing import brief, first_line
from fasti3d.utils.resources import is_resource_error

# The size that any archive may unpack to: that of an I3D in float64, or of some clips of one colour.
_ALWAYS = 128 << 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_ENCRYPTED = 0x1

_MAGIC = b"\x93NUMPY"
# A plain array's header has about a hundred characters.
_MAX_HEADER = 2048
# The first date that the zip format knows.
_DATE = (1980, 1, 1, 0, 0, 0)
_DTYPE = re.compile(r"[<>|=]?[a-zA-Z?]\d{0,9}")


class ArchiveError(ValueError):
    """An archive or array is damaged, or declares more than it holds; the caller names the file."""


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Turn any error of malformed bytes, of which zipfile, zlib and NumPy raise many, into an ArchiveError.

    An ArchiveError, an OSError and a lack of memory pass as they are.
    """
    try:
        yield
    except (ArchiveError, OSError):
        raise
    except Exception as error:
        if is_resource_error(error):
            raise
        raise ArchiveError(f"{what} is damaged or cut short: {first_line(error)}") from error


class Archive:
    """A zip archive whose members are stored or deflated, none encrypted, none twice.

    Args:
        file: Open for reading, seekable.
        ratio: How many times its own size it may unpack to; 128 MiB are always allowed.

    Raises:
        ArchiveError: It is damaged, of another kind, or declares more than that.
    """

    def __init__(self, file: IO[bytes], *, ratio: int) -> None:
        with damaged("the archive"):
            size = file.seek(0, 2)
            file.seek(0)
            self._zip = zipfile.ZipFile(file)
            members = self._zip.infolist()
            for member in members:
                if member.flag_bits & _ENCRYPTED:
                    raise ArchiveError(f"{brief(member.filename)} is encrypted: save it without a password")
                if member.compress_type not in _METHODS:
                    raise ArchiveError(
                        f"{brief(member.filename)} is compressed by method {member.compress_type}, and only "
                        "stored and deflated members are read: save it with np.savez"
                    )
            self._members = {member.filename: member for member in members}
            if len(self._members) < len(members):
                raise ArchiveError("it has two members of one name: save it again")
            if sum(member.compress_size for member in members) > size or any(
                member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size
                for member in members
            ):
                raise ArchiveError("the archive is damaged: its members declare more bytes than it has")
            limit = max(_ALWAYS, ratio * size)
            if (declared := sum(member.file_size for member in members)) > limit:
                raise ArchiveError(
                    f"it declares {declared:,} bytes in {size:,}, and at most {limit:,} are unpacked from "
                    "so few: save it uncompressed"
                )

    @property
    def names(self) -> list[str]:
        """The names of its members, in order."""
        return list(self._members)

    def size(self, name: str) -> int:
        """Return the unpacked bytes of a member; ArchiveError if it does not exist."""
        if name not in self._members:
            raise ArchiveError(f"it has no member {brief(name)}")
        return self._members[name].file_size

    @contextmanager
    def member(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member to read from; ArchiveError if it turns out to be damaged."""
        self.size(name)
        with damaged(f"{brief(name)} in the archive"), self._zip.open(name) as file:
            yield file

    def read(self, name: str) -> bytes:
        """Return a member's bytes."""
        with self.member(name) as file:
            return file.read()

    def array(self, name: str) -> NDArray[Any]:
        """Return the array of a member that is an .npy file of numbers or text."""
        with self.member(name) as file:
            return read_array(file, self.size(name))


class Header(NamedTuple):
    """The description of an .npy file's array, whose data begin at ``offset``."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an .npy file; the caller checks that the array is complete.

    Raises:
        ArchiveError: It is not such a file, or an array with fields.
    """
    start = file.read(10)
    if start[:6] != _MAGIC or len(start) < 10:
        raise ArchiveError(f"it is not a NumPy array: it starts with {start!r}")
    if start[6] not in (1, 2, 3):
        raise ArchiveError(f"it is of version {start[6]} of NumPy's format: save it with np.save")
    prefix = start[8:] if start[6] == 1 else start[8:] + file.read(2)
    length = int.from_bytes(prefix, "little")
    text = file.read(length) if length <= _MAX_HEADER else b""
    try:
        # Of so short a text it needs little memory.
        fields = ast.literal_eval(text.decode("latin-1"))
        shape, descr, fortran = (fields[name] for name in ("shape", "descr", "fortran_order"))
        fits = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape) and len(shape) <= 32
        dtype = np.dtype(descr) if _DTYPE.fullmatch(descr) else None
    except Exception as error:  # malformed text can raise nearly anything
        raise ArchiveError("its header is damaged: save it again with np.save") from error
    if not fits or dtype is None:
        raise ArchiveError(f"it holds {brief(descr)} of shape {brief(shape)}, and only plain arrays are read")
    return Header(shape, dtype, bool(fortran), 8 + len(prefix) + length)


def read_array(file: IO[bytes], size: int) -> NDArray[Any]:
    """Read the array of an .npy file of ``size`` bytes into memory of its own.

    Raises:
        ArchiveError: As ``read_header``, or the array is of objects or cut off.
    """
    header = read_header(file)
    if header.dtype.hasobject or not header.dtype.itemsize:
        raise ArchiveError(f"it holds {header.dtype}, and only plain numbers are read")
    if header.nbytes > (held := size - header.offset):
        raise ArchiveError(
            f"it is cut off: shape {header.shape} in {header.dtype} takes {header.nbytes:,} bytes, and "
            f"the file holds {held:,}"
        )
    data = bytearray(file.read(header.nbytes))
    order = "F" if header.fortran else "C"
    return np.frombuffer(data, header.dtype).reshape(header.shape, order=order)  # type: ignore[call-overload]


@contextmanager
def array_member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """Open the member of an archive to which the .npy of array ``name`` is written, for ``np.load``."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as file:
        yield file
