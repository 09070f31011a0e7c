"""Hostile files run nothing, take no memory that they do not bring, and give one clear error."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fasti3d.weights import WeightsError, load
from fasti3d.weights.containers import read

# TorchScript is on its way out, but its archives are still about.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def _arrays(data: bytes) -> dict[str, torch.Tensor]:
    return dict(read(io.BytesIO(data)).groups[""])


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _call(module: str, name: str, *arguments: str) -> bytes:
    """Protocol 4: module.name(*arguments), the names taken from the stack."""
    pushed = b"".join(map(_text, arguments))
    return b"\x80\x04" + _text(module) + _text(name) + b"\x93(" + pushed + b"tR."


class _Reduce:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


HOSTILE: dict[str, Callable[[str], bytes]] = {
    "os.system, protocol 4": lambda c: pickle.dumps(_Reduce(os.system, f"touch {c}"), 4),
    "os.system, protocol 2": lambda c: pickle.dumps(_Reduce(os.system, f"touch {c}"), 2),
    "os.system, protocol 0": lambda c: pickle.dumps(_Reduce(os.system, f"touch {c}"), 0),
    "eval": lambda c: pickle.dumps(_Reduce(eval, f"open({c!r}, 'w')"), 4),
    "open inside a dict of arrays": lambda c: pickle.dumps(
        {"params": {"a": np.ones(3), "b": _Reduce(open, c, "w")}}, 4
    ),
    "numpy function that writes": lambda c: pickle.dumps(_Reduce(np.savetxt, c, np.ones(1)), 4),
    "numpy's own eval": lambda c: _call("numpy.testing._private.utils", "runstring", f"open({c!r}, 'w')", ""),
    "attribute of an allowed name": lambda c: _call("numpy", "ndarray.tofile", c),
    "module of an allowed name": lambda c: _call("numpy.core.multiarray", "os.system", f"touch {c}"),
    "names out of the memo": lambda c: (
        b"\x80\x04"
        + _text("posix")
        + b"q\x00"
        + _text("system")
        + b"q\x01"
        + b"00h\x00h\x01\x93"
        + _text(f"touch {c}")
        + b"\x85R."
    ),
    "INST": lambda c: f"(S'touch {c}'\nios\nsystem\n.".encode(),
    "OBJ": lambda c: b"(cos\nsystem\n" + _text(f"touch {c}") + b"o.",
    "NEWOBJ": lambda c: b"\x80\x02cos\nsystem\n" + _text(f"touch {c}") + b"\x85\x81.",
    "persistent id": lambda c: b"\x80\x02" + _text(c) + b"Q.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "weights.ckpt"
    path.write_bytes(HOSTILE[name](str(canary)))
    with pytest.raises(WeightsError, match=str(path)):
        load(path)
    assert not canary.exists()


def test_the_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """Python's own unpickler runs them: the test above would fail without the guard."""
    canary = tmp_path / "canary"
    for name in ("os.system, protocol 4", "eval", "names out of the memo", "INST"):
        canary.unlink(missing_ok=True)
        pickle.loads(HOSTILE[name](str(canary)))
        assert canary.exists(), name


def test_extension_codes_are_refused_even_where_registered(tmp_path: Path) -> None:
    """Registered and once used, they would come from a table without anybody being asked."""
    copyreg.add_extension("posix", "system", 0x7F)
    try:
        canary = tmp_path / "canary"
        data = b"\x80\x02\x82\x7f" + _text(f"touch {canary}") + b"\x85R."
        pickle.loads(data)
        assert canary.exists()
        canary.unlink()
        with pytest.raises(WeightsError, match="opcode EXT1"):
            _arrays(data)
        assert not canary.exists()
    finally:
        copyreg.remove_extension("posix", "system", 0x7F)


_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
_DTYPE = (
    b"cnumpy\ndtype\n"
    + _text("f4")
    + b"\x89\x88\x87R(K\x03"
    + _text("<")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)


def _array(shape: bytes, raw: bytes) -> bytes:
    return b"\x80\x03" + _ARRAY + b"(K\x01" + shape + _DTYPE + b"\x89C" + bytes([len(raw)]) + raw + b"tb."


LYING = {
    "bytes": b"\x80\x04B\xf0\xff\xff\xffabc.",
    "text": b"\x80\x04X\xf0\xff\xff\xffabc.",
    "8-byte length": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "text in one of many bytes": b"\x80\x04\x8d" + struct.pack("<Q", (1 << 63) - 1) + b"abc.",
    "more objects than any checkpoint has": b"\x80\x02" + b"}" * 60_000 + b".",
    "a tuple in a tuple as a key": b"\x80\x02})" + b"\x85" * 60_000 + b"Ns.",
    "array shape": _array(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"1234"),
}


