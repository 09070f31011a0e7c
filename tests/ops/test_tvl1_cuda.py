"""fasti3d::tvl1 on a GPU: against the CPU and itself.

``tvl1_exact`` rounds every operation as the CPU does, and gives its bits; ``tvl1`` fuses products into sums
and uses approximate division and square roots. test_tvl1_serial.py tests the logic of both on the CPU.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from requiring import require
from sanitizing import assert_sanitized
from torch import Tensor
from tvl1_making import arguments, frames

from fasti3d.flow.params import TVL1Params

# With epsilon 0 the number of iterations is fixed: no sum decides over them, and every bit is laid down.
FIXED: dict[str, Any] = {"epsilon": 0.0, "inner_iterations": 7, "outer_iterations": 2, "warps": 2}
FORMS: list[dict[str, Any]] = [
    {},
    {"mode": "opencv-cuda"},
    {"median_filtering": 3},
    {"median_filtering": 0},
    {"gamma": 0.4},
    {"mode": "opencv-cuda", "gamma": 0.4},
    {"scale_step": 0.5},
    {"lambda_": 0.03, "theta": 0.7, "tau": 0.1, "nscales": 2},
]
SIZES = [(3, 3), (16, 16), (17, 300), (300, 17), (50, 97), (224, 224), (256, 340)]


@pytest.fixture
def operator() -> None:
    """Skips, or fails if a GPU is required, where the kernels are not built."""
    built = torch._C._dispatch_has_kernel_for_dispatch_key("fasti3d::tvl1", "CUDA")
    require(None if built else "fasti3d._C_cuda is not built")


def on_gpu(function: Any) -> Any:
    return pytest.mark.gpu(pytest.mark.usefixtures("operator")(function))


DESIGN = "FASTI3D_TVL1_CUDA_DESIGN"


@pytest.fixture
def design(request: pytest.FixtureRequest, operator: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """Has the solver use one of its designs; skips where the GPU has no room for it at all."""
    monkeypatch.setenv(DESIGN, request.param)
    if request.param.startswith(("cluster", "mixed")):
        try:
            gpu(frames(2, 20, 20))
        except RuntimeError as error:
            if "do not fit into a thread-block cluster" in str(error):
                pytest.skip(str(error))
            raise
    return request.param


in_both_designs = pytest.mark.parametrize("design", ["groups", "cluster"], indirect=True)
# However small the batch is.
in_launches = pytest.mark.parametrize(
    "design", ["groups/1", "groups/2", "groups/4", "cluster/1", "cluster/3", "mixed"], indirect=True
)


def skip_unless_it_fits(design: str, size: tuple[int, int], form: dict[str, Any]) -> None:
    """The illumination halves what a cluster can hold."""
    if design.startswith("cluster") and "gamma" in form and size[0] * size[1] > 48_000:
        pytest.skip("no cluster can hold the pair")


def call(
    name: str, first: Tensor, second: Tensor | None = None, initial: Tensor | None = None, **changes: Any
) -> tuple[Tensor, Tensor]:
    operator = getattr(torch.ops.fasti3d, name)
    return operator(first, second, initial, *arguments(TVL1Params(**changes)))


def gpu(first: Tensor, second: Tensor | None = None, **changes: Any) -> tuple[Tensor, Tensor]:
    return call("tvl1", first.cuda(), None if second is None else second.cuda(), **changes)


def exact(first: Tensor, second: Tensor | None = None, **changes: Any) -> tuple[Tensor, Tensor]:
    return call("tvl1_exact", first.cuda(), None if second is None else second.cuda(), **changes)


def cpu(first: Tensor, second: Tensor | None = None, **changes: Any) -> tuple[Tensor, Tensor]:
    return call("tvl1", first, second, **changes)


def assert_same(actual: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for a, w in zip(actual, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), w.cpu(), rtol=0, atol=0)


@functools.cache
def differing(count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pairs that stop after very different numbers of iterations: still, slow, fast, and scene cuts."""
    first, second = [], []
    for i in range(count):
        clip = frames(2, height, width, seed=i, speed=(0.0, 0.3, 1.5, 4.0)[i % 4])
        first.append(clip[0])
        second.append(frames(1, height, width, seed=count + i)[0] if i % 7 == 6 else clip[1])
    return torch.stack(first), torch.stack(second)


