"""A convolution's three passes in training against torch's in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fasti3d.ops import conv3d_training
from fasti3d.ops.conv3d_training import cpu_forms, reference
from fasti3d.ops.conv3d_training.choose import Problem, choose
from fasti3d.runtime import extension

Triple = tuple[int, int, int]

ONE, TWO, THREE, SEVEN = (1, 1, 1), (2, 2, 2), (3, 3, 3), (7, 7, 7)
LAST = torch.channels_last_3d
needs_extension = pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")


class Case(NamedTuple):
    """Channels, window and size of a problem."""

    batch: int
    channels: int
    outputs: int
    kernel: Triple
    stride: Triple
    size: Triple


# Frames that fill tiles and that do not, one frame, one row, one column, channels of no whole vector.
SMALL = [
    Case(2, 16, 16, THREE, ONE, (4, 5, 6)),
    Case(1, 24, 20, THREE, ONE, (5, 7, 3)),
    Case(3, 40, 56, THREE, ONE, (2, 9, 8)),
    Case(1, 17, 33, THREE, ONE, (9, 1, 1)),
    Case(1, 16, 16, (3, 1, 1), ONE, (1, 1, 1)),
    Case(1, 32, 50, (3, 1, 3), ONE, (4, 2, 70)),
    Case(2, 3, 64, SEVEN, TWO, (7, 17, 18)),
    Case(1, 2, 24, SEVEN, TWO, (8, 16, 15)),
    Case(1, 3, 16, THREE, ONE, (4, 5, 6)),
]
STRIDED = [
    Case(1, 16, 24, (3, 1, 3), (1, 3, 2), (4, 2, 11)),
    Case(2, 20, 32, (5, 3, 2), (2, 1, 1), (9, 6, 7)),
    Case(1, 3, 16, (5, 7, 7), (2, 2, 5), (6, 15, 16)),
    Case(1, 16, 16, (3, 3, 3), (1, 9, 1), (4, 5, 6)),  # steps over rows
]
# Where the fastest form is the library's, in each pass that has one.
LARGE = [
    Case(1, 64, 96, THREE, ONE, (8, 21, 20)),
    Case(2, 48, 64, THREE, ONE, (5, 19, 18)),
    Case(1, 3, 64, SEVEN, TWO, (15, 57, 58)),
    Case(1, 2, 64, SEVEN, TWO, (16, 56, 56)),
    Case(3, 64, 48, ONE, ONE, (4, 9, 11)),
]


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=LAST)


def tensors(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """A map as it follows a ReLU, weights, and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch, case.channels, *case.size, generator=generator)
    x = x.relu() if case.channels > 3 else x
    weight = torch.randn(case.outputs, case.channels, *case.kernel, generator=generator)
    weight /= weight[0].numel() ** 0.5
    shape = reference.forward(x, weight, case.stride).shape
    grad = torch.randn(shape, generator=generator)
    return last(x.to(dtype)), weight.to(dtype), last(grad.to(dtype))


def passes(of: Any, case: Case, x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, Tensor]:
    return {
        "forward": of.forward(x, weight, case.stride),
        "grad_input": of.grad_input(grad, weight, case.stride, case.size),
        "grad_weight": of.grad_weight(grad, x, case.stride, case.kernel),
    }


def error(y: Tensor, exact: Tensor) -> float:
    return ((y.double() - exact).norm() / exact.norm()).item()


# Relative, against float64, by the frames of the window. Sums are of 128 products, and joined; a minimal
# filter of four frames rounds transformed values once more, the stem's of eight taps in larger factors.
# torch's own errors, which some passes have, are 1e-7 to 1.32e-6 here, and differ twofold between its layouts
# and instruction sets.
ROUNDING = {1: 3e-7, 3: 6e-7, 7: 1.5e-6}


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_rounding(isa: str, case: Case) -> None:
    x, weight, grad = tensors(case)
    exact = passes(reference, case, x.double(), weight.double(), grad.double())
    ours = passes(conv3d_training, case, x, weight, grad)
    for name, y in ours.items():
        assert error(y, exact[name]) <= ROUNDING[case.kernel[0]], name


