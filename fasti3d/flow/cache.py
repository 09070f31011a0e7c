"""The flow of a video as bytes in one file, which ``fasti3d flow --cache`` writes, to read any part of.

The file has a tag, the length of a header, the header in JSON (scheme, flows, width, height, settings), where
each flow ends, and the flows: uint8 (2, H, W) of ``encode_centered``, each deflated by itself.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.flow.encoding import LIMIT, decode_centered, encode_centered
from fasti3d.limits import MAX_SIDE
from fasti3d.utils.parsing import Json, brief, parse_json
from fasti3d.utils.plain_files import open_regular
from fasti3d.video.errors import VideoError, blamed

SUFFIX = ".flow"

_TAG = b"F3DFLOW1"
_HEADER = struct.Struct("<8sI")
_MAX_HEADER = 1 << 16
# How v pixels are stored; the older 127.5 + v * 127.5 / 20 has no level for no motion.
_SCHEME = "128 + v * 127 / 20"
# Fast, and within a tenth of the size of the best.
_LEVEL = 1

StrPath = str | os.PathLike[str]


def pack(flow: Tensor) -> bytes:
    """Return the stored form of a flow, float32 (2, H, W) in pixels."""
    return zlib.compress(encode_centered(flow).cpu().numpy().tobytes(), _LEVEL)


def write(
    file: IO[bytes], width: int, height: int, settings: Json, lengths: list[int], packed: Iterable[bytes]
) -> None:
    """Write flows that ``pack`` returned, whose lengths are known."""
    header = {
        "scheme": _SCHEME,
        "flows": len(lengths),
        "width": width,
        "height": height,
        "settings": settings,
    }
    text = json.dumps(header).encode()
    file.write(_HEADER.pack(_TAG, len(text)) + text)
    file.write(np.cumsum(lengths, dtype="<u8").tobytes())
    for piece in packed:
        file.write(piece)


class FlowCache:
    """The flow of one video, read from the file that ``fasti3d flow --cache`` wrote.

    Args:
        path: the file.

    Attributes:
        path: as given.
        width, height: of the flow, in pixels.
        settings: what it was made from and how, as ``fasti3d flow`` records it, ``fps`` and ``resize``
            among it.

    Raises:
        VideoError: no such file, or one that is damaged or of another scheme.

    Example:
        >>> FlowCache("flow/video.flow").read(100, 64).shape  # doctest: +SKIP
        (64, 2, 256, 340)
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        try:
            with open_regular(self.path) as file:
                self._read_header(file)
        except (OSError, ValueError) as error:
            raise blamed(self.path, f"cannot be read as flow: {brief(error)}", error) from error

    def __len__(self) -> int:
        """The number of flows."""
        return len(self._ends) - 1

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Flows ``first`` and those that follow, counted from 0: float32 (count, 2, H, W) in pixels.

        Raises:
            VideoError: there are not so many, or they are damaged.
        """
        if first + count > len(self):
            raise VideoError(
                self.path, f"holds {len(self)} flows, fewer than the {first + count} that are needed"
            )
        stored = np.empty((count, 2, self.height, self.width), np.uint8)
        try:
            with open_regular(self.path) as file:
                file.seek(self._data + self._ends[first])
                for i in range(count):
                    length = self._ends[first + i + 1] - self._ends[first + i]
                    stored[i] = self._unpacked(file.read(length))
        except (OSError, ValueError, zlib.error) as error:
            raise blamed(self.path, f"is damaged: {brief(error)}", error) from error
        return decode_centered(stored) * np.float32(LIMIT)

    def check_frames(self, count: int) -> None:
        """VideoError if these are not the flows of ``count`` frames."""
        if len(self) != count - 1:
            raise VideoError(
                self.path,
                f"holds {len(self)} flows, those of {len(self) + 1} frames, but the video has {count}: "
                "extract it again, at the same rate",
            )

    def _unpacked(self, packed: bytes) -> NDArray[np.uint8]:
        size = 2 * self.height * self.width
        inflating = zlib.decompressobj()
        data = inflating.decompress(packed, size)
        if len(data) != size or inflating.decompress(inflating.unconsumed_tail, 1):
            raise ValueError(f"a flow does not unpack to {size} bytes")
        return np.frombuffer(data, np.uint8).reshape(2, self.height, self.width)

    def _read_header(self, file: IO[bytes]) -> None:
        """Raises ValueError where something cannot be."""
        start = file.read(_HEADER.size)
        if not start.startswith(_TAG) or len(start) < _HEADER.size:
            raise ValueError(
                f"it starts with {start[:8]!r}, not {_TAG!r}, which `fasti3d flow --cache` writes"
            )
        _, length = _HEADER.unpack(start)
        header = parse_json(file.read(length)) if length <= _MAX_HEADER else None
        if not isinstance(header, dict) or not isinstance(header.get("settings"), dict):
            raise ValueError("its header is damaged")
        if header.get("scheme") != _SCHEME:
            raise ValueError(f"it stores flow as {brief(header.get('scheme'))}, and not as {_SCHEME}")
        flows, self.width, self.height = (_count(header, name) for name in ("flows", "width", "height"))
        self.settings: dict[str, Any] = header["settings"]
        size = os.fstat(file.fileno()).st_size
        self._data = file.tell() + 8 * flows
        if max(self.width, self.height) > MAX_SIDE or self._data > size:
            raise ValueError("it is cut off, or its header damaged")
        self._ends = [0, *np.frombuffer(file.read(8 * flows), "<u8").tolist()]
        if any(end < begin for begin, end in zip(self._ends, self._ends[1:], strict=False)):
            raise ValueError("its table of flows is damaged")
        if self._data + self._ends[-1] != size:
            raise ValueError(
                f"it is cut off: {self._data + self._ends[-1]:,} bytes are announced, it has {size:,}"
            )


def _count(header: dict[str, Any], name: str) -> int:
    value = header.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"its header gives {brief(value)} for {name}")
    return value


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what ``record`` wrote one after the other, up to what is cut off."""
    while len(start := file.read(4)) == 4:
        data = file.read(int.from_bytes(start, "little"))
        if len(data) < int.from_bytes(start, "little"):
            return
        yield data


def record(packed: bytes) -> bytes:
    """Return a flow with its length, as it is kept until all are there."""
    return len(packed).to_bytes(4, "little") + packed
