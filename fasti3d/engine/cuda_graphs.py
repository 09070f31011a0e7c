"""CUDA graphs around a plan: the launches of a run recorded once, then replayed in one call.

A shape that comes a second time is captured, so that one that comes once costs nothing. Before each replay
the clip is brought into the graph's own memory, by a copy or by what reads it first (``Recorded``), and
results are copied out of it, so that what a caller holds never changes. All graphs of a GPU share one pool of
memory, which they take turns in: a replay waits, on the GPU, for the one before it. Steps that may run beside
each other are captured on several streams.

Results are not handed out as they are: nothing tells whether a caller still holds one, or a view of it, or
has work on another stream that reads it. The copy of logits is one small launch; only callers that ask for
maps of the trunk pay for more.

``FASTI3D_CUDA_GRAPHS=0`` turns them off. For the milliseconds that a capture takes, two things fail in other
threads, by CUDA's and torch's own rules: synchronising the whole device, and random numbers of the
default CUDA generator. Programs that do so while the network meets new shapes are to turn graphs off.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from fasti3d.engine.graph import Shape
from fasti3d.engine.lanes import MAX_LANES
from fasti3d.engine.layout import ONE_LANE, Lanes
from fasti3d.proof import guard
from fasti3d.runtime.precision import precision_of

Maps = dict[str, Tensor]
Work = Callable[[Tensor, set[str], torch.dtype], Maps]
Key = tuple[object, ...]


class Recorded(Protocol):
    """What a graph records of some work, and what runs before each replay, on the caller's clip."""

    def memory(self, x: Tensor) -> Tensor:
        """New memory for what is made of clips like x."""

    def enter(self, x: Tensor, memory: Tensor, dtype: torch.dtype) -> None:
        """Makes it of a clip."""

    def compute(
        self, memory: Tensor, shape: Shape, wanted: set[str], dtype: torch.dtype, lanes: Lanes
    ) -> Maps:
        """The rest of the work, on clips of a shape."""


class Copied:
    """Work as it is, on a copy of the clip."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def memory(self, x: Tensor) -> Tensor:
        return torch.empty_like(x)

    def enter(self, x: Tensor, memory: Tensor, dtype: torch.dtype) -> None:
        memory.copy_(x)

    def compute(
        self, memory: Tensor, shape: Shape, wanted: set[str], dtype: torch.dtype, lanes: Lanes
    ) -> Maps:
        return self._work(memory, wanted, dtype)


class Streams:
    """Lanes of a capture, of which the first is the stream that it began on."""

    def __init__(self, streams: Sequence[torch.cuda.Stream]) -> None:
        self._streams = streams

    def on(self, lane: int) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._streams[lane])

    def mark(self) -> torch.cuda.Event:
        mark = torch.cuda.Event()
        mark.record()
        return mark

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.wait()


# A batch and the remainder of one, of two sizes of clips or for two sets of endpoints. Each holds what is
# made of a batch, and its results.
_MAX_GRAPHS = 4
# Where less of a GPU's memory is free, it is left to others.
_MIN_FREE = 0.1
# Replays that are compared with a run without a graph, as steps beside each other may be wrong now and then.
_PROOFS = 3
# Of one shape, until all of them were: without a graph, captured, compared.
RUNS_TO_PROVE = 2 + _PROOFS


@dataclass(eq=False)
class Captured:
    """A recorded run: it reads ``memory`` and writes ``maps``, both its own, whenever it is replayed."""

    memory: Tensor
    maps: Maps
    replay: Callable[[], None]
    # Replays that gave what a run without a graph does.
    right: int = 0

    @property
    def nbytes(self) -> int:
        return self.memory.nbytes + sum(y.nbytes for y in self.maps.values())


class Cuda:
    """The GPUs of this process, and what graphs on each share.

    Everything asked of torch.cuda is a method of its own, so that tests can put a machine without a GPU in
    its place.
    """

    def __init__(self) -> None:
        # Torch allows one capture at a time, and nothing may come between a replay and its copies.
        self.lock = threading.Lock()
        self._orders: dict[torch.device, torch.cuda.Event] = {}
        self._streams: dict[torch.device, list[torch.cuda.Stream]] = {}
        self._pools: dict[torch.device, tuple[Any, WeakSet[Captured]]] = {}
        # Where a capture of several streams failed, or a replay gave what a run without a graph does not.
        self.alone: set[torch.device] = set()
        # Where a replay of a single stream did.
        self.wrong: set[torch.device] = set()

    def run(self, captured: Captured, device: torch.device, enter: Callable[[Tensor], None]) -> Maps:
        """Replays on the current stream, after ``enter`` has filled the graph's memory; within the lock."""
        before = self._orders.get(device)
        if before is None:
            before = self._orders[device] = self.new_event()
        before.wait()
        try:
            enter(captured.memory)
            captured.replay()
            return {name: y.clone() for name, y in captured.maps.items()}
        finally:
            before.record()

    def capture(
        self, device: torch.device, memory: Callable[[], Tensor], work: Callable[[Tensor, Lanes], Maps]
    ) -> Captured:
        """Records work on memory; within the lock. Nothing is computed."""
        # A pool ends with its last graph, and its name with it.
        name, users = self._pools.get(device) or (None, None)
        if not users:
            name, users = self._pools[device] = self.new_pool(), WeakSet()
        # Memory goes back to the stream that had it, so graphs share a pool only where they share streams.
        if device not in self._streams:
            self._streams[device] = [self.new_stream(device) for _ in range(MAX_LANES)]
        streams = self._streams[device][: 1 if device in self.alone else MAX_LANES]
        captured = self.record(memory, work, streams, name)
        users.add(captured)
        return captured

    def held(self) -> dict[torch.device, int]:
        """The bytes of memory that each GPU's graphs keep from all others."""
        with self.lock:
            return {device: self.pool_bytes(name) for device, (name, users) in self._pools.items() if users}

    def device_of(self, x: Tensor) -> AbstractContextManager[object]:
        return torch.cuda.device_of(x)

    def serves(self, x: Tensor) -> bool:
        """Whether a run on the current stream may now be captured or replayed."""
        return (
            x.is_cuda
            and not torch.cuda.get_sync_debug_mode()
            and not torch.cuda.is_current_stream_capturing()
        )

    def is_short_of_memory(self, device: torch.device) -> bool:
        free, total = torch.cuda.mem_get_info(device)
        return free < _MIN_FREE * total

    def new_event(self) -> torch.cuda.Event:
        return torch.cuda.Event()

    def new_stream(self, device: torch.device) -> torch.cuda.Stream:
        return torch.cuda.Stream(device)

    def new_pool(self) -> Any:
        """The name of one."""
        return torch.cuda.graph_pool_handle()

    def pool_bytes(self, name: Any) -> int:
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == tuple(name))

    def record(
        self,
        memory: Callable[[], Tensor],
        work: Callable[[Tensor, Lanes], Maps],
        streams: Sequence[torch.cuda.Stream],
        pool: Any,
    ) -> Captured:
        graph = torch.cuda.CUDAGraph()
        # torch.cuda.graph would first stop the device and give all cached memory back.
        with torch.cuda.stream(streams[0]):
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                own = memory()
                maps = work(own, Streams(streams) if len(streams) > 1 else ONE_LANE)
            finally:
                graph.capture_end()
        return Captured(own, maps, graph.replay)