@needs_extension
@pytest.mark.parametrize("case", [*SMALL, *STRIDED], ids=str)
def test_weights_gradients_by_filters(isa: str, case: Case) -> None:
    x, _, grad = tensors(case)
    exact = reference.grad_weight(grad.double(), x.double(), case.stride, case.kernel)
    for frames in (4, 2):
        y = cpu_forms.filtered_grad_weight(grad, x, case.stride, case.kernel, frames)
        assert error(y, exact) < 1e-6
        assert y.is_contiguous()


@needs_extension
@pytest.mark.parametrize("case", [case for case in SMALL if case.stride == ONE], ids=str)
def test_inputs_gradients_by_filters(isa: str, case: Case) -> None:
    """Of weights in either layout, which are packed as they lie."""
    x, weight, grad = tensors(case)
    exact = reference.grad_input(grad.double(), weight.double(), case.stride, case.size)
    y, again = torch.empty_like(x), torch.empty_like(x)
    cpu_forms.filtered(grad, weight, case.stride, y, gradient=True)
    assert error(y, exact) < 2e-6
    cpu_forms.filtered(grad, last(weight), case.stride, again, gradient=True)
    assert torch.equal(y, again)


@pytest.mark.parametrize("case", [LARGE[1], LARGE[2], LARGE[4], SMALL[2]], ids=str)
def test_slices_give_the_same_bits(case: Case) -> None:
    """Maps that are channel slices of wider ones, read and written."""
    x, weight, grad = tensors(case)
    expected = passes(conv3d_training, case, x, weight, grad)

    def sliced(y: Tensor) -> tuple[Tensor, Tensor]:
        wide = last(y.new_full((len(y), y.shape[1] + 32, *y.shape[2:]), torch.nan))
        part = wide[:, 16 : 16 + y.shape[1]]
        return part, wide

    x_part, grad_part = sliced(x)[0].copy_(x), sliced(grad)[0].copy_(grad)
    for name, y in passes(conv3d_training, case, x_part, weight, grad_part).items():
        assert torch.equal(y, expected[name]), name
    for name, arguments in (
        ("forward", (x_part, weight, case.stride)),
        ("grad_input", (grad_part, weight, case.stride, case.size)),
    ):
        out, wide = sliced(expected[name])
        assert getattr(conv3d_training, name)(*arguments, out=out) is out
        assert torch.equal(out, expected[name])
        assert wide[:, :16].isnan().all()
        assert wide[:, 16 + out.shape[1] :].isnan().all()