def test_an_honest_array_of_the_same_making_loads() -> None:
    tensors = _arrays(_array(b"K\x01\x85", struct.pack("<f", 2.5)))
    assert torch.equal(tensors[""], torch.tensor([2.5]))


@pytest.mark.parametrize("name", LYING)
def test_a_small_file_that_claims_much_takes_no_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fasti3d.weights.unpickle._MAX_STEPS", 50_000)  # a tenth, for a tenth of the time
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"damaged|this is not an I3D|has 4 bytes"):
            _arrays(LYING[name])
        assert tracemalloc.get_traced_memory()[1] < 2_000_000 + 120 * len(LYING[name])
    finally:
        tracemalloc.stop()


def test_one_array_under_many_names_is_not_read_many_times() -> None:
    array = np.zeros(250_000, np.float32)
    with pytest.raises(WeightsError, match="the same bytes over and over"):
        _arrays(pickle.dumps({f"a{i}": array for i in range(100)}, 4))


def test_dicts_without_end_are_walked_once() -> None:
    """Each twice in the next, and the last in itself: a few hundred bytes, a hundred million paths."""
    tree: dict[str, Any] = {"a": np.ones(1)}
    for _ in range(28):
        tree = {"a": tree, "b": tree}
    tree["self"] = tree
    assert len(_arrays(pickle.dumps(tree, 4))) == 1


def test_tuples_in_tuples_are_never_hashed() -> None:
    """Python's own hash of them would overflow the stack."""
    deep = b"\x80\x02})" + b"\x85" * 400_000 + b"Ns."
    with pytest.raises(WeightsError, match="no I3D weights in it"):
        load(io.BytesIO(deep))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}, os.system], dtype=object),
        np.zeros(2, dtype=[("a", "f4")]),
        np.array(["text"]),
        np.zeros(2, dtype="M8[s]"),
    ],
    ids=["objects", "fields", "text", "dates"],
)
def test_only_arrays_of_numbers_become_tensors(array: np.ndarray) -> None:
    with pytest.raises(WeightsError, match="a: it is not an array of plain numbers"):
        _arrays(pickle.dumps({"a": array}, 4))


def test_one_file_cannot_change_how_the_next_is_read() -> None:
    """BUILD on what a name stands for would set attributes there, were it a class or a function."""
    good = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    for name in (b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"):
        for state in (b"}" + _text("spec") + _text("f8") + b"s", b"N}" + _text("__call__") + b"Ns\x86"):
            assert not _arrays(b"\x80\x02" + name + state + b"b.")
    assert torch.equal(_arrays(pickle.dumps(good, 4))["a/b"], torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", "<i4", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_kind_come_back(dtype: str, order: str, protocol: int) -> None:
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype=dtype, order=order)
    (tensor,) = _arrays(pickle.dumps({"x": array}, protocol)).values()
    assert tensor.dtype == torch.from_numpy(array.astype(dtype[1:])).dtype
    assert torch.equal(tensor, torch.arange(24).reshape(2, 3, 4).to(tensor.dtype))


@pytest.mark.parametrize("cut", [0, 1, 20, 60, -1])
def test_a_cut_pickle_is_called_damaged(cut: int) -> None:
    data = pickle.dumps({"a": np.arange(100.0)}, 4)
    with pytest.raises(WeightsError, match=r"damaged|the file is empty|not a weights file"):
        _arrays(data[:cut])


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_torch_file_runs_nothing(legacy: bool, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "weights.pt"
    torch.save(
        {"state_dict": _Reduce(os.system, f"touch {canary}")},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match="Python objects besides tensors"):
        load(path)
    assert not canary.exists()


class _Writer(torch.nn.Module):
    """A TorchScript module that restores itself by writing a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path = state[0]
        self.training = state[1]
        self.weight = torch.ones(1)
        torch.save(self.weight, self.path)


def test_a_hostile_torchscript_archive_runs_nothing(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "detector.pt"
    torch.jit.save(torch.jit.script(_Writer(str(canary))), path)
    with pytest.raises(WeightsError, match="no I3D weights in it"):
        load(path)
    assert not canary.exists()
    torch.jit.load(path)  # what the reader does not use would have written it
    assert canary.exists()


def test_what_a_torchscript_archive_names_is_not_looked_up(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "detector.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/code/__torch__.py", "")
        archive.writestr("x/data.pkl", HOSTILE["NEWOBJ"](str(canary)))
    with pytest.raises(WeightsError, match=r"Python objects besides tensors \(os\.system\) are left out"):
        load(path)
    assert not canary.exists()
