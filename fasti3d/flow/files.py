"""Flow in files: Middlebury's .flo, KITTI's 16-bit PNG and denseflow's pairs of JPEGs."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from torch import Tensor

from fasti3d.flow.arrays import as_flow, as_tensor
from fasti3d.flow.colour import UNKNOWN
from fasti3d.flow.encoding import encode_denseflow
from fasti3d.flow.jpeg import encode_grey_jpeg
from fasti3d.utils.plain_files import open_regular, remove_planted
from fasti3d.utils.resources import is_resource_error

StrPath = str | os.PathLike[str]

_FLO_TAG = struct.pack("<f", 202021.25)  # b"PIEH"
_FLO_HEADER = struct.Struct("<4sii")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The signature, and of the chunk that comes first its length, its name and the fields that matter.
_PNG_HEADER = struct.Struct(">8sI4sIIBB")
_PNG_END = b"IEND\xaeB`\x82"
_PNG_RGB = 2
# A damaged chunk is an error; otherwise the decoder would go on without it.
_PNG_OPTIONS = {"err_detect": "crccheck+explode"}
# Measured flow shrinks to a third. Of an image of 128 MiB, as large as 4K frames give, anything goes, up to
# the 1,032 times that deflate can at most; a larger one must bring a share of its bytes.
_DEFLATE_RATIO, _RATIO, _ALWAYS = 1032, 64, 128 << 20

# KITTI stores a component v as v * 64 + 2^15 in 16 bits.
_KITTI_UNIT = 64
_KITTI_ZERO = 1 << 15
_KITTI_LEAST, _KITTI_MOST = -_KITTI_ZERO / _KITTI_UNIT, (_KITTI_ZERO - 1) / _KITTI_UNIT


def read_flo(path: StrPath) -> NDArray[np.float32]:
    """Reads a flow in Middlebury's .flo format.

    Returns:
        float32 (2, H, W), in pixels, x first. Pixels of unknown flow hold what the file holds: not a
        number, or more than 1e9.

    Raises:
        ValueError: not such a file, or one that is cut off or goes on after its end.
        OSError: a file that cannot be read.

    Source: vision.middlebury.edu/flow/code/flow-code/README.txt.
    """
    path = Path(path)
    with open_regular(path) as file:
        header = file.read(_FLO_HEADER.size)
        if header[:4] != _FLO_TAG:
            raise ValueError(f"{path} is not a .flo file: it starts with {header[:4]!r}, not {_FLO_TAG!r}")
        if len(header) < _FLO_HEADER.size:
            raise ValueError(f"{path} is cut off in its header, after {len(header)} bytes")
        _, width, height = _FLO_HEADER.unpack(header)
        if width < 1 or height < 1:
            raise ValueError(f"{path} is broken: it announces {width}x{height} pixels")
        size, wanted = os.fstat(file.fileno()).st_size, _FLO_HEADER.size + width * height * 8
        if size != wanted:
            raise ValueError(
                f"{path} is {'cut off' if size < wanted else 'too long'}: {width}x{height} pixels, which it "
                f"announces, take {wanted} bytes, but it has {size}"
            )
        pixels = np.frombuffer(file.read(), "<f4").reshape(height, width, 2)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


def write_flo(path: StrPath, flow: NDArray[Any] | Tensor) -> None:
    """Writes a flow in Middlebury's .flo format. The file appears whole or not at all.

    Args:
        path: the file.
        flow: (2, H, W), in pixels, x first; NumPy or torch, on any device. Stored as float32, whatever
            it holds.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape.
        OSError: a place that cannot be written.
    """
    pixels = _pixels(flow)
    height, width, _ = pixels.shape
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_FLO_HEADER.pack(_FLO_TAG, width, height))
        file.write(pixels.astype("<f4").tobytes())


def read_kitti_png(path: StrPath) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Reads a flow in KITTI's format, a PNG of 16 bits a channel.

    Returns:
        flow: float32 (2, H, W), in pixels, x first; not a number where it is not valid.
        valid: bool (H, W).

    Raises:
        ValueError: not such a file, or a broken one.
        OSError: a file that cannot be read.

    Source: the development kit of KITTI's 2015 optical flow benchmark, readme.txt.
    """
    path = Path(path)
    with open_regular(path) as file:
        data = file.read()
    _check_png(path, data)
    context = VideoCodecContext.create("png", "r")
    context.options = _PNG_OPTIONS
    try:
        (frame,) = [*context.decode(Packet(data)), *context.decode(None)]
    except (FFmpegError, ValueError) as error:
        if is_resource_error(error):
            raise
        raise ValueError(f"{path} is broken: its PNG image cannot be decoded") from error
    pixels = frame.to_ndarray()
    valid = pixels[..., 2] != 0
    flow = (pixels[..., :2].astype(np.float32) - _KITTI_ZERO) / _KITTI_UNIT
    flow[~valid] = np.nan
    return np.ascontiguousarray(flow.transpose(2, 0, 1)), valid


