"""The files that torch.save and torch.jit.save write, without running anything of them."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from functools import cache
from typing import IO, Any, NamedTuple

from torch import Tensor

from fasti3d.utils.archives import Archive
from fasti3d.utils.parsing import brief
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.records import Array, Storage, View
from fasti3d.weights.unpickle import unpickle

_COUNT = struct.Struct("<q")


class TorchFile(NamedTuple):
    """The content of a file: nested mappings, whose leaves ``load`` converts to tensors.

    Attributes:
        tree: see ``unpickle.walk``.
        load: the tensor of a leaf that ``is_tensor``.
        script: whether it is a TorchScript archive, whose tree is that of its modules.
        skipped: the first names of other objects.
    """

    tree: Any
    load: Callable[[View | Array], Tensor]
    script: bool
    skipped: tuple[str, ...]


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf of a tree is a tensor or an array."""
    return isinstance(leaf, View | Array)


def without_storage(leaf: View | Array) -> Tensor:
    """The tensor of a leaf in a file that has arrays only."""
    return _tensor(leaf, _no_storage)


def _no_storage(storage: Storage) -> bytearray:
    raise WeightsError("its numbers are not in the file")


def _tensor(leaf: View | Array, read: Callable[[Storage], bytearray]) -> Tensor:
    """The tensor of a leaf, whose storage ``read`` gives."""
    return leaf.tensor(read) if isinstance(leaf, View) else leaf.tensor()


def read_zip(archive: Archive) -> TorchFile:
    """Read a file of torch.save since 1.6, or of torch.jit.save, without running its code.

    ``torch.jit.load`` would let the archive's classes restore themselves by code of their own, and
    TorchScript can write files.

    Raises:
        WeightsError, ArchiveError: damaged, or of another kind.
    """
    pickles = [name for name in archive.names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise WeightsError(
            "a zip archive that is neither a torch file nor an npz file: give the weights file that is in it"
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.names and archive.read(f"{root}byteorder") != sys.byteorder.encode():
        raise WeightsError("it was written on a machine of another byte order: save it again on this one")
    content = unpickle(archive.read(pickles[0]))

    stored = cache(lambda name: bytearray(archive.read(name)))

    def read(storage: Storage) -> bytearray:
        name = f"{root}data/{storage.key}"
        if archive.size(name) != storage.nbytes:
            raise WeightsError(
                f"{brief(name)} has {archive.size(name):,} bytes, and {storage.nbytes:,} are needed"
            )
        return stored(name)

    script = any(name.startswith(f"{root}code/") for name in archive.names)
    return TorchFile(content.tree, lambda leaf: _tensor(leaf, read), script, content.skipped)


def read_legacy(file: IO[bytes]) -> TorchFile:
    """Read a file of torch.save before 1.6: pickles in a row, and the storages after them.

    Raises:
        WeightsError: damaged.
    """
    data = file.read()
    file = io.BytesIO(data)
    _magic, _protocol, machine = (unpickle(file).tree for _ in range(3))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise WeightsError("its byte order is not that of this machine, or unknown: save it again")
    content = unpickle(file)
    places: dict[str, slice] = {}
    keys = unpickle(file).tree
    start = file.tell()
    for key in keys:
        storage = content.storages[str(key)]
        (count,) = _COUNT.unpack_from(data, start)
        start += _COUNT.size
        end = start + storage.nbytes
        if count != storage.numel or end > len(data):
            raise WeightsError(f"it is cut short: it ends in storage {brief(storage.key)}")
        places[storage.key] = slice(start, end)
        start = end

    stored = cache(lambda key: bytearray(data[places[key]]))
    return TorchFile(
        content.tree, lambda leaf: _tensor(leaf, lambda storage: stored(storage.key)), False, content.skipped
    )
