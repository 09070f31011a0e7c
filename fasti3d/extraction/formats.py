"""The files of a video's features, format by format.

The layout video_features is what v-iashin/video_features writes for I3D: NAME_rgb.npy, NAME_flow.npy,
NAME_fps.npy and NAME_timestamps_ms.npy, in float64. Like that tool it reads N+1 frames for a window of N,
so that both streams have N. At the rate of the video itself and with a stack that is a multiple of 4, the
RGB stream also has its values from the same weights: frames are converted as by OpenCV and scaled as by
Pillow, and batch norms have the eps of its network, 1e-5. For another rate that tool encodes videos again;
it pads other lengths otherwise, does not deinterlace, and its flow is that of RAFT or PWC-Net.

The layout anomaly is what RTFM and other detectors of anomalies read: NAME.npy, (snippets, 10, channels).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import numpy as np

from fasti3d.extraction.rows import Row
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.extraction.spool import Spool
from fasti3d.utils.archives import array_member

Write = Callable[[IO[bytes]], None]

# What the names of all files can end in, after the video's name.
SUFFIXES = (".npy", "_rgb.npy", "_flow.npy", "_fps.npy", "_timestamps_ms.npy", ".npz", ".safetensors")
RECORD = ".json"
# What comes before and after a video's name in the names of all files that work on it can make.
FILES = (
    (".", ".lock"),
    *(("", suffix) for suffix in (RECORD, *SUFFIXES)),
    *((".", f"{suffix}.tmp") for suffix in (RECORD, *SUFFIXES)),
)


@dataclass(frozen=True)
class Contents:
    """What the files of one video hold.

    Attributes:
        streams: The features of each stream.
        where: Where each of their rows comes from.
        metadata: What was done, in JSON's types.
        rate: Frames per second.
    """

    streams: Mapping[str, Spool]
    where: list[Row]
    metadata: dict[str, Any]
    rate: float


def suffixes(settings: ExtractionSettings) -> list[str]:
    """Return what the names of the files end in that these settings make."""
    if settings.format != "npy":
        return [f".{settings.format}"]
    if settings.layout == "anomaly":
        return [".npy"]
    own = [f"_{name}.npy" for name in settings.names]
    return [*own, "_fps.npy", "_timestamps_ms.npy"] if settings.layout == "video_features" else own


def writers(settings: ExtractionSettings, contents: Contents) -> dict[str, Write]:
    """Return what writes each file, by what its name ends in."""
    if settings.format == "npz":
        return {".npz": lambda file: _write_npz(file, contents)}
    if settings.format == "safetensors":
        return {".safetensors": lambda file: _write_safetensors(file, contents.streams)}
    files: dict[str, Write] = {}
    # video_features makes lists of its features, and arrays of those.
    dtype = "<f8" if settings.layout == "video_features" else "<f4"
    for name, spool in contents.streams.items():
        suffix = ".npy" if settings.layout == "anomaly" else f"_{name}.npy"
        files[suffix] = partial(_write_spool, spool=spool, dtype=dtype)
    if settings.layout == "video_features":
        # When the last frame of a window's last pair is shown, as there.
        stamps = np.array([1000 * row.end_seconds for row in contents.where])
        files["_fps.npy"] = lambda file: np.save(file, np.array(contents.rate))
        files["_timestamps_ms.npy"] = lambda file: np.save(file, stamps)
    return files


def _write_spool(file: IO[bytes], spool: Spool, dtype: str = "<f4") -> None:
    header = {"descr": dtype, "fortran_order": False, "shape": spool.shape}
    np.lib.format.write_array_header_1_0(file, header)
    spool.copy_to(file, dtype)


def _write_npz(file: IO[bytes], contents: Contents) -> None:
    columns = {name: np.array(values) for name, values in columns_of(contents.where).items()}
    metadata = np.array(json.dumps(contents.metadata))
    with zipfile.ZipFile(file, "w") as archive:
        for name, spool in contents.streams.items():
            with array_member(archive, name) as member:
                _write_spool(member, spool)
        for name, values in (columns | {"metadata": metadata}).items():
            with array_member(archive, name) as member:
                np.lib.format.write_array(member, values)


def _write_safetensors(file: IO[bytes], streams: Mapping[str, Spool]) -> None:
    """The format itself, since its library needs all of a file in memory."""
    header: dict[str, Any] = {}
    offset = 0
    for name, spool in streams.items():
        end = offset + spool.nbytes
        header[name] = {"dtype": "F32", "shape": spool.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for spool in streams.values():
        spool.copy_to(file)


def columns_of(where: list[Row]) -> dict[str, list[Any]]:
    """Return the fields of all rows, field by field."""
    return {name: [getattr(row, name) for row in where] for name in Row._fields}
