"""The candidates for a convolution, and tables of measured ones: what is read, refused and served."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fasti3d.ops.conv3d_bn_relu import candidates as candidates_module
from fasti3d.ops.conv3d_bn_relu import config as config_module
from fasti3d.ops.conv3d_bn_relu import tables
from fasti3d.ops.conv3d_bn_relu.candidates import candidate_set, candidates
from fasti3d.ops.conv3d_bn_relu.config import Config, Problem, Tile, choose
from fasti3d.ops.conv3d_bn_relu.model import shared_memory
from fasti3d.ops.conv3d_bn_relu.tables import Entry, Gpu, Pooled, Slab, Table, TableError, Tuned
from fasti3d.ops.conv3d_slab import config as slabs
from fasti3d.ops.pooled_conv3d_slab import config as pooled_slabs
from fasti3d.runtime.precision import Precision

ONE, THREE, TWO = (1, 1, 1), (3, 3, 3), (2, 2, 2)
H200 = Gpu("NVIDIA H200", (9, 0), 132)
PROBLEM = Problem(8, 64, 192, (32, 56, 56), THREE, ONE, *H200[1:])
TILE = slabs.Config(208, 1, 2, True, (1, 7, 28), 2, 2, 8)
CHIPS = [((8, 0), 108), ((8, 6), 82), ((8, 9), 128), ((9, 0), 132), ((10, 0), 148), ((12, 0), 170)]


@pytest.mark.parametrize("chip", CHIPS, ids=str)
def test_candidates_are_few_and_fit(chip: tuple[tuple[int, int], int]) -> None:
    """Of every kind of convolution: at most a dozen, what would be chosen first, no two alike."""
    for batch, cin, cout, size, kernel, stride, precision in itertools.product(
        (1, 8),
        (16, 24, 96, 832),
        (16, 64, 192, 384),
        ((32, 56, 56), (8, 7, 7)),
        (ONE, THREE),
        (ONE, TWO),
        Precision,
    ):
        problem = Problem(batch, cin, cout, size, kernel, stride, *chip, precision=precision)
        found = candidates(problem)
        assert found[0] == choose(problem)
        assert len(set(found)) == len(found) <= 12
        for one in found:
            tile = (one.block_m + one.block_n + one.block_n_rest) * one.block_k * precision.itemsize
            assert one.precision is precision
            assert one.stages >= 2
            assert one.stages * tile < shared_memory(chip[0])
            if chip[0][0] in (9, 10) and one.form == "pointer":
                assert one.warps == 4, "8 gave wrong results on Hopper (pytorch #173068)"
            assert one.form == "pointer" or (stride == ONE and chip[0][0] in (9, 10))


def test_there_is_a_choice() -> None:
    assert {one.form for one in candidates(PROBLEM)} == {"descriptor", "pointer"}
    assert len({one.block_m for one in candidates(PROBLEM)}) > 1
    for capability in ((8, 0), (8, 9)):
        assert len(candidates(replace(PROBLEM, capability=capability))) >= 3


def test_the_set_has_a_name_that_follows_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    before = candidate_set()
    assert candidate_set() == before
    monkeypatch.setattr(config_module, "POINTER_TILES", (Tile(64, 64, 0, 4),))
    for cached in (choose, candidates_module.candidates, candidate_set):
        cached.cache_clear()
    try:
        assert candidate_set() != before
    finally:
        monkeypatch.undo()
        for cached in (choose, candidates_module.candidates, candidate_set):
            cached.cache_clear()
    assert candidate_set() == before


def make(*problems: Problem, gpu: Gpu = H200, slab: Slab | None = None) -> Table:
    """With the last candidate of each, which is not the one that would be chosen."""
    entries = {problem: Entry(candidates(problem)[-1], 1e-4, 2e-4, slab) for problem in problems}
    recorded = {"torch": "2.13.0", "triton": "3.9.0", "date": "2026-11-22", "dtype": "float16"}
    return Table(gpu, recorded, entries)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    float32 = replace(PROBLEM, precision=Precision.TF32X3)
    table = make(PROBLEM, replace(PROBLEM, kernel=ONE), replace(PROBLEM, describable=False), float32)
    path = tmp_path / "table.json"
    path.write_text(table.dumps())
    assert tables.read(path, H200) == table
    assert len(path.read_text().splitlines()) == 7 + 1 + 4 + 2


@pytest.mark.parametrize(
    ("slab", "faster"),
    [(Slab(TILE, 0.9e-4), True), (Slab(TILE, 1.1e-4), False), (Slab(TILE, None), False), (None, None)],
)
def test_a_table_tells_whether_slabs_are_faster(
    slab: Slab | None, faster: bool | None, tmp_path: Path
) -> None:
    """Than its own configuration, in the tile that it names; one without slabs is as it was before them."""
    path = tmp_path / "table.json"
    path.write_text(make(PROBLEM, slab=slab).dumps())
    assert ("slab" in json.loads(path.read_text())["entries"][0]) == (slab is not None)
    used = Tuned(((path, tables.read(path, H200)),))
    assert used.over_slabs(PROBLEM, TILE) is faster
    assert used.get(PROBLEM) == candidates(PROBLEM)[-1]
    assert used.over_slabs(PROBLEM, replace(TILE, stages=7)) is None
    assert used.over_slabs(replace(PROBLEM, batch=4), TILE) is None


POOL = pooled_slabs.Problem(8, 192, 32, (32, 28, 28), H200.multiprocessors)
POOL_TILE = pooled_slabs.Config(200, 2, True, (4, 7, 7), 4, 3)


@pytest.mark.parametrize(("seconds", "faster"), [(0.9e-4, True), (1.1e-4, False), (None, False)])
def test_a_table_tells_whether_slabs_pool_faster(seconds: float | None, faster: bool, tmp_path: Path) -> None:
    """Than Triton's kernels, in the tile that it names; without pools it is as it was before them."""
    path = tmp_path / "table.json"
    path.write_text(make(PROBLEM).dumps())
    assert "pooled" not in json.loads(path.read_text())
    used = Tuned(((path, tables.read(path, H200)),))
    assert used.pools_over_slabs(POOL, POOL_TILE) is None
    table = replace(make(PROBLEM), pooled={POOL: Pooled(POOL_TILE, seconds, 1e-4)})
    path.write_text(table.dumps())
    assert tables.read(path, H200) == table
    used = Tuned(((path, tables.read(path, H200)),))
    assert used.pools_over_slabs(POOL, POOL_TILE) is faster
    assert used.pools_over_slabs(POOL, replace(POOL_TILE, stages=2)) is None
    assert used.pools_over_slabs(replace(POOL, batch=4), POOL_TILE) is None


