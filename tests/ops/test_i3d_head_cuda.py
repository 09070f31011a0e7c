"""The head's Triton kernel on a GPU: against float64, on streams at once, and in CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from i3d_head_making import MAPS, assert_is_head, head_arguments
from requiring import require

from fasti3d.ops.i3d_head.op import average_head, i3d_head
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
REAL = (8, 1024, 8, 7, 7)


@pytest.fixture(autouse=True)
def _kernel() -> None:
    require(gpu.why_not(torch.device("cuda"), torch.float16))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [0, 1, 127, 400, 5000])
@pytest.mark.parametrize("shape", [*MAPS, REAL, (1, 1056, 33, 12, 9)], ids=str)
def test_maps(shape: tuple[int, ...], classes: int, dtype: torch.dtype) -> None:
    arguments = head_arguments(shape, classes, dtype, "cuda")
    assert_is_head(i3d_head(*arguments), *arguments)


@pytest.mark.parametrize("window", [None, (1, 1, 1), (3, 4, 7), (4, 7, 7), (8, 7, 7)], ids=str)
def test_windows(window: tuple[int, int, int] | None) -> None:
    arguments = head_arguments(REAL, 400, device="cuda")
    assert_is_head(average_head(*arguments, window), *arguments, window or REAL[2:])


def test_runs_are_repeatable() -> None:
    """Whichever of a clip's programs is the last."""
    arguments = head_arguments((64, *REAL[1:]), 400, device="cuda")
    first = i3d_head(*arguments)
    for _ in range(200):
        assert all(map(torch.equal, i3d_head(*arguments), first))


def test_streams_at_once() -> None:
    streams = [torch.cuda.Stream() for _ in range(4)]
    inputs = [head_arguments((2 + i, *REAL[1:]), 300 + i, device="cuda") for i in range(4)]
    expected = [i3d_head(*arguments) for arguments in inputs]
    results = []
    torch.cuda.synchronize()
    for _ in range(50):
        for stream, arguments in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                results.append(i3d_head(*arguments))
    torch.cuda.synchronize()
    for i, result in enumerate(results):
        assert all(map(torch.equal, result, expected[i % 4]))


def test_runs_in_a_cuda_graph() -> None:
    x, weight, bias = head_arguments(REAL, 400, device="cuda")
    i3d_head(x, weight, bias)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = i3d_head(x, weight, bias)
    for _ in range(3):
        x.neg_().mul_(0.5)
        for result in results:
            result.fill_(torch.nan)
        graph.replay()
        assert all(map(torch.equal, results, i3d_head(x, weight, bias)))


def test_runs_on_the_device_of_its_map() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    arguments = [argument.to("cuda:1") for argument in head_arguments(REAL, 5)]
    with torch.cuda.device(0):
        results = i3d_head(*arguments)
    assert results[1].device == torch.device("cuda:1")
    assert_is_head(results, *arguments)


def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 30e9:
        pytest.skip("needs 30 GB of free GPU memory")
    x, weight, bias = head_arguments((1, 1024, 2, 7, 7), 400, device="cuda")
    many = x.expand(43000, -1, -1, -1, -1).contiguous(memory_format=torch.channels_last_3d)
    assert many.numel() > 2**31
    features, logits = i3d_head(many, weight, bias)
    expected = i3d_head(x, weight, bias)
    assert torch.equal(features, expected[0].expand_as(features))
    assert torch.equal(logits, expected[1].expand_as(logits))


def test_opcheck() -> None:
    torch.library.opcheck(
        torch.ops.fasti3d.average_head.default,
        (*head_arguments((2, 8, 3, 7, 8), 5, device="cuda"), [2, 7, 7]),
    )
