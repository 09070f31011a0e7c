"""What folds a clip is launched again as Triton launched it, for a GPU that is not there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.stub_gpu import Driver, h200
from fasti3d.ops.conv3d_bn_relu import fold as folding
from fasti3d.ops.conv3d_bn_relu.fold import fold
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import cells_shape
from fasti3d.runtime import builds

# Of a launch's arguments, after the grid, stream and function: what profilers are told.
_HOOKS = slice(6, 9)
GEOMETRY = Geometry((7, 7, 7), (2, 2, 2), None, True)


def memory(*shape: int, offset: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    whole = torch.zeros(1 + torch.Size(shape).numel(), dtype=dtype)
    return whole[offset : len(whole) - 1 + offset].view(shape)


# Clips of which each is compiled for, or told apart by its arguments alone.
CLIPS: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: memory(1, 3, 4, 16, 16),
    "more frames": lambda: memory(1, 3, 6, 16, 16),
    "frames as they are decoded": lambda: memory(1, 4, 16, 16, 3).permute(0, 4, 1, 2, 3),
    "cut from longer ones": lambda: memory(1, 3, 6, 16, 16)[:, :, 2:],
    "not aligned": lambda: memory(1, 3, 4, 16, 16, offset=1),
    "bytes": lambda: memory(1, 3, 4, 16, 16, dtype=torch.uint8),
}


def cells_of(x: Tensor) -> Tensor:
    size = GEOMETRY.output_size(x.shape[2:])
    return memory(*cells_shape(1, 3, GEOMETRY.kernel, GEOMETRY.stride, size))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is launched on a GPU without anything compiled: kernels, grids and arguments."""
    found: list[tuple[Any, ...]] = []

    def launcher(self: Driver, source: Any, metadata: Any) -> Any:
        return lambda *given: found.append((metadata.name, source.signature, source.attrs, given))

    monkeypatch.setattr(Driver, "launcher_cls", launcher)
    monkeypatch.setattr(folding, "_launches", type(folding._launches)())
    folding._conv3d_fold_kernel.device_caches.clear()
    with h200():
        yield found
    folding._conv3d_fold_kernel.device_caches.clear()


def test_it_is_launched_again_as_at_first(launched: list[tuple[Any, ...]]) -> None:
    clips = {name: make() for name, make in CLIPS.items()}
    for x in clips.values():
        fold(x, GEOMETRY, cells_of(x))
    assert len(folding._launches) == len(clips)
    by_triton = launched.copy()
    launched.clear()
    folding._conv3d_fold_kernel.device_caches.clear()  # so that Triton would compile anew
    others = {name: make() for name, make in CLIPS.items()}
    targets = {name: cells_of(x) for name, x in others.items()}
    for name, x in others.items():
        fold(x, GEOMETRY, targets[name])
    assert not folding._conv3d_fold_kernel.device_caches
    for name, (*first, given), (*again, given_again) in zip(clips, by_triton, launched, strict=True):
        (x, cells, *rest), (_, _, *rest_of_first) = given_again[_HOOKS.stop :], given[_HOOKS.stop :]
        assert (x is others[name], cells is targets[name]) == (True, True), name
        assert (again, given_again[: _HOOKS.start], rest) == (first, given[: _HOOKS.start], rest_of_first), (
            name
        )


def test_what_is_only_noted_is_not_kept(launched: list[tuple[Any, ...]]) -> None:
    x = CLIPS["dense"]()
    assert [build.name for build in builds.recorded(lambda: fold(x, GEOMETRY, cells_of(x)))] == [
        "_conv3d_fold_kernel"
    ]
    assert not folding._launches
    assert not launched


def test_the_oldest_are_forgotten(launched: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "_MAX_LAUNCHES", 1)
    for name in ("dense", "more frames"):
        x = CLIPS[name]()
        fold(x, GEOMETRY, cells_of(x))
    ((_, _, _, _, shape, *_),) = folding._launches
    assert shape[2] == 6