@needs_extension
@pytest.mark.parametrize("case", [LARGE[0], LARGE[3]], ids=str)
def test_sums_do_not_depend_on_threads(isa: str, set_threads: Callable, case: Case) -> None:
    x, weight, grad = tensors(case)
    results = []
    for threads in (1, 3):
        set_threads(threads)
        y = torch.empty_like(grad)
        cpu_forms.filtered(x, weight, case.stride, y)
        results.append((y, cpu_forms.filtered_grad_weight(grad, x, case.stride, case.kernel, 4)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", [SMALL[1], SMALL[6], STRIDED[0]], ids=str)
def test_gradients_of_the_operator(case: Case) -> None:
    x, weight, _ = tensors(case._replace(size=(3, 3, 2), outputs=2, channels=2), torch.float64)
    x.requires_grad_(), weight.requires_grad_()
    torch.autograd.gradcheck(lambda *given: conv3d_training.conv3d(*given, case.stride), (x, weight))


@pytest.mark.parametrize("case", [LARGE[1], LARGE[4], SMALL[7]], ids=str)
def test_opcheck(case: Case) -> None:
    x, weight, grad = tensors(case)
    operators = torch.ops.fasti3d
    given = (x.requires_grad_(), weight.requires_grad_(), list(case.stride))
    torch.library.opcheck(operators.conv3d_training.default, given)
    x, weight = x.detach(), weight.detach()
    torch.library.opcheck(
        operators.conv3d_training_grad_input.default, (grad, weight, list(case.stride), list(case.size))
    )
    torch.library.opcheck(
        operators.conv3d_training_grad_weight.default, (grad, x, list(case.stride), list(case.kernel))
    )


def test_a_compiled_step_is_an_eager_one() -> None:
    x, weight, grad = tensors(LARGE[1])
    compiled = torch.compile(conv3d_training.conv3d, fullgraph=True, backend="aot_eager")
    results = []
    for run in (conv3d_training.conv3d, compiled):
        given = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = run(*given)
        y.backward(grad)
        results.append((y.detach(), given[0].grad, given[1].grad))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_the_maps(dtype: torch.dtype) -> None:
    """And autocast changes none."""
    case = LARGE[1]
    x, weight, grad = tensors(case)
    exact = passes(reference, case, x.double(), weight.double(), grad.double())
    for name, y in passes(conv3d_training, case, x.to(dtype), weight, grad.to(dtype)).items():
        assert y.dtype == dtype
        assert error(y, exact[name]) < 4 * torch.finfo(dtype).eps
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = passes(conv3d_training, case, x, weight, grad)
    for name, y in passes(conv3d_training, case, x, weight, grad).items():
        assert torch.equal(y, cast[name])


def test_few_frames_of_a_stem_have_a_gradient() -> None:
    """Which oneDNN gets wrong (torch 2.13) where it pads evenly itself: sums that were never written."""
    case = Case(1, 3, 64, SEVEN, TWO, (7, 63, 65))
    x, _, grad = tensors(case)
    exact = reference.grad_weight(grad.double(), x.double(), case.stride, case.kernel)
    assert error(reference.grad_weight(grad, x, case.stride, case.kernel), exact) < 1e-5


def test_no_clips() -> None:
    for case in (SMALL[0], SMALL[6], LARGE[4]):
        x, weight, grad = tensors(case)
        results = passes(conv3d_training, case, x[:0], weight, grad[:0])
        assert results["forward"].shape == grad[:0].shape
        assert results["grad_input"].shape == x[:0].shape
        assert not results["grad_weight"].any()
        if extension.CORE is not None and case.kernel != ONE:
            assert not cpu_forms.filtered_grad_weight(grad[:0], x[:0], case.stride, case.kernel, 4).any()


def problem(**changes: Any) -> Problem:
    usual = Problem(2, 96, 128, (8, 28, 28), THREE, ONE, torch.float32, "cpu", "avx512")
    return usual._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "forward", "grad_input", "grad_weight"),
    [
        ({}, "filter 4", "filter 4", "filter 4"),
        ({"isa": "avx2"}, "filter 4", "filter 4", "filter 4"),
        ({"isa": "baseline"}, "torch", "torch", "torch"),
        ({"isa": None}, "torch", "torch", "torch"),
        ({"dtype": torch.bfloat16}, "torch", "torch", "torch"),
        ({"dtype": torch.float64}, "torch", "torch", "torch"),
        ({"device": "cuda"}, "torch", "torch", "torch"),
        ({"device": "cuda", "isa": "triton"}, "torch", "torch", "torch"),
        ({"device": "cuda", "isa": "triton", "dtype": torch.float16}, "torch", "triton", "torch"),
        ({"kernel": ONE, "isa": None}, "gemm", "gemm", "gemm"),
        ({"kernel": ONE, "stride": TWO}, "torch", "torch", "torch"),
        ({"size": (2, 7, 7)}, "torch", "torch", "filter 2"),
        ({"size": (1, 28, 28)}, "torch", "torch", "torch"),
        ({"size": (4, 14, 14)}, "torch", "torch", "filter 4"),
        ({"in_channels": 16, "out_channels": 32}, "torch", "torch", "filter 4"),
        ({"kernel": (1, 3, 3)}, "torch", "torch", "torch"),
        ({"kernel": (3, 2, 3)}, "filter 4", "torch", "filter 4"),
        (
            {"in_channels": 3, "kernel": SEVEN, "stride": TWO, "size": (16, 112, 112)},
            "filter 4",
            "torch",
            "filter 4",
        ),
    ],
)
def test_the_choice(changes: dict[str, Any], forward: str, grad_input: str, grad_weight: str) -> None:
    expected = {"forward": forward, "grad_input": grad_input, "grad_weight": grad_weight}
    for which, form in expected.items():
        choice = choose(which, problem(**changes))  # type: ignore[arg-type]
        tile = f" {choice.frames}" if choice.form == "filter" else ""
        assert choice.form + tile == form, which
        assert "\n" not in str(choice)


