"""Damage to files, reproducible from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable

_EXTREMES = (0, 1, *((1 << bits) + by for bits in (7, 8, 15, 16, 31, 32, 63, 64) for by in (-1, 0)))
_NUMBERS = (b"0", b"-1", b"99999999999999999999", b"1e999", b"NaN", b"true", b'"x"', b"[" * 5000)


def _place(data: bytearray, rng: random.Random, size: int = 1) -> int:
    """Anywhere, half of the time near an end, where formats keep their lengths."""
    last = max(len(data) - size, 0)
    near = rng.choice([(0, min(last, 128)), (max(last - 128, 0), last), (0, last), (0, last)])
    return rng.randint(*near)


def _truncate(data: bytearray, rng: random.Random) -> bytearray:
    return data[: _place(data, rng)]


def _flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 1, 1, 8, 64])):
        if data:
            data[_place(data, rng)] ^= 1 << rng.randrange(8)
    return data


def _splice(data: bytearray, rng: random.Random) -> bytearray:
    start, end = sorted((_place(data, rng), _place(data, rng)))
    where = _place(data, rng)
    return data[:where] + data[start:end] + data[where:]


def _cut_out(data: bytearray, rng: random.Random) -> bytearray:
    start = _place(data, rng)
    return data[:start] + data[start + rng.choice([1, 4, 64, 1024]) :]


def _fill(data: bytearray, rng: random.Random) -> bytearray:
    start, size = _place(data, rng), rng.choice([1, 4, 16, 256])
    data[start : start + size] = bytes([rng.choice([0, 0, 0xFF, 0x5B])]) * size
    return data


def _length(data: bytearray, rng: random.Random) -> bytearray:
    size = rng.choice([1, 2, 4, 8])
    start = _place(data, rng, size)
    value = rng.choice(_EXTREMES) % (1 << 8 * size)
    data[start : start + size] = value.to_bytes(size, rng.choice(["little", "big"]))
    return data


def _digits(data: bytearray, rng: random.Random) -> bytearray:
    """Numbers in text, as in JSON and in the headers of arrays."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        start = rng.choice(places)
        data[start : start + 1] = rng.choice(_NUMBERS)
    return data


_DAMAGE: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    _truncate,
    _flip,
    _flip,
    _splice,
    _cut_out,
    _fill,
    _length,
    _length,
    _digits,
)


def mutated(seed: bytes, number: int) -> bytes:
    """The damaged bytes of that number: one to three kinds of damage."""
    rng = random.Random(number)
    data = bytearray(seed)
    for _ in range(rng.choice([1, 1, 2, 3])):
        data = rng.choice(_DAMAGE)(data, rng)
    return bytes(data)