def write_kitti_png(
    path: StrPath, flow: NDArray[Any] | Tensor, *, valid: NDArray[Any] | Tensor | None = None
) -> None:
    """Writes a flow in KITTI's format, a PNG of 16 bits a channel, to 1/64 pixel.

    The file appears whole or not at all.

    Args:
        path: the file.
        flow: (2, H, W), in pixels, x first; NumPy or torch, on any device.
        valid: (H, W), 0 where the flow is not valid. None means: valid wherever it is known, that is a
            number and not beyond 1e9.

    Raises:
        TypeError: neither NumPy nor torch.
        ValueError: another shape, or valid flow out of the format's range, -512 to 511.98 pixels.
        OSError: a place that cannot be written.
    """
    pixels = _pixels(flow)
    if valid is None:
        mask = (np.abs(pixels) <= UNKNOWN).all(axis=2)
    else:
        mask = as_tensor("valid", valid).cpu().numpy() != 0
        if mask.shape != pixels.shape[:2]:
            raise ValueError(f"valid must be of shape {pixels.shape[:2]} for this flow, got {mask.shape}")
    units = np.rint(pixels[mask] * np.float64(_KITTI_UNIT)) + _KITTI_ZERO
    wrong = ~((units >= 0) & (units < 1 << 16))
    if wrong.any():
        raise ValueError(
            f"flow must lie between {_KITTI_LEAST:g} and {_KITTI_MOST:.2f} pixels for a KITTI PNG, got "
            f"{pixels[mask][wrong][0]:g}: mark such pixels as not valid, or write a .flo file"
        )
    image = np.zeros((*mask.shape, 3), np.uint16)
    image[mask, :2] = units
    image[..., 2] = mask
    write_png(path, image)


def write_png(path: StrPath, rgb: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Writes an image, (H, W, 3) of 8 or 16 bits, as a PNG that appears whole or not at all."""
    frame = VideoFrame.from_ndarray(rgb, format="rgb24" if rgb.dtype == np.uint8 else "rgb48be")
    context = VideoCodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base = Fraction(1, 25)  # asked for, and not used
    packets = [*context.encode(frame), *context.encode(None)]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(bytes(packet) for packet in packets))


def write_denseflow(paths: tuple[Path, Path], flow: NDArray[Any] | Tensor, *, bound: float) -> None:
    """Writes a flow (2, H, W) as denseflow does, x and y as grey JPEGs that appear whole or not at all."""
    pictures = encode_denseflow(as_flow("flow", flow), bound).cpu().numpy()
    for path, picture in zip(paths, pictures, strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(encode_grey_jpeg(picture))


@contextmanager
def replacing(path: StrPath) -> Iterator[Path]:
    """A name beside ``path`` to write to, which takes its place if the block ends well.

    Unlike ``weights.files.write_atomically`` it does not wait for the disk: after a power cut the file
    may be lost, but a process that is killed never leaves part of one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove_planted(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _pixels(flow: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    """(2, H, W) -> float32 (H, W, 2), on the CPU."""
    tensor = as_flow("flow", flow)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(
            f"flow must be of shape (2, H, W), with pixels, got {tuple(tensor.shape)}: one file, one flow"
        )
    return tensor.detach().permute(1, 2, 0).cpu().numpy()


def _check_png(path: Path, data: bytes) -> None:
    """ValueError for what is no PNG of three channels of 16 bits, or not all of one."""
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{path} is not a PNG file: it starts with {data[:8]!r}")
    if len(data) < _PNG_HEADER.size:
        raise ValueError(f"{path} is cut off in its header, after {len(data)} bytes")
    _, _, kind, width, height, bits, colour = _PNG_HEADER.unpack_from(data)
    if kind != b"IHDR":
        raise ValueError(f"{path} is broken: a PNG file starts with its header, not with {kind!r}")
    if (bits, colour) != (16, _PNG_RGB):
        raise ValueError(
            f"{path} is no KITTI flow: that is a PNG of three channels of 16 bits (bit depth 16, colour type "
            f"{_PNG_RGB}), and this has bit depth {bits}, colour type {colour}"
        )
    announced = width * height * 6
    if announced > len(data) * _DEFLATE_RATIO or _PNG_END not in data:
        raise ValueError(f"{path} is cut off: {len(data)} bytes of an image of {width}x{height} pixels")
    if announced > (most := max(_ALWAYS, len(data) * _RATIO)):
        raise ValueError(
            f"{path} announces {width}x{height} pixels, {announced:,} bytes, in {len(data):,}, and at most "
            f"{most:,} are unpacked from so few: write a .flo file"
        )
