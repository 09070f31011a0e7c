"""The head on the CPU, and its Triton kernel without a GPU."""

from __future__ import annotations

import re

import pytest
import torch
from i3d_head_making import MAPS, assert_is_head, head_arguments
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fasti3d.ops.conv3d_bn_relu.config import shared_memory
from fasti3d.ops.i3d_head.op import i3d_head


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", MAPS, ids=str)
def test_maps(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight, bias = head_arguments(shape, 5, dtype)
    assert_is_head(i3d_head(x, weight, bias), x, weight, bias)
    assert_is_head(i3d_head(x.contiguous(), weight, bias), x, weight, bias)


@pytest.mark.parametrize("classes", [0, 1, 1000])
def test_classes(classes: int) -> None:
    x, weight, bias = head_arguments((2, 48, 4, 8, 7), classes)
    assert_is_head(i3d_head(x, weight, bias), x, weight, bias)


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.fasti3d.i3d_head.default, head_arguments((2, 8, 3, 7, 8), 5))


def test_traces_as_one_operator() -> None:
    arguments = head_arguments((2, 8, 3, 7, 8), 5)
    expected = i3d_head(*arguments)
    with FakeTensorMode() as mode:
        fake = i3d_head(*map(mode.from_tensor, arguments))
    for made, real in zip(fake, expected, strict=True):
        assert (made.shape, made.dtype, made.stride()) == (real.shape, real.dtype, real.stride())
    compiled = torch.compile(i3d_head, fullgraph=True, backend="aot_eager")
    assert all(map(torch.equal, compiled(*arguments), expected))


@pytest.mark.parametrize(
    ("x", "classes", "message"),
    [
        (torch.zeros(1, 8, 1, 7, 7), 3, r"x must be .* at least \(2, 7, 7\) a clip, got \(1, 8, 1, 7, 7\)"),
        (torch.zeros(1, 8, 2, 7, 6), 3, r"x must be .*got \(1, 8, 2, 7, 6\)"),
        (torch.zeros(8, 2, 7, 7), 3, r"x must be \(N, C, T, H, W\).*got \(8, 2, 7, 7\)"),
        (torch.zeros(1, 9, 2, 7, 7), 3, r"weight must be \(3, 9\) for bias and x, got \(3, 8\)"),
        (torch.zeros(1, 8, 2, 7, 7), 4, r"weight must be \(4, 8\) for bias and x, got \(3, 8\)"),
    ],
)
def test_errors_name_the_argument_and_its_value(x: Tensor, classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        i3d_head(x, torch.zeros(3, 8), torch.zeros(classes))


def test_it_is_for_inference_alone() -> None:
    x, weight, bias = head_arguments((1, 8, 2, 7, 7), 3)
    weight.requires_grad_()
    with pytest.raises(ValueError, match=r"no gradient: call it under torch\.no_grad"):
        i3d_head(x, weight, bias)
    with torch.no_grad():
        assert not i3d_head(x, weight, bias)[1].requires_grad


def test_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from ahead_of_time import run_interpreted

    run_interpreted("interpreted_i3d_head.py")


@pytest.mark.parametrize("device", ["A100", "RTX 3090", "RTX 4090", "H200", "B200", "RTX 5090"])
def test_the_kernel_compiles_to_what_it_should(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from ahead_of_time import CHIPS, Launch, Recorder, build

    from fasti3d.ops.i3d_head import launch

    found: set[Launch] = set()
    monkeypatch.setattr(launch, "_i3d_head_kernel", Recorder(launch._i3d_head_kernel, found))
    for dtype in (torch.float16, torch.bfloat16):
        for shape in ((1, 1024, 2, 7, 7), (8, 1024, 8, 8, 10)):
            arguments = head_arguments(shape, 4, dtype)
            launch.head(*(argument.to("meta") for argument in arguments))
    assert len(found) == 2, "one build serves every size"
    for one in found:
        built = build(one, CHIPS[device].capability)
        assert (built.stack, built.local) == (0, 0)
        assert built.shared <= shared_memory(CHIPS[device].capability)
        assert built.ptx.count("ld.global.v4.b32") >= 2 * 7, "16 bytes of both frames of a window at a time"
        # What a chunk has written is there for whoever learns that it is: all its threads have come this far
        # before one tells, and none goes on before that one knows who else has told.
        before, after = built.ptx.split("atom.global.gpu.acq_rel.add.u32")
        *_, last_store, rest = re.split("st.global.b32", before)
        assert last_store
        assert "bar.sync" in rest
        assert "bar.sync" in after[: after.index("ld.global")]
        assert "ld.global.nc" not in built.ptx
