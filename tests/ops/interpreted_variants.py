"""The benchmarks' variants of convolutions in Triton's interpreter: run by test_conv3d_variants_triton.py."""

from __future__ import annotations

import pytest
import torch
from interpreting import CHIPS, Triple, clip, pack, weights

from benchmarks.conv3d_variants import LATER, QUESTIONS
from fasti3d.inspect import tune
from fasti3d.ops.conv3d_bn_relu import launch
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry

ONE, TWO, THREE = (1, 1, 1), (2, 2, 2), (3, 3, 3)
# By question: input channels, size, output channels, kernel and stride, none of which a tile fits.
CONVOLUTIONS: dict[str, list[tuple[int, Triple, int, Triple, Triple]]] = {
    "tiles": [(24, (3, 5, 6), 72, THREE, ONE)],
    "stages": [(48, (3, 5, 6), 72, ONE, ONE)],
    "warps": [(24, (3, 5, 6), 72, THREE, ONE)],
    "operand order": [(24, (3, 5, 6), 72, THREE, ONE), (48, (3, 5, 6), 72, ONE, ONE)],
    "boxes": [(24, (3, 5, 6), 72, THREE, ONE)],
    # An odd number of frames: the last pair has one.
    "stem": [(3, (5, 9, 35), 32, (7, 7, 7), TWO)],
    "slabs": [(24, (3, 5, 6), 72, THREE, ONE), (3, (3, 5, 7), 32, (7, 7, 7), TWO)],
}


@pytest.mark.parametrize(
    "question", [pytest.param(name, marks=pytest.mark.slow) if name in LATER else name for name in QUESTIONS]
)
def test_every_variant_is_right(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "gpu_traits", lambda device: CHIPS["descriptor"])
    for channels, size, out_channels, kernel, stride in CONVOLUTIONS[question]:
        x = clip(2, channels, size)
        weight, bias = weights(out_channels, channels, kernel)
        packed = pack(weight, bias, stride, True, x.dtype)
        out = torch.empty_like(packed(x))
        work = launch.prepare(x, packed.weight, bias, Geometry(kernel, stride, None, True), out, 0)
        expected = tune.reference(work)
        for name, variant in QUESTIONS[question].variants.items():
            out.fill_(torch.nan)
            variant(work)()
            assert tune.fault(work, expected) is None, name
