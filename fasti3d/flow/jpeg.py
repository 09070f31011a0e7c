"""Gray images as JPEG files, which FFmpeg does not write: baseline, quality 95, which is OpenCV's default."""

from __future__ import annotations

import struct
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

QUALITY = 95
# Lengths are stored in 16 bits.
MAX_SIDE = 65535

_SIDE = 8
# Table K.1 of the standard, for quality 50, row by row.
_LUMINANCE = np.array(
    [
        *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
        *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
        *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
        *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
    ]
)
# Scaled as by the Independent JPEG Group's library for qualities of 50 and more.
_STEPS = np.maximum((_LUMINANCE * (200 - 2 * QUALITY) + 50) // 100, 1)

# Codes of tables K.3 and K.5: how many there are of each length from 1 bit on, and what they stand for.
_DC_COUNTS = (0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
_DC_SYMBOLS = bytes(range(12))
_AC_COUNTS = (0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125)
_AC_SYMBOLS = bytes.fromhex(
    "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728"
    "292a3435363738393a434445464748494a535455565758595a636465666768696a737475767778797a83848586878889"
    "8a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2"
    "e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
)
_END_OF_BLOCK, _SIXTEEN_ZEROS = 0x00, 0xF0

Ints = NDArray[np.int64]


def encode_grey_jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode a uint8 image (H, W), with sides of 1 to 65535, as a JPEG file of one component.

    Source: ITU-T T.81, the JPEG standard; JFIF 1.01.
    """
    height, width = image.shape
    header = b"".join(
        (
            b"\xff\xd8",
            _segment(0xE0, b"JFIF\0" + bytes((1, 1, 0, 0, 1, 0, 1, 0, 0))),
            _segment(0xDB, b"\0" + bytes(_STEPS[_ZIGZAG].tolist())),
            _segment(0xC0, struct.pack(">BHHB", 8, height, width, 1) + bytes((1, 0x11, 0))),
            _segment(0xC4, b"\x00" + bytes(_DC_COUNTS) + _DC_SYMBOLS),
            _segment(0xC4, b"\x10" + bytes(_AC_COUNTS) + _AC_SYMBOLS),
            _segment(0xDA, bytes((1, 1, 0x00, 0, 63, 0))),
        )
    )
    return header + _packed(*_tokens(_coefficients(image))) + b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _coefficients(image: NDArray[np.uint8]) -> Ints:
    """The quantized coefficients (blocks, 64), each block's in zigzag order."""
    height, width = image.shape
    padded = np.pad(image, ((0, -height % _SIDE), (0, -width % _SIDE)), mode="edge").astype(np.float64)
    rows, columns = (side // _SIDE for side in padded.shape)
    blocks = padded.reshape(rows, _SIDE, columns, _SIDE).swapaxes(1, 2) - 128
    spectra = (_COSINES @ blocks @ _COSINES.T).reshape(-1, _SIDE * _SIDE)
    return np.rint(spectra / _STEPS).astype(np.int64)[:, _ZIGZAG]


def _tokens(coefficients: Ints) -> tuple[Ints, Ints]:
    """What is written, as numbers of up to 27 bits, and of how many bits each is."""
    count = len(coefficients)
    steps = np.diff(coefficients[:, 0], prepend=0)
    blocks, places = np.nonzero(coefficients[:, 1:])
    places = places + 1
    values = coefficients[blocks, places]
    follows = np.diff(blocks, prepend=-1) == 0
    runs = places - np.where(follows, np.roll(places, 1), 0) - 1
    ended = np.zeros(count, np.int64)
    ended[blocks] = places  # the last one of each block counts
    unfilled = np.flatnonzero(ended < _SIDE * _SIDE - 1)

    zeros = np.repeat(np.arange(len(places)), runs // 16)
    # In the order of the file: block by block, the mean, what is not zero after its zeros, the end.
    order = np.concatenate(
        [
            np.arange(count) * 256,
            blocks[zeros] * 256 + places[zeros] * 2,
            blocks * 256 + places * 2 + 1,
            unfilled * 256 + 255,
        ]
    )
    parts = [
        _coded(_DC_CODES, 0, steps),
        _coded(_AC_CODES, _SIXTEEN_ZEROS, np.zeros(len(zeros), np.int64)),
        _coded(_AC_CODES, runs % 16 * 16, values),
        _coded(_AC_CODES, _END_OF_BLOCK, np.zeros(len(unfilled), np.int64)),
    ]
    sorting = np.argsort(order, kind="stable")
    numbers, lengths = (np.concatenate(part)[sorting] for part in zip(*parts, strict=True))
    return numbers, lengths


def _coded(codes: tuple[Ints, Ints], symbols: Ints | int, values: Ints) -> tuple[Ints, Ints]:
    """The codes of symbols, with the values' numbers of bits added, followed by those bits."""
    sizes = np.frexp(np.abs(values))[1].astype(np.int64)
    bits = np.where(values < 0, values + (1 << sizes) - 1, values)
    numbers, lengths = (table[symbols + sizes] for table in codes)
    return (numbers << sizes) | bits, lengths + sizes


def _packed(numbers: Ints, lengths: Ints) -> bytes:
    ends = np.cumsum(lengths)
    shifts = np.repeat(ends, lengths) - 1 - np.arange(ends[-1])
    bits = (np.repeat(numbers, lengths) >> shifts & 1).astype(np.uint8)
    filled = np.pad(bits, (0, -len(bits) % 8), constant_values=1)
    return np.packbits(filled).tobytes().replace(b"\xff", b"\xff\0")


def _zigzag() -> list[int]:
    """The places of a block, row by row, in the order in which coefficients are written."""

    def key(place: int) -> tuple[int, int]:
        row, column = divmod(place, _SIDE)
        diagonal = row + column
        return diagonal, row if diagonal % 2 else column

    return sorted(range(_SIDE * _SIDE), key=key)


def _codes(counts: tuple[int, ...], symbols: bytes) -> tuple[Ints, Ints]:
    """The code of each symbol, and its length in bits."""
    lengths = [length for length, many in enumerate(counts, 1) for _ in range(many)]
    # Codes of a length follow one another; a longer one begins where the shorter ones end.
    starts = accumulate(1 << (16 - length) for length in lengths[:-1])
    numbers, sizes = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for symbol, length, start in zip(symbols, lengths, [0, *starts], strict=True):
        numbers[symbol], sizes[symbol] = start >> (16 - length), length
    return numbers, sizes


_ZIGZAG = np.array(_zigzag())
_COSINES = np.sqrt(2 / _SIDE) * np.cos(
    np.pi / (2 * _SIDE) * np.arange(_SIDE)[:, None] * (2 * np.arange(_SIDE) + 1)
)
_COSINES[0] /= np.sqrt(2)
_DC_CODES, _AC_CODES = _codes(_DC_COUNTS, _DC_SYMBOLS), _codes(_AC_COUNTS, _AC_SYMBOLS)
