"""fasti3d::max_pool3d_same against torch's pad + max_pool3d, at every pool of a 64x224x224 clip."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conftest import Race, rounds_within
from fasti3d import network, ops
from fasti3d.inspect.layers import Layer, layers
from fasti3d.ops.max_pool3d_same import op
from fasti3d.same_padding import pad_same

# One of each shape: 4d and 4e pool what 4c does, 5c what 5b does.
_ALL = [layer for layer in layers(3, (64, 224, 224)) if isinstance(layer.spec, network.Pool)]
POOLS = list({(p.spec, p.in_channels, p.in_size): p for p in reversed(_ALL)}.values())[::-1]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _padded(x: Tensor, pool: Layer) -> Tensor:
    padded = pad_same(x, pool.spec.kernel, pool.spec.stride, float("-inf"))
    return F.max_pool3d(padded, pool.spec.kernel, pool.spec.stride)


def _fasti3d(x: Tensor, pool: Layer) -> Tensor:
    return ops.max_pool3d_same(x, pool.spec.kernel, pool.spec.stride)


def _triton(x: Tensor, pool: Layer) -> Tensor:
    """Also where there is a compiled kernel, which goes first."""
    window = (list(pool.spec.kernel), list(pool.spec.stride))
    out = op._fake(x, *window)
    op._triton_into(x, *window, None, False, out)
    return out


CANDIDATES: dict[str, tuple[Callable[[Tensor, Layer], Tensor], torch.memory_format]] = {
    "fasti3d": (_fasti3d, torch.channels_last_3d),
    "fasti3d, Triton": (_triton, torch.channels_last_3d),
    "torch pad + max_pool3d, channels_last_3d": (_padded, torch.channels_last_3d),
    "torch pad + max_pool3d, NCDHW": (_padded, torch.contiguous_format),
}


def build(name: str, pool: Layer, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    function, memory_format = CANDIDATES[name]
    generator = torch.Generator().manual_seed(0)
    # ReLU in front, as in the network, gives ties and zeros.
    x = torch.randn(1, pool.in_channels, *pool.in_size, generator=generator).relu_()
    x = x.to(device, dtype).contiguous(memory_format=memory_format)

    def run() -> Tensor:
        with torch.no_grad():
            pooled = function(x, pool)
            if x.is_cuda:
                torch.cuda.synchronize()
            return pooled

    return run


@functools.lru_cache(maxsize=1)
def ours(pool: Layer, dtype: torch.dtype, device: str) -> Callable[[], Tensor]:
    return build("fasti3d", pool, dtype, device)


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_max_pool3d_same(race: Race, device: str, pool: Layer, dtype: torch.dtype, name: str) -> None:
    if device == "cpu" and "Triton" in name:
        pytest.skip("Triton runs on GPUs")
    candidate = build(name, pool, dtype, device)
    mine = ours(pool, dtype, device)
    assert torch.equal(candidate(), mine()), "a wrong result has no speed"  # a maximum has no rounding

    case = f"{pool} {str(dtype).removeprefix('torch.')} {device}"
    race.benchmark.group = f"max_pool3d_same {case}"
    race.benchmark.extra_info |= {"candidate": name, "case": case}
    race(
        candidate,
        None if name == "fasti3d" else mine,
        rounds=rounds_within(0.3, candidate),
        moved_bytes=pool.elements * dtype.itemsize,
    )