def refused(name: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    x, weight, grad = tensors(SMALL[0])
    given: dict[str, dict[str, Any]] = {
        "forward": {"x": x, "weight": weight, "stride": ONE},
        "conv3d": {"x": x, "weight": weight, "stride": ONE},
        "grad_input": {"grad": grad, "weight": weight, "stride": ONE, "input_size": (4, 5, 6)},
        "grad_weight": {"grad": grad, "x": x, "stride": ONE, "kernel": THREE},
    }
    return name, given[name] | changes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (refused("forward", x=torch.zeros(16, 4, 5, 6)), r"x must be \(N, C, T, H, W\)"),
        (refused("forward", x=torch.zeros(1, 16, 0, 5, 6)), "x must be .* frames"),
        (refused("forward", x=torch.zeros(1, 16, 4, 5, 6, dtype=torch.int32)), "x must be float64"),
        (refused("forward", weight=torch.zeros(16, 17, 3, 3, 3)), r"weight must be \(Cout, 16"),
        (refused("forward", weight=torch.zeros(16, 16, 3, 0, 3)), "weight must be"),
        (refused("forward", weight=torch.zeros(16, 16, 3, 3, 3).double()), "weight must be torch.float32"),
        (refused("forward", stride=(1, 0, 1)), "stride must be 3 whole"),
        (refused("forward", stride=(1, 1)), "stride must be 3 whole"),
        (refused("forward", out=torch.zeros(2, 16, 4, 5, 6)), "out must be channels-last"),
        (refused("forward", out=torch.zeros(2, 16, 4, 5, 5)), "out must be"),
        (refused("conv3d", weight=torch.zeros(16, 16, 3, 3, 3).bfloat16()), "weight must be torch.float32"),
        (refused("grad_input", input_size=(4, 5, 7)), r"grad must have \(T, H, W\) \(4, 5, 7\)"),
        (refused("grad_input", input_size=(4, 5, 0)), "input_size must be 3 whole"),
        (refused("grad_input", weight=torch.zeros(17, 16, 3, 3, 3)), r"weight must be \(16, Cin"),
        (refused("grad_weight", kernel=(0, 3, 3)), "kernel must be 3 whole"),
        (refused("grad_weight", stride=TWO), r"grad must have \(T, H, W\) \(2, 3, 3\)"),
        (refused("grad_weight", x=torch.zeros(3, 16, 4, 5, 6)), "grad must have x's 3 clips, got 2"),
        (
            refused("grad_weight", x=torch.zeros(2, 16, 4, 5, 6).double()),
            "x must be torch.float32, like grad",
        ),
    ],
)
def test_what_is_refused(call: tuple[str, dict[str, Any]], message: str) -> None:
    name, given = call
    with pytest.raises(ValueError, match=message):
        getattr(conv3d_training, name)(**given)


def test_out_shares_no_memory_with_what_is_read() -> None:
    x, weight, grad = tensors(SMALL[0])
    with pytest.raises(ValueError, match="some elements of x and out"):
        conv3d_training.forward(x, weight, ONE, out=x)
    with pytest.raises(ValueError, match="some elements of grad and out"):
        conv3d_training.grad_input(grad, weight, ONE, SMALL[0].size, out=grad)
