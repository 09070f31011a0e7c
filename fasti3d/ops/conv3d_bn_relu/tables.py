"""Measured configurations: tables that come with the package, and the user's own of ``fasti3d tune``.

A table serves one model of GPU, and of its convolutions only those of exactly the sizes that were measured;
all others take what ``choose`` expects to be best. It is JSON:

- ``candidates``: the name of the candidate set it was measured from; tables of other sets are refused
- ``gpu``: ``name``, ``capability`` and ``multiprocessors``
- ``torch``, ``triton``, ``date``, ``dtype``: with what it was measured, when, and of which values
- ``entries``: the fields of a ``Problem`` but those of the GPU; ``config``, the fields of a ``Config``;
  ``seconds`` and ``expected_seconds``, the times of that and of what ``choose`` would have taken; and, where
  slabs were measured too, ``slab``: ``tile``, the fields of their ``Config``, and its ``seconds``, null where
  its result was wrong. Without it, or for another tile, first use decides between the two
- ``pooled``, where slabs pool: the fields of a ``Problem`` of such a pool and convolution; ``tile`` and its
  ``seconds``, null where its result was wrong; and ``otherwise_seconds``, of Triton's kernels
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from fasti3d.ops.conv3d_bn_relu.candidates import candidate_set, candidates
from fasti3d.ops.conv3d_bn_relu.config import Config, Problem
from fasti3d.ops.conv3d_slab import config as slabs
from fasti3d.ops.pooled_conv3d_slab import config as pooled_slabs
from fasti3d.runtime.precision import Precision
from fasti3d.utils.cache_dir import cache_dir
from fasti3d.utils.parsing import brief, parse_json

SHIPPED = Path(__file__).parent / "configs"
_RECORDED = ("torch", "triton", "date", "dtype")
# The fields of a problem that are not the GPU's.
_OWN = [one.name for one in fields(Problem) if one.name not in ("capability", "multiprocessors")]
_OWN_POOLED = [one.name for one in fields(pooled_slabs.Problem) if one.name != "multiprocessors"]


class TableError(ValueError):
    """A table cannot be used; the message names the file and says what to do."""


class Gpu(NamedTuple):
    """What a table is for."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int

    @property
    def file_name(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") + ".json"


class Slab(NamedTuple):
    """A tile of slabs that was measured, and its time; None if its result was wrong."""

    tile: slabs.Config
    seconds: float | None


class Entry(NamedTuple):
    """The fastest configuration of a convolution, its time, and that of what would have been chosen; and the
    slab's tile, if that was measured.
    """

    config: Config
    seconds: float
    expected_seconds: float
    slab: Slab | None = None

    @property
    def over_slabs(self) -> bool:
        """Whether the slab's tile takes less time."""
        return self.slab is not None and self.slab.seconds is not None and self.slab.seconds < self.seconds


class Pooled(NamedTuple):
    """A tile of slabs of a pool and convolution, its time, None if its result was wrong; and that of Triton's
    kernels.
    """

    tile: pooled_slabs.Config
    seconds: float | None
    otherwise_seconds: float

    @property
    def over_slabs(self) -> bool:
        """Whether the tile takes less time."""
        return self.seconds is not None and self.seconds < self.otherwise_seconds


@dataclass(frozen=True)
class Table:
    """What was measured on a GPU; ``recorded`` is with what."""

    gpu: Gpu
    recorded: Mapping[str, str]
    entries: Mapping[Problem, Entry]
    pooled: Mapping[pooled_slabs.Problem, Pooled] = field(default_factory=dict)

    @property
    def all_entries(self) -> list[Entry | Pooled]:
        return [*self.entries.values(), *self.pooled.values()]

    def dumps(self) -> str:
        """Returns it as JSON, one entry per line."""
        head = {"candidates": candidate_set(), "gpu": self.gpu._asdict(), **self.recorded}
        lines = [f' "{key}": {json.dumps(value)},\n' for key, value in head.items()]
        entries = ",\n".join(f"  {json.dumps(_plain(*item))}" for item in self.entries.items())
        pools = ",\n".join(f"  {json.dumps(_plain_pooled(*item))}" for item in self.pooled.items())
        more = f',\n "pooled": [\n{pools}\n ]' if pools else ""
        return "{\n" + "".join(lines) + f' "entries": [\n{entries}\n ]{more}\n}}\n'


class Tuned(NamedTuple):
    """The tables in use on a GPU with their files, the first before the others, and why others are not."""

    tables: tuple[tuple[Path, Table], ...] = ()
    refused: tuple[str, ...] = ()

    def get(self, problem: Problem) -> Config | None:
        """The measured configuration of a problem."""
        entry = self._entry(problem)
        return entry and entry.config

    def over_slabs(self, problem: Problem, tile: slabs.Config) -> bool | None:
        """Whether a tile of slabs takes less time than that; None where this tile was not measured."""
        entry = self._entry(problem)
        if entry is None or entry.slab is None or entry.slab.tile != tile:
            return None
        return entry.over_slabs

    def pools_over_slabs(self, problem: pooled_slabs.Problem, tile: pooled_slabs.Config) -> bool | None:
        """Whether a tile takes less time than Triton's kernels; None where this tile was not measured."""
        found = next((table.pooled[problem] for _, table in self.tables if problem in table.pooled), None)
        return found.over_slabs if found is not None and found.tile == tile else None

    def _entry(self, problem: Problem) -> Entry | None:
        return next((table.entries[problem] for _, table in self.tables if problem in table.entries), None)


@cache
def tuned(device: torch.device) -> Tuned:
    """The tables of a device, read when first asked for. A table that is refused is warned of."""
    if device.type != "cuda":
        return Tuned()
    found = find(gpu(device))
    for why in found.refused:
        warnings.warn(why, UserWarning, stacklevel=2)
    return found


def find(gpu: Gpu) -> Tuned:
    """The user's table of a GPU and the one that came with the package, as far as they are there and good."""
    tables, refused = [], []
    for path in (user_path(gpu), SHIPPED / gpu.file_name):
        try:
            if path is not None and path.is_file():
                tables.append((path, read(path, gpu)))
        except (TableError, OSError) as error:
            refused.append(str(error))
    return Tuned(tuple(tables), tuple(refused))


def gpu(device: torch.device) -> Gpu:
    """What a CUDA device is to a table."""
    it = torch.cuda.get_device_properties(device)
    return Gpu(it.name, (it.major, it.minor), it.multi_processor_count)


def user_path(gpu: Gpu) -> Path | None:
    """Where ``fasti3d tune`` puts a GPU's table; None where the user's folders cannot be told."""
    try:
        return cache_dir() / "tuned" / gpu.file_name
    except ImportError:
        return None


def read(path: Path, gpu: Gpu) -> Table:
    """The table of a GPU in a file.

    Raises:
        TableError: another GPU's, malformed, measured from other candidates, or with a configuration that
            is not a candidate for its problem.
        OSError: a file that cannot be read.
    """
    try:
        return _parse(parse_json(path.read_bytes()), gpu)
    except (KeyError, TypeError, ValueError) as error:
        what = brief(f"no {error}" if isinstance(error, KeyError) else error, 300)
        raise TableError(
            f"the table of tuned configurations {path} is not used ({what}): remove it, or run `fasti3d tune`"
        ) from error


def _parse(data: Any, gpu: Gpu) -> Table:
    if not isinstance(data, dict):
        raise ValueError(f"it holds {type(data).__name__}, and not an object")
    if data["candidates"] != candidate_set():
        raise ValueError(f"it is of the candidates {data['candidates']}, here are {candidate_set()}")
    its = data["gpu"]
    if Gpu(its["name"], tuple(its["capability"]), its["multiprocessors"]) != gpu:
        raise ValueError(f"it is of the GPU {its}, this is {gpu._asdict()}")
    entries: dict[Problem, Entry] = {}
    for one in data["entries"]:
        its_fields = {name: _field(one[name]) for name in _OWN if name != "precision"}
        its_fields |= {"precision": Precision(one["precision"])}
        problem = Problem(**its_fields, capability=gpu.capability, multiprocessors=gpu.multiprocessors)
        config = Config.of(one["config"])
        if config not in candidates(problem):
            raise ValueError(f"{config} is not a candidate for {problem}")
        if problem in entries:
            raise ValueError(f"it has {problem} twice")
        times = _seconds(one["seconds"]), _seconds(one["expected_seconds"])
        entries[problem] = Entry(config, *times, _slab(one.get("slab")))
    pools: dict[pooled_slabs.Problem, Pooled] = {}
    for one in data.get("pooled", []):
        its_fields = {name: _field(one[name]) for name in _OWN_POOLED}
        pooled_problem = pooled_slabs.Problem(**its_fields, multiprocessors=gpu.multiprocessors)
        if pooled_problem in pools:
            raise ValueError(f"it has {pooled_problem} twice")
        tile, seconds = pooled_slabs.Config.of(one["tile"]), one["seconds"]
        its_seconds = seconds if seconds is None else _seconds(seconds)
        pools[pooled_problem] = Pooled(tile, its_seconds, _seconds(one["otherwise_seconds"]))
    return Table(gpu, {name: _typed(data[name], str) for name in _RECORDED}, entries, pools)


def _slab(its: Any) -> Slab | None:
    if its is None:
        return None
    seconds = its["seconds"]
    return Slab(slabs.Config.of(its["tile"]), seconds if seconds is None else _seconds(seconds))


def _plain(problem: Problem, entry: Entry) -> dict[str, object]:
    its = {name: getattr(problem, name) for name in _OWN} | {
        "config": asdict(entry.config),
        "seconds": entry.seconds,
        "expected_seconds": entry.expected_seconds,
    }
    if entry.slab:
        its["slab"] = {"tile": asdict(entry.slab.tile), "seconds": entry.slab.seconds}
    return its


def _plain_pooled(problem: pooled_slabs.Problem, its: Pooled) -> dict[str, object]:
    own = {name: getattr(problem, name) for name in _OWN_POOLED}
    return own | {
        "tile": asdict(its.tile),
        "seconds": its.seconds,
        "otherwise_seconds": its.otherwise_seconds,
    }


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _field(value: Any) -> Any:
    """A field of a problem: a number, a flag, or three lengths."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        t, h, w = map(_field, value)
        return t, h, w
    if _typed(value, int) < 0:
        raise ValueError(f"{value!r} is below 0")
    return value


def _seconds(value: Any) -> float:
    if not (_typed(value, float) > 0 and math.isfinite(value)):
        raise ValueError(f"{value!r} is not a time")
    return value
