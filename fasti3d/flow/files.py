"""Flow in files: Middlebury's .flo, KITTI's 16-bit PNG and denseflow's pairs of JPEGs."""

from __future__ import annotations

import os
import struct
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
from fasti3d.utils.files import atomic_file
from fasti3d.utils.plain_files import open_regular
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
# Measured flow shrinks to a third. Images of up to 128 MiB, as large as 4K frames give, may shrink as far as
# deflate can, 1,032 times; a larger one must bring a share of its bytes.
_MAX_DEFLATE_RATIO, _MAX_RATIO, _ALWAYS = 1032, 64, 128 << 20

# KITTI stores a component v as v * 64 + 2^15 in 16 bits.
_KITTI_UNIT = 64
_KITTI_ZERO = 1 << 15
_KITTI_MIN, _KITTI_MAX = -_KITTI_ZERO / _KITTI_UNIT, (_KITTI_ZERO - 1) / _KITTI_UNIT


def read_flo(path: StrPath) -> NDArray[np.float32]:
    """Read a flow in Middlebury's .flo format.

    Args:
        path: The file.

    Returns:
        float32 (2, H, W), in pixels, x first. Pixels of unknown flow hold what the file holds: NaN, or more
        than 1e9.

    Raises:
        ValueError: The file is of another format, cut off, or too long.
        OSError: The file cannot be read.

    Example:
        >>> read_flo("flow_000000.flo").shape  # doctest: +SKIP
        (2, 256, 340)

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
    """Write a flow in Middlebury's .flo format. The file appears whole or not at all.

    Args:
        path: The file.
        flow: (2, H, W), in pixels, x first; NumPy or torch, on any device. Stored as float32, unknown flow
            included.

    Raises:
        TypeError: ``flow`` is neither NumPy nor torch.
        ValueError: ``flow`` has another shape.
        OSError: The file cannot be written.

    Example:
        >>> write_flo("flow_000000.flo", fasti3d.tvl1(first, second))  # doctest: +SKIP
    """
    pixels = _pixels(flow)
    height, width, _ = pixels.shape
    with atomic_file(Path(path), durable=False) as file:
        file.write(_FLO_HEADER.pack(_FLO_TAG, width, height))
        file.write(pixels.astype("<f4").tobytes())


def read_kitti_png(path: StrPath) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read a flow in KITTI's format, a PNG of 16 bits per channel.

    Args:
        path: The file.

    Returns:
        flow: float32 (2, H, W), in pixels, x first; NaN where it is not valid.
        valid: bool (H, W).

    Raises:
        ValueError: The file is of another format, or damaged.
        OSError: The file cannot be read.

    Example:
        >>> flow, valid = read_kitti_png("000000_10.png")  # doctest: +SKIP

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
    """Write a flow in KITTI's format, a PNG of 16 bits per channel, to 1/64 pixel.

    The file appears whole or not at all.

    Args:
        path: The file.
        flow: (2, H, W), in pixels, x first; NumPy or torch, on any device.
        valid: (H, W), 0 where the flow is not valid. None is valid wherever the flow is known: not NaN, and
            at most 1e9.

    Raises:
        TypeError: ``flow`` or ``valid`` is neither NumPy nor torch.
        ValueError: A shape is another, or valid flow is outside the format's range, -512 to 511.98 pixels.
        OSError: The file cannot be written.

    Example:
        >>> write_kitti_png("000000_10.png", fasti3d.tvl1(first, second))  # doctest: +SKIP
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
            f"flow must lie between {_KITTI_MIN:g} and {_KITTI_MAX:.2f} pixels for a KITTI PNG, got "
            f"{pixels[mask][wrong][0]:g}: mark such pixels as not valid, or write a .flo file"
        )
    image = np.zeros((*mask.shape, 3), np.uint16)
    image[mask, :2] = units
    image[..., 2] = mask
    write_png(path, image)


def write_png(path: StrPath, rgb: NDArray[np.uint8] | NDArray[np.uint16]) -> None:
    """Write an image, uint8 or uint16 (H, W, 3), as a PNG that appears whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    frame = VideoFrame.from_ndarray(rgb, format="rgb24" if rgb.dtype == np.uint8 else "rgb48be")
    context = VideoCodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, frame.format.name
    context.time_base = Fraction(1, 25)  # required, and not used
    packets = [*context.encode(frame), *context.encode(None)]
    with atomic_file(Path(path), durable=False) as file:
        file.write(b"".join(bytes(packet) for packet in packets))


def write_denseflow(paths: tuple[Path, Path], flow: NDArray[Any] | Tensor, *, bound: float) -> None:
    """Write a flow (2, H, W) in pixels as denseflow does: x and y as grey JPEGs, each whole or not at all.

    Args:
        paths: The files of x and y.
        flow: NumPy or torch, on any device.
        bound: The motion in pixels at which it is clipped.

    Raises:
        OSError: A file cannot be written.
    """
    pictures = encode_denseflow(as_flow("flow", flow), bound).cpu().numpy()
    for path, picture in zip(paths, pictures, strict=True):
        with atomic_file(path, durable=False) as file:
            file.write(encode_grey_jpeg(picture))


def _pixels(flow: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    """(2, H, W) -> float32 (H, W, 2), on the CPU."""
    tensor = as_flow("flow", flow)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(
            f"flow must be of shape (2, H, W), with pixels, got {tuple(tensor.shape)}: one file, one flow"
        )
    return tensor.detach().permute(1, 2, 0).cpu().numpy()


def _check_png(path: Path, data: bytes) -> None:
    """ValueError unless it is a whole PNG of three channels of 16 bits."""
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError(f"{path} is not a PNG file: it starts with {data[:8]!r}")
    if len(data) < _PNG_HEADER.size:
        raise ValueError(f"{path} is cut off in its header, after {len(data)} bytes")
    _, _, kind, width, height, bits, colour = _PNG_HEADER.unpack_from(data)
    if kind != b"IHDR":
        raise ValueError(f"{path} is broken: a PNG file starts with its header, not with {kind!r}")
    if (bits, colour) != (16, _PNG_RGB):
        raise ValueError(
            f"{path} is not a KITTI flow: that is a PNG of three channels of 16 bits (bit depth 16, colour "
            f"type {_PNG_RGB}), and this has bit depth {bits}, colour type {colour}"
        )
    announced = width * height * 6
    if announced > len(data) * _MAX_DEFLATE_RATIO or _PNG_END not in data:
        raise ValueError(f"{path} is cut off: {len(data)} bytes of an image of {width}x{height} pixels")
    if announced > (limit := max(_ALWAYS, len(data) * _MAX_RATIO)):
        raise ValueError(
            f"{path} announces {width}x{height} pixels, {announced:,} bytes, in {len(data):,}, and at most "
            f"{limit:,} are unpacked from so few: write a .flo file"
        )