CUDA = Cuda()


class Graphs:
    """The graphs of one plan, the least recently used given up first. Threads may share it.

    Args:
        cuda: the machine.
        max_graphs: graphs to keep, and shapes to remember that came once.
    """

    def __init__(self, cuda: Cuda = CUDA, max_graphs: int = _MAX_GRAPHS) -> None:
        self._cuda = cuda
        self._max_graphs = max_graphs
        self._calls = 0
        # With the number of the call that used it last; the least recently used is the first.
        self._graphs: OrderedDict[Key, tuple[int, Captured]] = OrderedDict()
        self._seen: OrderedDict[Key, int] = OrderedDict()
        self._refused: set[Key] = set()

    def run(
        self,
        work: Work,
        x: Tensor,
        wanted: set[str],
        dtype: torch.dtype,
        recorded: Recorded | None = None,
    ) -> Maps:
        """``work(x, wanted, dtype)``, which must do the same launches whenever x has the same layout
        and torch's switches of float32 are the same.

        ``recorded``: the same in two parts; by default on a copy of x.
        """
        with self._cuda.device_of(x):
            off = _is_off() or x.device in self._cuda.wrong
            if off or type(x) is not Tensor or not self._cuda.serves(x):
                return work(x, wanted, dtype)
            recorded = recorded or Copied(work)
            strides = _dense_strides(x.shape, x.stride())
            key = (x.device, x.shape, strides, x.dtype, frozenset(wanted), dtype, precision_of(dtype))
            with self._cuda.lock:
                self._calls += 1
                if key in self._graphs:
                    _, captured = self._graphs.pop(key)
                    self._graphs[key] = self._calls, captured
                    maps = self._cuda.run(captured, x.device, lambda own: recorded.enter(x, own, dtype))
                    if captured.right == _PROOFS or guard.is_off():
                        return maps
                    return self._prove(captured, maps, work(x, wanted, dtype), x)
                due = self._is_due(key)
            if not due:
                return work(x, wanted, dtype)
            # As in the graph's own memory, whose alignment may ask for other kernels than x's: all are to be
            # compiled before the capture, in which that is not allowed.
            memory = recorded.memory(x)
            recorded.enter(x, memory, dtype)
            maps = recorded.compute(memory, x.shape, wanted, dtype, ONE_LANE)
            with self._cuda.lock:
                if key not in self._graphs:
                    self._capture(
                        key,
                        x,
                        lambda: recorded.memory(x),
                        lambda own, lanes: recorded.compute(own, x.shape, wanted, dtype, lanes),
                    )
            return maps

    def wrong(self, device: torch.device) -> bool:
        """Whether something about graphs there was not right, of this plan or another."""
        return device in self._cuda.wrong | self._cuda.alone

    @property
    def nbytes(self) -> list[int]:
        """Of the clip and the results of each graph; what else they need they share (``Cuda.held``)."""
        with self._cuda.lock:
            return [captured.nbytes for _, captured in self._graphs.values()]

    def _is_due(self, key: Key) -> bool:
        """Notes a shape without a graph, and says whether it is to have one: it came before, not long ago,
        and there is room, or a graph that was not used since. So shapes that take turns, more of them than
        there are graphs, do not drive each other out.
        """
        if key in self._refused or len(self._refused) >= self._max_graphs:
            return False
        before = self._seen.pop(key, None)
        self._seen[key] = self._calls
        if len(self._seen) > self._max_graphs:
            self._seen.popitem(last=False)
        if before is None:
            return False
        return len(self._graphs) < self._max_graphs or next(iter(self._graphs.values()))[0] < before

    def _prove(self, captured: Captured, maps: Maps, expected: Maps, x: Tensor) -> Maps:
        """The replay's maps, or where they are not what was to be expected those and no graph again."""
        if _agree(maps, expected):
            captured.right += 1
            return maps
        self._graphs.clear()
        if x.device in self._cuda.alone:
            self._cuda.wrong.add(x.device)
            what = "CUDA graphs are not used"
        else:
            self._cuda.alone.add(x.device)
            what = "no steps run beside each other in CUDA graphs"
        warnings.warn(
            f"{what} on {x.device}: of a clip of shape {tuple(x.shape)} a replay gave another result than a "
            "run without one. Please report this, with what `fasti3d doctor` prints",
            guard.SelfCheckWarning,
            stacklevel=2,
        )
        return expected

    def _capture(
        self, key: Key, x: Tensor, memory: Callable[[], Tensor], work: Callable[[Tensor, Lanes], Maps]
    ) -> None:
        """Adds a graph; where that cannot be, the shape, and after some such shapes all, go without."""
        self._seen.pop(key, None)
        if self._cuda.is_short_of_memory(x.device):
            self._refused.add(key)
            return
        while len(self._graphs) >= self._max_graphs:
            self._graphs.popitem(last=False)
        try:
            captured = self._recorded(x.device, memory, work)
        except Exception as error:  # whatever it is, the plan itself has just run
            self._refused.add(key)
            warnings.warn(
                f"no CUDA graph of clips of shape {tuple(x.shape)} ({error}): they run without one",
                RuntimeWarning,
                stacklevel=2,
            )
            return
        self._graphs[key] = self._calls, captured

    def _recorded(
        self, device: torch.device, memory: Callable[[], Tensor], work: Callable[[Tensor, Lanes], Maps]
    ) -> Captured:
        """A capture of several streams, or where that fails of one."""
        # Tensors of inference mode could not be written to outside it.
        with torch.inference_mode(False), torch.no_grad():
            try:
                return self._cuda.capture(device, memory, work)
            except Exception:
                if device in self._cuda.alone:
                    raise
            self._cuda.alone.add(device)
            return self._cuda.capture(device, memory, work)


@lru_cache(64)
def _dense_strides(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a dense copy, as which a clip will be read."""
    return torch.empty_like(torch.empty_strided(shape, strides, device="meta")).stride()


def _is_off() -> bool:
    """Whether the user wants none, or is looking for an error, which a graph would hide the place of."""
    return (
        os.environ.get("FASTI3D_CUDA_GRAPHS") == "0"
        or os.environ.get("CUDA_LAUNCH_BLOCKING") == "1"
        or torch.are_deterministic_algorithms_enabled()
        or torch.compiler.is_compiling()
    )


def _agree(maps: Maps, expected: Maps) -> bool:
    """Whether two runs of the same kernels gave the same, but for the order of a library's sums."""
    for name, y in expected.items():
        finite = torch.where(y.isfinite(), y, 0).abs()
        limit = 4 * torch.finfo(y.dtype).eps * (finite.max().item() if y.numel() else 0.0)
        if not torch.allclose(maps[name], y, rtol=0.0, atol=limit, equal_nan=True):
            return False
    return True
