"""Proofs of the real kernels in Triton's interpreter, and of ones made wrong: run by test_proof_triton.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interpreting import CHIPS, clip, pack, tensor_cores, weights
from torch import Tensor

from fasti3d.network import HEAD_POOL
from fasti3d.ops import subjects
from fasti3d.ops.conv3d_bn_relu import fold as conv_fold
from fasti3d.ops.conv3d_bn_relu import launch as conv_launch
from fasti3d.ops.conv3d_bn_relu import plain
from fasti3d.ops.conv3d_bn_relu.geometry import Geometry
from fasti3d.ops.conv3d_bn_relu.space_to_depth import cells_shape
from fasti3d.ops.i3d_head import launch as head_launch
from fasti3d.ops.max_pool3d_same import launch as pool_launch
from fasti3d.ops.pooled_conv3d import launch as pooled_launch
from fasti3d.proof import guard
from fasti3d.proof.guard import Guard, collected
from fasti3d.proof.subject import Subject
from fasti3d.proof.verdicts import Environment
from fasti3d.proving import prove
from fasti3d.runtime.precision import Precision

CPU = torch.device("cpu")
ONE, THREE = (1, 1, 1), (3, 3, 3)
# Channels in and out, kernel, stride, size and padding.
CONVS: dict[str, tuple[Any, ...]] = {
    "three": (24, 16, THREE, ONE, (20, 15, 14), None),
    "stem": (3, 16, (7, 7, 7), (2, 2, 2), (12, 25, 26), None),
    "entry": (24, 16, ONE, ONE, (5, 9, 14), None),
    "padded": (16, 24, THREE, (2, 1, 1), (7, 9, 9), (1, 0, 1)),
    "odd": (17, 9, THREE, ONE, (4, 9, 9), None),
}


_tensor_cores = pytest.fixture(autouse=True)(tensor_cores)


@pytest.fixture(params=CHIPS, autouse=True)
def _chip(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (conv_launch, pool_launch, pooled_launch):
        monkeypatch.setattr(module, "gpu_traits", lambda device: CHIPS[request.param]._replace(sms=1))


def convolution(
    name: str, dtype: torch.dtype = torch.float16, *, computed_in: torch.dtype = torch.float16
) -> tuple[Any, ...]:
    """What ``launch.conv3d`` takes: a piece from within a clip, into a slice."""
    channels, out_channels, kernel, stride, size, padding = CONVS[name]
    weight, bias = weights(out_channels, channels, kernel)
    x = clip(2, channels, size).to(dtype if dtype != torch.uint8 else computed_in)
    if dtype == torch.uint8:
        x = (x.float() * 60 + 128).clamp(0, 255).to(dtype)
    packed = pack(weight, bias, stride, True, computed_in, padding)
    geometry = Geometry(kernel, stride, padding, True)
    shape = (2, *geometry.output_size(size), out_channels + 16)
    out = torch.zeros(shape, dtype=computed_in).permute(0, 4, 1, 2, 3)[:, 8 : 8 + out_channels, 1:3]
    return x, packed.weight, bias, geometry, out, 1


def subject_of(call: Callable[[], Any]) -> Subject:
    with collected() as found:
        call()
    (subject,) = found.values()
    return subject


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_are_proved(name: str) -> None:
    subject = subject_of(lambda: conv_launch.conv3d(*convolution(name)))
    assert prove(subject, CPU) == ("good", "")
    assert json.loads(subject.details)["start"] == 1


def test_bytes_are_proved() -> None:
    assert prove(subject_of(lambda: conv_launch.conv3d(*convolution("stem", torch.uint8))), CPU) == (
        "good",
        "",
    )


@pytest.mark.parametrize("kind", [torch.float16, torch.uint8])
def test_what_folds_a_clip_for_a_graph_is_proved(kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _, _, geometry, *_ = convolution("stem", kind)
    cells = torch.zeros(
        cells_shape(2, 3, geometry.kernel, geometry.stride, geometry.output_size(x.shape[2:]))
    )
    subject = subject_of(lambda: conv_fold.fold(x, geometry, cells.half()))
    assert prove(subject, CPU) == ("good", "")
    run = conv_fold.launch_fold
    shifted = lambda x, stride, pad, *rest: run(x, stride, [pad[0], pad[1], pad[2] + 1], *rest)  # noqa: E731
    monkeypatch.setattr(conv_fold, "launch_fold", shifted)
    assert prove(subject, CPU)[0] == "wrong"


def with_residual(name: str) -> tuple[Any, ...]:
    """The same with what is added, a slice of a wider clip."""
    call = convolution(name)
    n, channels, t, h, w = call[4].shape
    return *call, clip(n, channels + 16, (t, h, w), seed=4)[:, 8 : 8 + channels]


def test_a_repeated_residual_is_proved() -> None:
    *call, residual = with_residual("three")
    its = (*call, residual[:1, :, :1].expand(residual.shape))
    assert prove(subject_of(lambda: conv_launch.conv3d(*its)), CPU) == ("good", "")


@pytest.mark.parametrize("name", ["three", "entry", "stem"])
def test_convolutions_with_residuals_are_proved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(lambda: conv_launch.conv3d(*with_residual(name)))
    assert prove(subject, CPU) == ("good", "")
    run = conv_launch.run
    monkeypatch.setattr(conv_launch, "run", lambda config, work: run(config, work._replace(residual=None)))
    assert prove(subject, CPU)[0] == "wrong"
    call = with_residual(name)
    *convolution_, geometry, out, start, residual = call
    plain.conv3d_into(*call)
    without = geometry._replace(relu=False)
    expected = plain.conv3d(*convolution_, without, (start, out.shape[2]), torch.float32) + residual
    assert (out - expected.relu()).abs().max() < 0.01


def others(dtype: torch.dtype = torch.float16) -> dict[str, Callable[[], Any]]:
    x, (weight, bias) = clip(1, 24, (3, 9, 10), dtype), weights(24, 24, ONE)
    packed = pack(weight, bias, ONE, True, dtype).weight
    out, second = clip(1, 16, (3, 9, 10), dtype), clip(1, 8, (3, 9, 10), dtype)
    pooled = clip(1, 24, (2, 5, 5), dtype)
    last = clip(1, 32, (2, 7, 7), dtype)
    return {
        "split": lambda: conv_launch.conv3d_split(x, packed, bias, True, out, second),
        "pooled": lambda: pooled_launch.pooled_conv3d(x, packed, bias, True, torch.empty_like(x)),
        "pool": lambda: pool_launch.max_pool3d(x, THREE, (2, 2, 2), pooled),
        "head": lambda: guard.guarded(
            CPU,
            "head",
            lambda: subjects.head(last, torch.zeros(5, 32), HEAD_POOL),
            lambda: None,
            lambda: None,
        ),
    }


@pytest.mark.parametrize("name", ["split", "pooled", "pool", "head"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_the_other_kernels_are_proved(name: str, dtype: torch.dtype) -> None:
    assert prove(subject_of(others(dtype)[name]), CPU) == ("good", "")


FLOAT32: dict[str, Callable[[], Any]] = {
    "three": lambda: conv_launch.conv3d(*convolution("three", torch.float32, computed_in=torch.float32)),
    **{name: lambda name=name: others(torch.float32)[name]() for name in ("split", "pooled")},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", FLOAT32)
def test_one_product_does_not_pass_for_three(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is proved as what it is; the switch that chose it may be another one where that is done."""
    whole = subject_of(FLOAT32[name])
    for module in (conv_launch, pooled_launch):
        monkeypatch.setattr(module, "precision_of", lambda dtype: Precision.TF32)
    less = subject_of(FLOAT32[name])
    assert whole.key != less.key
    assert (whole.title.endswith(", tf32x3"), less.title.endswith(", tf32")) == (True, True)
    assert prove(whole, CPU) == prove(less, CPU) == ("good", "")
    monkeypatch.setattr(Precision, "products", 1)
    kind, fault = prove(whole, CPU)
    assert (kind, "wrong by 0.00" in fault) == ("wrong", True)
    assert prove(less, CPU) == ("good", "")


