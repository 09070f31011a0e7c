"""Which steps of a schedule run beside each other, on streams of their own: pure functions.

Where one map is all that later steps read, the steps from there to the concatenation that joins them may be
several independent chains: a window. Each chain is a lane, and lane 0 is the stream of everything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fasti3d.engine.graph import Concat, Node, Shapes
from fasti3d.ops.tiling import count

MAX_LANES = 4
# The tile of a kernel, as pixels and channels: an estimate.
_TILE = 128, 128


@dataclass(frozen=True)
class Window:
    """Steps ``begin`` to ``end``, the concatenation, and the lane of each; that of the last is 0."""

    begin: int
    end: int
    lanes: tuple[int, ...]

    def waits(self, nodes: Sequence[Node]) -> Iterator[tuple[int, ...]]:
        """The steps of other lanes that each waits for: the one before the window where a lane begins."""
        writer: dict[int, int] = {}
        last: dict[int, int] = {}
        for i, lane in enumerate(self.lanes, self.begin):
            node = nodes[i]
            before = {writer[value] for value in node.reads if value in writer}
            if i == self.end:
                before = set(last.values())
            elif not before and lane not in last and lane > 0:
                before = {self.begin - 1}
            yield tuple(sorted(j for j in before if j < self.begin or self.lanes[j - self.begin] != lane))
            writer.update((value, i) for value in node.writes)
            last[lane] = i


def windows(nodes: Sequence[Node], of: Shapes, sms: int) -> list[Window]:
    """The windows of a schedule for which lanes are expected to pay on a GPU with so many SMs."""
    live = _live(nodes)
    found: list[Window] = []
    limit = len(nodes)
    for end in reversed(range(len(nodes))):
        if end >= limit or not isinstance(nodes[end], Concat):
            continue
        begin = max((i for i in range(end) if live[i] == 1), default=0)
        lanes = _lanes(nodes[begin:end])
        if pays(nodes[begin:end], lanes, of, sms):
            found.append(Window(begin, end, (*lanes, 0)))
            limit = begin
    return found[::-1]


def pays(nodes: Sequence[Node], lanes: Sequence[int], of: Shapes, sms: int) -> bool:
    """Whether there are lanes, and one that leaves SMs idle at each of its steps: estimated, not measured."""
    peaks: dict[int, int] = {}
    for node, lane in zip(nodes, lanes, strict=True):
        peaks[lane] = max(peaks.get(lane, 0), tiles(of[node.out]))
    return len(peaks) > 1 and min(peaks.values()) < sms


def tiles(shape: Sequence[int]) -> int:
    """The tiles of a kernel that writes a map (N, C, T, H, W), about."""
    n, channels, *size = shape
    return count(n * math.prod(size), _TILE[0]) * count(channels, _TILE[1])


def _live(nodes: Sequence[Node]) -> list[int]:
    """Of each step the number of values from before it that it or later steps read."""
    live: set[int] = set()
    found: list[int] = []
    for node in reversed(nodes):
        live.difference_update(node.writes)
        live.update(node.reads)
        found.append(len(live))
    return found[::-1]


def _lanes(nodes: Sequence[Node]) -> list[int]:
    """A lane for each step: that of which it reads the last step's result, or a new one."""
    lanes: list[int] = []
    tails: list[int] = []
    writer: dict[int, int] = {}
    for i, node in enumerate(nodes):
        before = {writer[value] for value in node.reads if value in writer}
        follows = [lanes[j] for j in sorted(before, reverse=True) if tails[lanes[j]] == j]
        if follows:
            lane = follows[0]
        elif len(tails) < MAX_LANES:
            lane = len(tails)
            tails.append(i)
        else:
            lane = min(range(len(tails)), key=lanes.count)
        tails[lane] = i
        lanes.append(lane)
        writer.update((value, i) for value in node.writes)
    return lanes
