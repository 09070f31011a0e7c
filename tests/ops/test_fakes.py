"""Every operator under fake tensors, and torch's own checks of those that no other test checks so."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fasti3d.flow.params import TVL1Params
from fasti3d.ops.conv3d_bn_relu.winograd import minimal_filter
from fasti3d.runtime import extension

OPERATORS = torch.ops.fasti3d
needs_extension = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")


def test_every_operator_has_shapes_for_tracing() -> None:
    found = torch._C._dispatch_get_all_op_names()
    names = {name.split(".")[0] for name in found if name.startswith("fasti3d::")}
    assert len(names) >= 9
    registered = torch._library.simple_registry.singleton
    assert [name for name in sorted(names) if registered.find(name).fake_impl.kernel is None] == []


@needs_extension
def test_every_compiled_kernel_is_of_an_operator_that_python_defines() -> None:
    dangling = [line for line in torch._C._dispatch_find_dangling_impls() if "fasti3d::" in line]
    assert dangling == []
    for name in ("conv3d_packed_", "depthwise_conv3d_", "fingerprint", "max_pool3d_", "tvl1", "tvl1_exact"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"fasti3d::{name}", "CPU"), name


@needs_extension
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights(dtype: torch.dtype) -> None:
    for channels, kernel in product((3, 16, 17), ((1, 1, 1), (3, 3, 2), (7, 1, 3))):
        weight = torch.randn(40, channels, *kernel)
        width = 1 if channels < 16 or dtype == torch.bfloat16 else 2
        for outputs, stride in (((), 1), ((2, 2, width), 1), ((2, 3, 1), 2)):
            matrices = [minimal_filter(m, k, stride).filters for m, k in zip(outputs, kernel, strict=False)]
            real = OPERATORS.conv3d_pack(weight, dtype, matrices)
            with FakeTensorMode() as mode:
                fake = OPERATORS.conv3d_pack(
                    mode.from_tensor(weight), dtype, [mode.from_tensor(m) for m in matrices]
                )
            assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def conv_arguments(*, winograd: bool) -> tuple[Any, ...]:
    x, out = (torch.randn(1, n, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d) for n in (16, 8))
    transforms = [minimal_filter(outputs, 3) for outputs in (4, 2, 2)] if winograd else []
    packed = OPERATORS.conv3d_pack(
        torch.randn(8, 16, 3, 3, 3), torch.float32, [t.filters for t in transforms]
    )
    matrices = ([t.inputs for t in transforms], [t.outputs for t in transforms]) if winograd else ()
    return (x, packed, torch.zeros(16), *matrices, [3, 3, 3], [1, 1, 1], None, True, out, 0)


def flow_arguments() -> tuple[Any, ...]:
    frames = torch.randint(0, 256, (3, 16, 20), dtype=torch.uint8)
    p = TVL1Params(nscales=2, warps=1, inner_iterations=2, outer_iterations=1)
    return (
        frames, None, None, p.mode, p.tau, p.lambda_, p.theta, p.nscales, p.warps, p.epsilon,
        p.inner_iterations, p.outer_iterations, p.scale_step, p.gamma, p.median_filtering,
    )  # fmt: skip


@needs_extension
@pytest.mark.parametrize(
    "name", ["conv3d_pack", "conv3d_packed_", "conv3d_winograd_", "tvl1_exact", "fingerprint"]
)
def test_opcheck(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "conv3d_pack": (torch.randn(8, 17, 3, 3, 3), torch.float32, [minimal_filter(4, 3).filters] * 3),
        "conv3d_packed_": conv_arguments(winograd=False),
        "conv3d_winograd_": conv_arguments(winograd=True),
        "tvl1_exact": flow_arguments(),
        "fingerprint": ([torch.randn(3), torch.randn(2, 2)],),
    }
    torch.library.opcheck(getattr(OPERATORS, name).default, arguments[name])


def test_a_fingerprint_in_a_graph_is_that_of_the_contents() -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * (OPERATORS.fingerprint([x]) % 7)

    compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    for x in (torch.randn(5), torch.randn(5)):
        assert torch.equal(compiled(x), scaled(x))
    with FakeTensorMode():
        assert isinstance(OPERATORS.fingerprint([torch.empty(3)]), int)
