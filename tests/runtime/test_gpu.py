"""Which GPUs run the Triton kernels, and what is said of those that do not."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from fasti3d.ops.conv3d_bn_relu.packed import pack_triton
from fasti3d.runtime import gpu
from fasti3d.runtime import route as routing
from fasti3d.runtime.precision import Precision
from fasti3d.runtime.route import has_kernel

CUDA = torch.device("cuda", 0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Makes a machine with a GPU of that capability, an H200 to begin with, and triton."""
    machine = {"is": (9, 0)}
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "gpu_traits", lambda device: gpu.GpuTraits(machine["is"], 132))
    monkeypatch.setattr(gpu, "_triton_error", lambda: None)
    return machine


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_these_dtypes_run_fused(capability: dict[str, tuple[int, int]], dtype: torch.dtype) -> None:
    for capability["is"] in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)):
        assert has_kernel(CUDA, dtype)
        route = routing.route(CUDA, dtype)
        assert (route.path, route.compute_dtype) == ("fused-gpu", dtype)
        assert "{}.{}".format(*capability["is"]) in route.why


def test_the_route_of_float32_says_how_it_multiplies(
    capability: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = {}
    for precision in Precision:
        monkeypatch.setattr(routing, "precision_of", lambda dtype, its=precision: its)
        routes[precision] = routing.route(CUDA, torch.float32).why
    assert len(set(routes.values())) == 3
    assert "three TF32 products" in routes[Precision.TF32X3]
    assert "one TF32 product" in routes[Precision.TF32]


def test_what_does_not_says_why(
    capability: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def why(dtype: torch.dtype = torch.float16) -> str:
        assert not has_kernel(CUDA, dtype)
        route = routing.route(CUDA, dtype)
        assert (route.path, route.compute_dtype) == ("reference", dtype)
        return route.why

    assert "float32, float16 and bfloat16" in why(torch.float64)
    capability["is"] = (7, 5)
    assert "need compute capability 8.0, this GPU has 7.5" in why()
    capability["is"] = (9, 0)
    monkeypatch.setattr(gpu, "_triton_error", lambda: "No module named 'triton'")
    assert "No module named 'triton'" in why()
    assert "install" in why()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA GPU" in why()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "no fused kernels for this device" in why()


def test_the_operator_can_be_traced_without_triton() -> None:
    with FakeTensorMode():
        x = torch.empty(1, 16, 4, 5, 6, dtype=torch.float16)
        weight = pack_triton(torch.empty(24, 16, 3, 3, 3), (1, 1, 1), x.dtype)
        assert weight.shape == (24, 27, 16)
        bias = torch.empty(24)
        out = torch.empty(1, 24, 4, 5, 6, dtype=x.dtype)
        torch.ops.fasti3d.conv3d_triton_(x, weight, bias, [3, 3, 3], [1, 1, 1], None, True, out, 0)
        weight = pack_triton(torch.empty(24, 16, 1, 1, 1), (1, 1, 1), x.dtype)
        torch.ops.fasti3d.conv3d_split_triton_(x, weight, bias, True, out[:, :8], out[:, 8:])
    assert "Tensor(a!) out" in str(torch.ops.fasti3d.conv3d_triton_.default._schema)


def test_other_devices_have_none() -> None:
    for device in ("meta", "mps", "cpu"):
        assert gpu.why_not(torch.device(device), torch.float16)
