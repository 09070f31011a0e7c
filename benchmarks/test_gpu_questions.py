"""Open questions of the convolutions on a GPU, a table each: which variant is right, and what each takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.conftest import DeviceClock
from benchmarks.test_gpu_layers import CLIP, arguments
from fasti3d.inspect import tune
from fasti3d.inspect.layers import layers
from fasti3d.ops.conv3d_bn_relu import PackedConv3d

pytest.importorskip("triton", reason="triton is not installed")

from triton.errors import TritonError

from benchmarks.conv3d_variants import QUESTIONS

if TYPE_CHECKING:
    from fasti3d.ops.conv3d_bn_relu.launch import Prepared

pytestmark = pytest.mark.gpu

LAYERS = {layer.name: layer for layer in layers(3, CLIP)}
# A race shows now and then.
CHECKS = 10
ROWS = [
    pytest.param(question, layer, batch, variant, id=f"{question}-{layer}-{batch}-{variant}")
    for question, (names, batches, variants) in QUESTIONS.items()
    for layer in names
    for batch in batches
    for variant in variants
]


class Asked(NamedTuple):
    """A layer on random values: how its launch is prepared, that launch, and what it should write."""

    prepare: Callable[[], Prepared]
    work: Prepared
    expected: Tensor


@functools.lru_cache(maxsize=1)
def asked(name: str, batch: int) -> Asked:
    from fasti3d.ops.conv3d_bn_relu import launch

    layer = LAYERS[name]
    x, weight, bias = arguments(layer, batch)
    packed = PackedConv3d.pack(weight, bias, layer.spec.stride, relu=True, dtype=x.dtype)
    rest = (packed.weight, packed.bias, packed.geometry, packed(x), 0)
    prepare = functools.partial(launch.prepare, x, *rest)
    work = prepare()
    return Asked(prepare, work, tune.reference(work))


@pytest.mark.parametrize(("question", "name", "batch", "variant"), ROWS)
def test_gpu_question(device_clock: DeviceClock, question: str, name: str, batch: int, variant: str) -> None:
    case = f"{question}: {LAYERS[name]} batch {batch}"
    device_clock.benchmark.group = f"gpu_question {case}"
    device_clock.benchmark.extra_info |= {"candidate": variant, "case": case}
    with torch.no_grad():
        _, work, expected = asked(name, batch)
        try:
            run = QUESTIONS[question].variants[variant](work)
            for _ in range(CHECKS):
                work.out.fill_(torch.nan)
                run()
                if wrong := tune.fault(work, expected):
                    return device_clock.failed(wrong)
        except (RuntimeError, TritonError) as error:  # the driver's answer to a tensor map is one
            return device_clock.failed(f"{type(error).__name__}: {error}".splitlines()[0])
        device_clock(run, flop=batch * LAYERS[name].flop)
        device_clock.benchmark.extra_info["verdict"] = "right"
    return None


@pytest.mark.parametrize("batch", QUESTIONS["stem"].batches)
def test_folding(device_clock: DeviceClock, batch: int) -> None:
    """What all variants of the stem have before them."""
    layer = LAYERS["Conv3d_1a_7x7"]
    prepare, work, _ = asked(layer.name, batch)
    case = f"stem: {layer} batch {batch}"
    device_clock.benchmark.group = f"gpu_question {case}"
    device_clock.benchmark.extra_info |= {"candidate": "the folding alone", "case": case}
    read = batch * layer.in_channels * math.prod(layer.in_size) * work.out.element_size()
    device_clock(prepare, moved_bytes=read + work.x.untyped_storage().nbytes())
