"""How float32 is multiplied on a GPU, by the state of torch's switches, old and new."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from fasti3d.runtime.precision import Precision, full_float32, precision_of

BACKENDS = torch.backends


@pytest.fixture(autouse=True)
def _switches() -> Iterator[None]:
    """As a new process has them, before and after."""
    reset()
    yield
    reset()


def reset() -> None:
    BACKENDS.fp32_precision = "none"
    BACKENDS.cudnn.fp32_precision = "none"
    BACKENDS.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cuda.matmul.fp32_precision = "none"  # which a program that asks for none never says


def of_convolutions(value: str) -> None:
    BACKENDS.cudnn.conv.fp32_precision = value


def of_both(value: str) -> None:
    of_convolutions("none")
    BACKENDS.fp32_precision = value


SWITCHES: dict[str, tuple[Callable[[], object], Precision]] = {
    "a new process": (lambda: None, Precision.TF32X3),
    "products": (lambda: torch.set_float32_matmul_precision("high"), Precision.TF32),
    "products, by their own switch": (
        lambda: setattr(BACKENDS.cuda.matmul, "allow_tf32", True),
        Precision.TF32,
    ),
    "all": (lambda: of_both("tf32"), Precision.TF32),
    "none of them": (lambda: of_both("ieee"), Precision.TF32X3),
    "products but not convolutions": (
        lambda: (
            torch.set_float32_matmul_precision("high"),
            setattr(BACKENDS.cudnn, "allow_tf32", False),
        ),
        Precision.TF32X3,
    ),
    "all but convolutions": (lambda: (of_both("tf32"), of_convolutions("ieee")), Precision.TF32X3),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_float32_loses_nothing_unless_both_switches_say_so(name: str) -> None:
    switch, expected = SWITCHES[name]
    switch()
    assert precision_of(torch.float32) is expected
    assert precision_of(torch.float16) is precision_of(torch.bfloat16) is Precision.HALF
    before = BACKENDS.cudnn.conv.fp32_precision
    with full_float32():
        assert precision_of(torch.float32) is Precision.TF32X3
        assert BACKENDS.cudnn.conv.fp32_precision == "ieee"
    assert BACKENDS.cudnn.conv.fp32_precision == before
    assert precision_of(torch.float32) is expected


def test_the_switch_is_put_back_after_an_error() -> None:
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert precision_of(torch.float32) is Precision.TF32
    assert BACKENDS.cudnn.allow_tf32, "the older switch can be read again"