@pytest.mark.parametrize(
    "change", [{"seconds": -1.0}, {"otherwise_seconds": None}, {"batch": "8"}, {"tile": {}}]
)
def test_a_pool_that_is_malformed_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    whole = json.loads(replace(make(PROBLEM), pooled={POOL: Pooled(POOL_TILE, 1e-4, 1e-4)}).dumps())
    for pools in ([whole["pooled"][0] | change], whole["pooled"] * 2):
        path.write_text(json.dumps(whole | {"pooled": pools}))
        with pytest.raises(TableError, match="is not used"):
            tables.read(path, H200)


def test_only_what_was_measured_is_served(tmp_path: Path) -> None:
    used = Tuned(((tmp_path, make(PROBLEM)),))
    assert used.get(PROBLEM) == candidates(PROBLEM)[-1] != choose(PROBLEM)
    for change in (
        {"batch": 4},
        {"size": (32, 56, 57)},
        {"in_channels": 96},
        {"out_channels": 64},
        {"kernel": (3, 3, 1)},
        {"stride": TWO},
        {"describable": False},
        {"split": 64},
        {"multiprocessors": 114},
        {"precision": Precision.TF32X3},
    ):
        assert used.get(replace(PROBLEM, **change)) is None  # type: ignore[arg-type]


