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
from fasti3d.engine import gpu_steps
from fasti3d.engine.batch_norm import fold
from fasti3d.engine.gpu_steps import GpuMixedStep
from fasti3d.engine.layers import Layer, layers
from fasti3d.engine.place import Arena
from fasti3d.engine.steps import MixedStep, SeparateMixedStep
from fasti3d.ops.conv3d_bn_relu import PackedConv3d
from fasti3d.reference import Mixed, Unit3D

Run = Callable[[], Tensor]

BLOCKS = ("Mixed_3b", "Mixed_3c", "Mixed_4b", "Mixed_4f", "Mixed_5b")
LAYERS: dict[str, list[Layer]] = {
    block: [layer for layer in layers(3, (64, 224, 224)) if layer.name.startswith(block)] for block in BLOCKS
}
# Of the largest value, of three maps rounded to float16 one after the other.
TOLERANCE = 3 * 2**-11


def _pack(*units: Unit3D) -> PackedConv3d:
    weights, biases = zip(*(fold(unit.conv3d, unit.bn) for unit in units), strict=True)
    weight, bias = torch.cat(weights), torch.cat(biases)
    return PackedConv3d.pack(weight, bias, (1, 1, 1), relu=True, dtype=torch.float16)


def _stepped(kind: type[MixedStep]) -> Callable[[Mixed, Tensor], Run]:
    def build(block: Mixed, x: Tensor) -> Run:
        step = kind(block, _pack)
        measured = Arena(x.dtype, x.device)
        step(x.to("meta"), measured)
        return lambda: step(x, Arena(x.dtype, x.device, measured.peak))

    return build


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
    "fasti3d": (_stepped(GpuMixedStep), None),
    "fasti3d, the pool in the convolution": (_stepped(GpuMixedStep), True),
    "fasti3d, the pool apart": (_stepped(GpuMixedStep), False),
    "fasti3d, every convolution apart": (_stepped(SeparateMixedStep), None),
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
            monkeypatch.setattr(gpu_steps, "pool_pays", lambda *_: pooled)
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