def test_triton_itself_is_proved() -> None:
    assert prove(Subject.of("triton", "Triton"), CPU) == ("good", "")


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [(pool_launch, "_max_pool3d_same_kernel", "pool"), (pooled_launch, "_pooled_conv3d_kernel", "pooled"),
     (head_launch, "_average_head_kernel", "head")],
)  # fmt: skip
def test_a_kernel_that_writes_nothing_is_caught(
    module: Any, name: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Idle:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *arguments, **options: None

    subject = subject_of(others()[call])
    monkeypatch.setattr(module, name, Idle())
    kind, fault = prove(subject, CPU)
    assert kind == "wrong"
    assert "nan" in fault


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_wrong_convolution_is_caught_and_pytorch_s_own_gives_the_result(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """From end to end: the real kernel, one of whose taps is lost, as on the H100 of pytorch #173068."""
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path))
    its = Guard(CPU, Environment("GPU", "9.0", "1", "2", "3", "4", "5"))
    its._alone = True  # the interpreter is this process's
    monkeypatch.setattr(guard, "concerns", lambda device: True)
    monkeypatch.setattr(guard, "guard_of", lambda device: its)
    run = conv_launch.run

    def without_a_tap(config: Any, work: Any) -> None:
        weight = work.weight.clone()
        weight[:, 0] = 0
        run(config, work._replace(weight=weight))

    call = convolution("three", dtype, computed_in=dtype)
    expected = torch.empty_like(call[4])
    plain.conv3d_into(*call[:4], expected, 1)
    conv_launch.conv3d(*call)
    assert (call[4].float() - expected.float()).abs().max() < 0.01
    assert [verdict.kind for verdict in its.verdicts.all().values()] == ["good"]

    other = (*call[:3], call[3]._replace(relu=False), torch.empty_like(call[4]), 1)
    monkeypatch.setattr(conv_launch, "run", without_a_tap)
    with pytest.warns(
        guard.SelfCheckWarning, match=r"conv3d of float(16|32).*wrong by.*GPU, compute capability 9\.0"
    ):
        conv_launch.conv3d(*other)
    plain.conv3d_into(*other[:4], expected, 1)
    assert torch.equal(other[4], expected)


@pytest.mark.parametrize("name", CONVS)
def test_plain_pieces_are_those_of_the_whole(name: str) -> None:
    *call, out, start = convolution(name)
    whole: Tensor = plain.conv3d(*call, (0, start + out.shape[2]), torch.float32)
    plain.conv3d_into(*call, out, start)
    assert (out.float() - whole[:, :, start:]).abs().max() < 0.01