# The CPU's bits.


@on_gpu
@in_launches
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_exact_gives_the_bits_of_the_cpu(form: dict[str, Any], size: tuple[int, int], design: str) -> None:
    skip_unless_it_fits(design, size, form)
    clip = frames(3, *size)
    assert_same(exact(clip, **FIXED | form), cpu(clip, **FIXED | form))


@on_gpu
@pytest.mark.usefixtures("design")
@in_launches
@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_exact_stops_where_the_cpu_stops(mode: str) -> None:
    first, second = differing(8, 120, 160)
    assert_same(exact(first, second, mode=mode), cpu(first, second, mode=mode))


@on_gpu
@pytest.mark.usefixtures("design")
@in_launches
@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_initial_flow_and_float_frames(mode: str) -> None:
    clip = frames(3, 90, 70).float() / 255
    initial = 3 * torch.randn((2, 2, 90, 70), generator=torch.Generator().manual_seed(0))
    initial[:, :, ::7, ::5] *= 100
    changes = FIXED | {"mode": mode}
    wanted = call("tvl1", clip, None, initial, **changes)
    assert_same(call("tvl1_exact", clip.cuda(), None, initial.cuda(), **changes), wanted)


@on_gpu
@pytest.mark.parametrize("size", [(1080, 1920), (2160, 4096)], ids=str)
def test_large_images(size: tuple[int, int]) -> None:
    clip = frames(2, *size)
    changes = FIXED | {"warps": 1, "outer_iterations": 1}
    assert_same(exact(clip, **changes), cpu(clip, **changes))


# The two designs.


