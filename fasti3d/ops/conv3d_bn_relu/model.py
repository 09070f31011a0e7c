"""How long the tiles of a convolution take on a GPU by a model of named rates: pure functions, printable.

None of it is a measured time. Of the rates some were measured on GPUs of that kind, some counted in what the
compiler made, and some estimated; each says which.

>>> tiles = Tiles(196, 256, 192, steps=135, depth=32, stages=4, warps=8, instructions=155, registers=26)
>>> resident(tiles, (9, 0)), step(tiles, 1, (9, 0), 132).limit, round(nanoseconds(tiles, (9, 0), 132), -3)
(1, 'tensor', 150000.0)
"""

from __future__ import annotations

from typing import NamedTuple

from fasti3d.ops.tiling import count
from fasti3d.runtime.precision import Precision

Capability = tuple[int, int]

# Shared memory that one block of threads may have, in bytes (CUDA C++ programming guide, compute
# capabilities). A chip that is not listed is assumed to have the minimum.
_SHARED_MEMORY = {
    **dict.fromkeys([(8, 0), (8, 7)], 163 << 10),
    **dict.fromkeys([(9, 0), (10, 0), (10, 3)], 227 << 10),
}
_MIN_SHARED_MEMORY = 99 << 10
# A block takes this much more of its SM's. Some of its own is for barriers (counted), and some is left for
# what the compiler exchanges through it.
_SHARED_BESIDE, _BARRIERS, _SHARED_LEFT = 1 << 10, 64, 16 << 10
_REGISTERS = 1 << 16

# Products of 16-bit values per nanosecond and SM; of TF32 half as many. Matrix products on an H200 were
# measured to reach 790 TFLOP/s of the 989 that are published; other chips are expected to reach as much of
# what is published for float32 sums.
_PRODUCTS = {
    **dict.fromkeys([(8, 0), (8, 7)], 1150.0),
    (9, 0): 2990.0,
    **dict.fromkeys([(10, 0), (10, 3)], 6100.0),
}
_MIN_PRODUCTS = 500.0
# Bytes per nanosecond from the L2 cache to each SM where all read, and to one that reads alone (estimated: an
# H200's fastest matrix products must read as much). Other chips are expected to have as much per SM.
_L2_PER_SM, _L2_TO_ONE = 57.0, 112.0
_CLOCKS_PER_NS = 1.75
_ISSUED_PER_CLOCK = 4
# Clocks from a step of a block to its next, at least (estimated): barriers, and a product after another.
_CHAIN = 250
# Nanoseconds until a load has arrived, and of a block's start and end (estimated).
_LOAD, _ENDS = 400.0, 1700.0
# Bytes per nanosecond of results that an SM writes (estimated).
_STORE = 40.0


class Tiles(NamedTuple):
    """A convolution in tiles, a block of threads each.

    ``depth`` is the input channels of a step, ``stages`` the steps in memory at once, ``instructions`` those
    of a warp in a step, and ``registers`` those of a thread besides its sums.
    """

    number: int
    pixels: int
    channels: int
    steps: int
    depth: int
    stages: int
    warps: int
    instructions: int
    registers: int
    precision: Precision = Precision.HALF


class Step(NamedTuple):
    """Nanoseconds of a step of all blocks on an SM, by what may limit it."""

    tensor: float
    l2: float
    issue: float
    chain: float

    @property
    def limit(self) -> str:
        """What takes the longest."""
        return self._fields[self.index(max(self))]


def shared_memory(capability: Capability) -> int:
    """Bytes of shared memory that one block may have."""
    return _SHARED_MEMORY.get(capability, _MIN_SHARED_MEMORY)


def shared(tiles: Tiles) -> int:
    """Bytes of shared memory of a block: its stages, or its results on their way out."""
    stages = tiles.stages * (tiles.pixels + tiles.channels) * tiles.depth
    return tiles.precision.itemsize * max(stages, tiles.pixels * tiles.channels) + _BARRIERS


def registers(tiles: Tiles) -> int:
    """Registers of a thread, which are given out by eights."""
    # Of three products the sums of a step are beside those of all.
    sums = tiles.pixels * tiles.channels // (32 * tiles.warps) * (2 if tiles.precision.products > 1 else 1)
    return count(sums + tiles.registers, 8) * 8


def resident(tiles: Tiles, capability: Capability) -> int:
    """Blocks that an SM has room for; 0 where one is too much."""
    if shared(tiles) > shared_memory(capability) - _SHARED_LEFT:
        return 0
    by_registers = _REGISTERS // (registers(tiles) * 32 * tiles.warps)
    by_memory = (shared_memory(capability) + _SHARED_BESIDE) // (shared(tiles) + _SHARED_BESIDE)
    return min(by_registers, by_memory)


def step(tiles: Tiles, blocks: int, capability: Capability, sms: int) -> Step:
    """A step of ``blocks`` blocks side by side on each SM."""
    itemsize = tiles.precision.itemsize
    products = tiles.pixels * tiles.channels * tiles.depth * tiles.precision.products * itemsize // 2
    read = itemsize * (tiles.pixels + tiles.channels) * tiles.depth
    # Few SMs have more of the cache's rate each.
    l2 = min(_L2_TO_ONE, _L2_PER_SM * sms / min(tiles.number, sms))
    return Step(
        tensor=blocks * products / _PRODUCTS.get(capability, _MIN_PRODUCTS),
        l2=blocks * read / l2,
        issue=blocks * tiles.instructions * tiles.warps / _ISSUED_PER_CLOCK / _CLOCKS_PER_NS,
        chain=max(_CHAIN / _CLOCKS_PER_NS, _LOAD / (tiles.stages - 1)),
    )


def nanoseconds(tiles: Tiles, capability: Capability, sms: int) -> float:
    """Of all tiles: each SM takes as many at a time as it has room for, until there are none.

    What lies beyond an edge, of pixels, channels or input channels, counts like the rest.
    """
    room = resident(tiles, capability)
    if room == 0:
        return float("inf")
    times, rest = divmod(count(tiles.number, sms), room)
    return sum(
        n * (_ENDS + tiles.steps * max(step(tiles, blocks, capability, sms)) + _written(tiles, blocks))
        for n, blocks in ((times, room), (1, rest))
        if n and blocks
    )


def _written(tiles: Tiles, blocks: int) -> float:
    return tiles.precision.itemsize * blocks * tiles.pixels * tiles.channels / _STORE