def first(data: dict[str, Any]) -> dict[str, Any]:
    return data["entries"][0]


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "other candidates": (lambda d: d.update(candidates="0123"), "of the candidates 0123"),
    "no candidates": (lambda d: d.pop("candidates"), "no 'candidates'"),
    "another GPU": (lambda d: d["gpu"].update(name="NVIDIA A100"), "NVIDIA A100"),
    "fewer multiprocessors": (lambda d: d["gpu"].update(multiprocessors=114), "114"),
    "no GPU": (lambda d: d.pop("gpu"), "no 'gpu'"),
    "no date": (lambda d: d.pop("date"), "no 'date'"),
    "a number for a version": (lambda d: d.update(torch=2.13), "2.13 is not str"),
    "no such tile": (lambda d: first(d)["config"].update(block_n=256), "is not a candidate"),
    "too many warps": (lambda d: first(d)["config"].update(warps=8), "is not a candidate"),
    "text for a number": (lambda d: first(d)["config"].update(stages="3"), "is not a candidate"),
    "an unknown field": (lambda d: first(d)["config"].update(cluster=2), "cluster"),
    "a missing field": (lambda d: first(d)["config"].pop("stages"), "stages"),
    "a negative size": (lambda d: first(d).update(size=[32, -56, 56]), "-56 is below 0"),
    "two sizes": (lambda d: first(d).update(size=[32, 56]), "not enough values"),
    "a fraction": (lambda d: first(d).update(batch=1.5), "1.5 is not int"),
    "a length for a size": (lambda d: first(d).update(size=56), "iterable"),
    "a text for a flag": (lambda d: first(d).update(describable="yes"), "'yes' is not int"),
    "no precision, as before there was float32": (lambda d: first(d).pop("precision"), "no 'precision'"),
    "another precision": (lambda d: first(d).update(precision="tf32"), "is not a candidate"),
    "an unknown precision": (lambda d: first(d).update(precision="fp8"), "'fp8' is not a valid Precision"),
    "no time": (lambda d: first(d).update(seconds=float("nan")), "nan is not a time"),
    "slabs of another kind": (lambda d: first(d).update(slab=1e-4), "not subscriptable"),
    "no time of slabs": (lambda d: first(d)["slab"].pop("seconds"), "no 'seconds'"),
    "a text for it": (lambda d: first(d)["slab"].update(seconds="fast"), "'fast' is not float"),
    "no such field of a tile": (lambda d: first(d)["slab"]["tile"].update(warps=8), "warps"),
    "a missing field of a tile": (lambda d: first(d)["slab"]["tile"].pop("units"), "units"),
    "the same twice": (lambda d: d["entries"].append(first(d)), "twice"),
    "entries of another kind": (lambda d: d.update(entries=3), "not iterable"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_refused_and_why(damage: str, tmp_path: Path) -> None:
    data = json.loads(make(PROBLEM, slab=Slab(TILE, 1e-4)).dumps())
    change, why = DAMAGE[damage]
    change(data)
    path = tmp_path / "a table.json"
    path.write_text(json.dumps(data))
    with pytest.raises(TableError) as raised:
        tables.read(path, H200)
    for word in (str(path), why, "fasti3d tune"):
        assert word in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "null", '{"candidates": ', "\xff"])
def test_files_that_are_no_tables(text: str, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TableError, match=r"table\.json"):
        tables.read(path, H200)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's table of the H200, and the package's."""
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))
    monkeypatch.setattr(tables, "SHIPPED", tmp_path / "shipped")
    for folder in ("tuned", "shipped"):
        (tmp_path / folder).mkdir()
    return tmp_path / "tuned" / "nvidia-h200.json", tmp_path / "shipped" / "nvidia-h200.json"


def test_the_users_table_comes_first_and_the_packages_after_it(folders: tuple[Path, Path]) -> None:
    own, shipped = folders
    assert tables.find(H200) == Tuned()
    other = replace(PROBLEM, batch=1)
    shipped.write_text(make(PROBLEM, other).dumps())
    mine = make(PROBLEM)
    mine = replace(mine, entries={PROBLEM: Entry(candidates(PROBLEM)[1], 1e-5, 2e-4)})
    own.write_text(mine.dumps())
    found = tables.find(H200)
    assert [path for path, _ in found.tables] == [own, shipped]
    assert found.refused == ()
    assert found.get(PROBLEM) == candidates(PROBLEM)[1]
    assert found.get(other) == candidates(other)[-1]
    assert tables.find(H200._replace(name="NVIDIA H200 NVL")) == Tuned()


def test_a_refused_table_is_warned_of_once_and_the_other_used(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shipped = folders
    own.write_text("{}")
    shipped.write_text(make(PROBLEM).dumps())
    monkeypatch.setattr(tables, "gpu", lambda device: H200)
    tables.tuned.cache_clear()
    device = torch.device("cuda", 7)
    try:
        with pytest.warns(UserWarning, match=r"tuned.nvidia-h200\.json is not used \(no 'candidates'\)"):
            assert tables.tuned(device).get(PROBLEM) == candidates(PROBLEM)[-1]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(tables.tuned(device).refused) == 1
    finally:
        tables.tuned.cache_clear()


def test_other_devices_have_none() -> None:
    assert tables.tuned(torch.device("cpu")) == Tuned()


@pytest.mark.parametrize("path", sorted(tables.SHIPPED.glob("*.json")), ids=lambda path: path.name)
def test_shipped_tables_are_good(path: Path) -> None:
    its = json.loads(path.read_text())["gpu"]
    gpu = Gpu(its["name"], tuple(its["capability"]), its["multiprocessors"])
    assert gpu.file_name == path.name
    assert tables.read(path, gpu).entries


def test_a_config_is_written_in_full() -> None:
    line = json.loads(make(PROBLEM).dumps())["entries"][0]
    assert Config(**(line["config"] | {"box": tuple(line["config"]["box"])})) == candidates(PROBLEM)[-1]
    assert line["config"].keys() == asdict(choose(PROBLEM)).keys()