@on_gpu
@pytest.mark.usefixtures("design")
@pytest.mark.parametrize("design", ["cluster"], indirect=True)
@pytest.mark.parametrize("name", ["tvl1", "tvl1_exact"])
@pytest.mark.parametrize("size", [(256, 340), (33, 47)], ids=str)
def test_designs_give_the_same_bits(
    size: tuple[int, int], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which operations are fused does not depend on the design, and neither does the stop."""
    first, second = (t.cuda() for t in differing(9, *size))
    results = []
    for choice in ("groups/1", "groups", "groups/2", "cluster", "cluster/2", "mixed", "auto"):
        monkeypatch.setenv(DESIGN, choice)
        results.append(call(name, first, second))
    for result in results[1:]:
        assert_same(result, results[0])


@on_gpu
def test_a_design_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto takes groups where no cluster can hold a pair; cluster says so."""
    clip = frames(2, 480, 640)
    changes = FIXED | {"warps": 1, "nscales": 1}
    wanted = exact(clip, **changes)
    monkeypatch.setenv(DESIGN, "auto")
    assert_same(exact(clip, **changes), wanted)
    monkeypatch.setenv(DESIGN, "cluster")
    with pytest.raises(RuntimeError, match="images of 480 x 640 do not fit into a thread-block cluster"):
        exact(clip, **changes)
    monkeypatch.setenv(DESIGN, "blocks")
    with pytest.raises(RuntimeError, match=r"must be groups, cluster, mixed or auto.*, got blocks"):
        exact(clip, **changes)


# Fast arithmetic.


def endpoint_error(a: Tensor, b: Tensor) -> Tensor:
    return (a.cpu() - b.cpu()).square().sum(1).sqrt()


@on_gpu
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_fast_is_close_to_exact(form: dict[str, Any]) -> None:
    """One level, 5 warps of 30 iterations: before a rounding has had the time to grow."""
    clip = frames(3, 256, 340)
    changes: dict[str, Any] = {"nscales": 1, "inner_iterations": 30, "outer_iterations": 1, "epsilon": 0.0}
    changes = {**form, **changes}
    fast, accurate = gpu(clip, **changes)[0], exact(clip, **changes)[0]
    assert not torch.equal(fast, accurate)
    error = endpoint_error(fast, accurate)
    assert error.mean() <= 1e-4
    assert error.max() <= 0.05


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
@pytest.mark.parametrize("mode", ["opencv-cpu", "opencv-cuda"])
def test_fast_agrees_with_the_cpu_from_end_to_end(mode: str) -> None:
    clip = frames(5, 256, 340)
    error = endpoint_error(gpu(clip, mode=mode)[0], cpu(clip, mode=mode)[0])
    assert error.median() <= 0.02
    assert error.mean() <= 0.03
    assert (error < 0.1).float().mean() >= 0.98


# Batches, streams and graphs: always the same bits.


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
@pytest.mark.parametrize("name", ["tvl1", "tvl1_exact"])
@pytest.mark.parametrize("count", [2, 7, 64])
def test_a_batch_gives_what_its_pairs_give(count: int, name: str) -> None:
    """However the plan divides the GPU among them, and although each stops for itself."""
    first, second = (t.cuda() for t in differing(count, 96, 130))
    flow, iterations = call(name, first, second)
    assert iterations.sum((1, 2)).unique().numel() > 1
    for i in range(0, count, max(1, count // 8)):
        assert_same(call(name, first[i : i + 1], second[i : i + 1]), (flow[i : i + 1], iterations[i : i + 1]))


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
@pytest.mark.parametrize("size", [(16, 16), (64, 48), (224, 224)], ids=str)
def test_a_batch_of_256(size: tuple[int, int]) -> None:
    first, second = (t.cuda() for t in differing(256, *size))
    flow, iterations = call("tvl1", first, second)
    assert flow.isfinite().all()
    for i in (0, 101, 255):
        assert_same(
            call("tvl1", first[i : i + 1], second[i : i + 1]), (flow[i : i + 1], iterations[i : i + 1])
        )


@on_gpu
def test_consecutive_frames_are_pairs() -> None:
    clip = frames(6, 100, 120)
    assert_same(gpu(clip), gpu(clip[:-1], clip[1:]))
    flow, iterations = gpu(clip[:1])
    assert flow.shape == (0, 2, 100, 120)
    assert iterations.shape == (0, 5, 5)


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_the_same_bits_again_and_again() -> None:
    first, second = (t.cuda() for t in differing(24, 120, 160))
    wanted = call("tvl1", first, second)
    for _ in range(20):
        assert_same(call("tvl1", first, second), wanted)


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_identical_frames_do_not_move() -> None:
    frame = frames(1, 100, 120)
    for still in (frame, torch.full_like(frame, 97)):
        for mode in ("opencv-cpu", "opencv-cuda"):
            assert not gpu(still, still, mode=mode)[0].any()


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_a_scene_cut_runs_to_the_cap() -> None:
    changes = {"inner_iterations": 7, "outer_iterations": 3, "epsilon": 1e-6}
    _, iterations = gpu(frames(1, 90, 120), frames(1, 90, 120, seed=5), **changes)
    assert (iterations == 21).all()


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_two_streams_at_once() -> None:
    clips = [tuple(t.cuda() for t in differing(12, 100 + 20 * i, 150)) for i in range(2)]
    wanted = [call("tvl1", *clip) for clip in clips]
    streams = [torch.cuda.Stream() for _ in clips]
    torch.cuda.synchronize()
    results = []
    for _ in range(10):
        for stream, clip in zip(streams, clips, strict=True):
            with torch.cuda.stream(stream):
                results.append(call("tvl1", *clip))
    torch.cuda.synchronize()
    for i, result in enumerate(results):
        assert_same(result, wanted[i % 2])


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_two_threads_at_once() -> None:
    first, second = (t.cuda() for t in differing(6, 90, 120))
    wanted = call("tvl1", first, second)
    results: list[tuple[Tensor, Tensor]] = []

    def work() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(10):
                results.append(call("tvl1", first, second))
            torch.cuda.current_stream().synchronize()

    torch.cuda.synchronize()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for result in results:
        assert_same(result, wanted)


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_runs_on_the_current_stream_and_waits_for_nothing() -> None:
    source = frames(3, 90, 120).cuda()
    wanted = call("tvl1", source)
    clip = torch.zeros_like(source)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call("tvl1", clip)  # takes the memory that is needed, for which the driver may wait
        torch.cuda._sleep(100_000_000)  # some 50 ms in which any other stream would still see zeros
        clip.copy_(source)
        result = call("tvl1", clip)
        assert not stream.query(), "the call waited for the GPU"
    torch.cuda.current_stream().wait_stream(stream)
    assert_same(result, wanted)


@on_gpu
@pytest.mark.usefixtures("design")
@in_launches
@pytest.mark.parametrize("changes", [{}, {"scale_step": 0.97, "nscales": 40, "warps": 1}], ids=str)
def test_runs_in_a_cuda_graph(changes: dict[str, Any]) -> None:
    """With more levels, too, than go into one launch."""
    clip = frames(4, 90, 120).cuda()
    call("tvl1", clip, **changes)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call("tvl1", clip, **changes)
    clip.copy_(frames(4, 90, 120, seed=3))
    for _ in range(3):
        graph.replay()
    assert_same(result, call("tvl1", clip, **changes))


@on_gpu
def test_memory_does_not_grow_with_the_batch() -> None:
    """Only frames, flow and iterations do; working memory is for the pairs in work."""

    def working_memory(pairs: int) -> int:
        clip = frames(1, 240, 320).cuda().expand(pairs + 1, -1, -1).contiguous()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        flow, iterations = call("tvl1", clip)
        results = flow.numel() * 4 + iterations.numel() * 4
        return torch.cuda.max_memory_allocated() - before - results

    first = working_memory(256)
    assert working_memory(512) <= first + 2**21
    plane = 240 * 328 * 4
    # Of pairs of which the L2 cache holds 16 planes there are 20 planes, and two pyramids of up to 2.8 planes
    # of the finest level, whose pixels may be 6 times as many.
    in_work = torch.cuda.get_device_properties(0).L2_cache_size / (16 * plane) + 1
    assert first <= in_work * (20 + 6 * 5.6) * plane + 2**21


@on_gpu
@pytest.mark.usefixtures("design")
@in_both_designs
def test_keeps_no_memory() -> None:
    clip = frames(3, 90, 120).cuda()
    call("tvl1", clip)
    before = torch.cuda.memory_allocated()
    for _ in range(200):
        call("tvl1", clip)
    assert torch.cuda.memory_allocated() == before


@on_gpu
def test_runs_on_the_device_of_its_frames() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    clip = frames(3, 90, 120)
    with torch.cuda.device(0):
        flow, _ = call("tvl1", clip.to("cuda:1"))
    assert flow.device == torch.device("cuda:1")
    assert_same((flow,), gpu(clip)[:1])


@on_gpu
def test_opcheck() -> None:
    sample = (frames(3, 40, 50).cuda(), None, None, *arguments(TVL1Params(warps=1)))
    torch.library.opcheck(torch.ops.fasti3d.tvl1.default, sample)


@on_gpu
def test_bad_arguments_are_refused() -> None:
    clip = frames(3, 40, 50).cuda()
    with pytest.raises(RuntimeError, match="frame0 must be uint8 or float32"):
        call("tvl1", clip.double())
    with pytest.raises(RuntimeError, match="frame0 must be contiguous"):
        call("tvl1", clip[:, :, ::2])
    with pytest.raises(RuntimeError, match="frame1 must be on frame0's device"):
        call("tvl1", clip, clip.cpu())


SANITIZED = """
import torch
import fasti3d
from tvl1_making import arguments, frames
from fasti3d.flow.params import TVL1Params
for form in ({}, {"mode": "opencv-cuda", "gamma": 0.3}, {"median_filtering": 3}):
    parameters = arguments(TVL1Params(nscales=2, warps=2, outer_iterations=2, **form))
    for size in ((40, 70), (150, 131)):
        clip = frames(4, *size).cuda()
        for name in ("tvl1", "tvl1_exact"):
            getattr(torch.ops.fasti3d, name)(clip, None, None, *parameters)
torch.cuda.synchronize()
"""


@on_gpu
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("design")
@pytest.mark.parametrize("design", ["groups/2", "cluster/2"], indirect=True)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    assert_sanitized(tool, SANITIZED)
