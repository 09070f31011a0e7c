"""A Mixed block on a GPU: as the plan runs it, with and without what it fuses, and against tuned cuDNN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.conftest import Race, rounds_within
from benchmarks.gpu_timing import captured, synchronised
from fasti3d import network
from fasti3d.engine import plan, steps
from fasti3d.engine.batch_norm import fold
from fasti3d.engine.code import Code, decode
from fasti3d.engine.graph import Graph
from fasti3d.engine.plan import Plan
from fasti3d.inspect.layers import Layer, layers
from fasti3d.reference import Mixed, Unit3D

Run = Callable[[], Tensor]

BLOCKS = ("Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4f", "Mixed_5b")
LAYERS: dict[str, list[Layer]] = {
    block: [layer for layer in layers(3, (64, 224, 224)) if layer.name.startswith(block)] for block in BLOCKS
}
# Of the largest value, of three maps rounded to float16 one after the other.
TOLERANCE = 3 * 2**-11


def _graph(block: Mixed) -> Graph:
    code = Code.empty()

    def unit(part: Unit3D, x: int) -> int:
        bn, weight = part.bn, part.conv3d.weight
        assert bn is not None
        assert bn.running_mean is not None
        assert bn.running_var is not None
        y = code.conv(x, weight, None, part.stride, None, "")
        y = code.norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.eps, "")
        return code.relu(y, "")

    b0, b1a, b2a = (unit(part, 0) for part in (block.b0, block.b1a, block.b2a))
    pooled = code.pool(0, block.b3a.kernel, block.b3a.stride, None, "")
    out = code.concat([b0, unit(block.b1b, b1a), unit(block.b2b, b2a), unit(block.b3b, pooled)], "")
    return decode(code.numbers, code.tensors, code.floats, {"block": out})


def _planned(block: Mixed, x: Tensor) -> Run:
    made = Plan(_graph(block), torch.float16, x.device)
    layout = made.layout(x.shape, {"block"})
    memory = torch.empty(layout.nbytes, dtype=torch.uint8, device=x.device).view(torch.float16)
    return lambda: layout.run({0: x}, memory, lambda y: y)["block"]


def _apart(block: Mixed, x: Tensor) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "join_siblings", lambda graph: graph)
        return _planned(block, x)


def _torch(block: Mixed, x: Tensor) -> Run:
    """Batch norm folded, channels_last_3d."""
    units = {name: unit for name, unit in block.named_children() if isinstance(unit, Unit3D)}
    folded = {}
    for name, unit in units.items():
        weight, bias = (t.half() for t in fold(unit.conv3d, unit.bn))
        folded[name] = weight.to(memory_format=torch.channels_last_3d), bias, weight.shape[2] // 2

    def conv(name: str, x: Tensor) -> Tensor:
        weight, bias, padding = folded[name]
        return F.conv3d(x, weight, bias, padding=padding).relu_()

    def run() -> Tensor:
        pooled = F.max_pool3d(x, 3, 1, 1)
        branches = (conv("b0", x), conv("b1b", conv("b1a", x)), conv("b2b", conv("b2a", x)))
        return torch.cat((*branches, conv("b3b", pooled)), dim=1)

    return run


# By name: what is built, and whether branch 3 is one kernel (None: where it is expected to pay).
CANDIDATES: dict[str, tuple[Callable[[Mixed, Tensor], Run], bool | None]] = {
    "fasti3d": (_planned, None),
    "fasti3d, the pool in the convolution": (_planned, True),
    "fasti3d, the pool apart": (_planned, False),
    "fasti3d, every convolution apart": (_apart, None),
    "torch, BN folded, channels_last_3d": (_torch, None),
}


def _replayed(run: Run) -> Run:
    return synchronised(captured(run))


@pytest.mark.gpu
@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("block_name", BLOCKS)
def test_mixed_block(
    race: Race, block_name: str, batch: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    work, spec = LAYERS[block_name], network.TRUNK[block_name]
    assert isinstance(spec, network.Mixed)
    torch.manual_seed(0)
    block = Mixed(work[0].in_channels, spec).eval().cuda()
    x = torch.randn(batch, *work[0].in_size, work[0].in_channels, device="cuda", dtype=torch.float16)
    x = x.relu_().permute(0, 4, 1, 2, 3)
    with torch.no_grad():
        ours = _replayed(CANDIDATES["fasti3d"][0](block, x))
        build, pooled = CANDIDATES[name]
        if pooled is not None:
            monkeypatch.setattr(steps, "pool_pays", lambda *_: pooled)
        candidate = _replayed(build(block, x))
        expected = block(x.float())
        for run in (ours, candidate):
            error = (run().float() - expected).abs().max() / expected.abs().max()
            assert error <= TOLERANCE, "a wrong result has no speed"

        case = f"{block_name} batch {batch} float16 cuda"
        race.benchmark.group = f"mixed_block {case}"
        race.benchmark.extra_info |= {"candidate": name, "case": case}
        race(
            candidate,
            None if name == "fasti3d" else ours,
            rounds=rounds_within(0.1, candidate),
            flop=batch * sum(layer.flop for layer in work),
        )
