"""The network on a GPU with CUDA graphs: the same bits as without, whoever calls it and how."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from i3d_making import make_i3d
from requiring import require
from torch import Tensor

from fasti3d import I3D, reference
from fasti3d.engine.cuda_graphs import CUDA, Graphs, Maps
from fasti3d.runtime import gpu

pytestmark = pytest.mark.gpu

NAMES = ["MaxPool3d_2a_3x3", "Mixed_3c", "Logits"]
SHAPE = (2, 3, 17, 193, 200)


@pytest.fixture(autouse=True)
def _kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    require(gpu.why_not(torch.device("cuda"), torch.float16))
    monkeypatch.delenv("FASTI3D_CUDA_GRAPHS", raising=False)


@pytest.fixture
def model() -> Iterator[I3D]:
    """A network of this test's own, nothing of whose plan is left behind."""
    model = make_i3d().cuda().half()
    yield model
    model._plan = None  # pytest holds the network itself until after this
    model._plans.clear()
    gc.collect()
    torch.cuda.synchronize()
    assert CUDA.held() == {}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Tensor]]:
    """Runs without graphs."""

    def call(model: I3D, x: Tensor) -> list[Tensor]:
        with monkeypatch.context() as context:
            context.setenv("FASTI3D_CUDA_GRAPHS", "0")
            return run(model, x)

    return call


def clip(*shape: int, seed: int = 0, device: str = "cuda") -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    x = torch.empty(shape or SHAPE, device=device).uniform_(-1, 1, generator=generator)
    return x.half()


def run(model: I3D, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(model.forward_endpoints(x, NAMES).values())


def same(actual: list[Tensor], expected: list[Tensor]) -> bool:
    pairs = list(zip(actual, expected, strict=True))
    assert all(a.stride() == b.stride() for a, b in pairs)
    return all(torch.equal(a, b) for a, b in pairs)


def held(model: I3D) -> int:
    """The graphs of a network's plan."""
    assert model._plan is not None
    graphs = model._plan.plan.graphs
    assert graphs is not None
    return len(graphs.nbytes)


def warm(model: I3D, x: Tensor) -> None:
    for _ in range(2):
        run(model, x)


def test_the_same_bits_again_and_again_and_kept(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    clips = [clip(seed=seed) for seed in range(6)]
    expected = [plain(model, x) for x in clips]
    for x, y in zip(clips, expected, strict=True):
        assert same(plain(model, x), y), "not the same from run to run"
    results = [run(model, x) for x in clips]
    assert held(model) == 1
    results += [run(model, x) for x in clips]
    assert all(same(y, expected[i % 6]) for i, y in enumerate(results))
    assert 0 < CUDA.held()[torch.device("cuda", 0)] < torch.cuda.memory_reserved()


def test_layouts(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    wide = clip(2, 3, 20, 200, 209)
    for x in (
        clip(),
        clip().contiguous(memory_format=torch.channels_last_3d),
        wide[:, :, 1:18, 3:196, 1:201],  # whose first value is not aligned
        wide[:, :, :1, :193, :200].expand(-1, -1, 17, -1, -1),
    ):
        expected = plain(model, x)
        assert all(same(run(model, x), expected) for _ in range(4))


def test_modes_in_turn(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    x = clip()
    expected = plain(model, x)
    for _ in range(3):
        with torch.inference_mode():
            assert same(run(model, x), expected)
            assert same(run(model, x.clone()), expected)
        assert same(run(model, x), expected)
    assert held(model) == 1


def test_two_streams(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    """Replays that follow each other on different streams, without the host waiting between them."""
    clips = [clip(seed=seed) for seed in range(8)]
    expected = [plain(model, x) for x in clips]
    warm(model, clips[0])
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(2)]
    results: list[list[Tensor]] = []
    for i, x in enumerate(clips * 3):
        with torch.cuda.stream(streams[i % 2]):
            results.append(run(model, x))
    torch.cuda.synchronize()
    assert all(same(y, expected[i % 8]) for i, y in enumerate(results))


def test_threads_on_streams_of_their_own(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    """Two networks and two shapes, from nothing: captures and replays among plain runs."""
    other = make_i3d(seed=1).cuda().half()
    clips = [clip(seed=0), clip(1, 3, 9, 193, 193, seed=1)]
    cases = [(m, x) for m in (model, other) for x in clips]
    expected = [plain(m, x) for m, x in cases]
    torch.cuda.synchronize()

    def work(i: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            results = []
            for n in range(12):
                m, x = cases[(i + n) % 4]
                results.append((run(m, x), expected[(i + n) % 4]))
            torch.cuda.current_stream().synchronize()
            return all(same(y, e) for y, e in results)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert held(model) == held(other) == 2


def test_inside_a_graph_of_the_users(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    x = clip()
    warm(model, x)
    run(model, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run(model, x)
    for seed in (1, 2):
        x.copy_(clip(seed=seed))
        graph.replay()
        assert same(y, plain(model, x))
        assert same(run(model, x), y)


def test_a_plan_is_not_made_inside_a_graph_of_the_users(
    model: I3D, plain: Callable[..., list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x = clip()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with torch.no_grad():
        reference.I3D.forward_endpoints(model, x, NAMES)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run(model, x)
    assert model._plan is None
    assert same(run(model, x), plain(model, x))


def test_edits_show_at_once_and_old_graphs_go(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    x = clip()
    before: list[Tensor] = []
    for _ in range(4):
        for _ in range(3):
            y = run(model, x)
        assert same(y, plain(model, x))
        assert not before or not same(y, before)
        assert held(model) == 1
        before = y
        with torch.no_grad():
            model.Mixed_3b.b1b.bn.bias.add_(0.5)
    model._plan = None
    model._plans.clear()
    assert CUDA.held() == {}
    torch.cuda.empty_cache()
    # Not what is free of the GPU, which other processes take from too.
    reserved = torch.cuda.memory_reserved()
    warm(model, x)
    assert CUDA.held()[torch.device("cuda", 0)] > 0
    model._plan = None
    model._plans.clear()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved + (64 << 20), "memory of graphs was not given back"


def test_more_shapes_than_graphs(model: I3D, plain: Callable[..., list[Tensor]]) -> None:
    clips = [clip(1, 3, frames, 193, 193) for frames in (9, 10, 11, 12, 13, 16, 17)]
    expected = [plain(model, x) for x in clips]
    order = [i for n in range(7) for i in (n, n, n)] + list(range(7)) * 2 + [6, 6, 6, 5, 5, 5]
    for i in order:
        assert same(run(model, clips[i]), expected[i])
        assert held(model) <= 4
    assert held(model) == 4


def test_random_numbers_are_left_alone(model: I3D) -> None:
    x = clip()
    torch.cuda.manual_seed(3)
    state = torch.cuda.get_rng_state()
    for _ in range(4):
        run(model, x)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    first = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(3)
    assert torch.equal(first, torch.rand(4, device="cuda"))


def test_a_capture_that_fails_leaves_no_trace() -> None:
    graphs, failing = Graphs(), Graphs()
    x = torch.ones(1 << 20, device="cuda")

    def double(x: Tensor, wanted: set[str], dtype: torch.dtype) -> Maps:
        return {"y": x * 2}

    def fail(x: Tensor, wanted: set[str], dtype: torch.dtype) -> Maps:
        y = double(x, wanted, dtype)
        if torch.cuda.is_current_stream_capturing():
            raise torch.OutOfMemoryError("no memory")
        return y

    assert failing.run(fail, x, {"y"}, x.dtype)["y"][0] == 2
    with pytest.warns(RuntimeWarning, match="no memory"):
        failing.run(fail, x, {"y"}, x.dtype)
    assert failing.run(fail, x, {"y"}, x.dtype)["y"][0] == 2
    torch.rand(4, device="cuda")
    for value in range(4):
        assert graphs.run(double, x * value, {"y"}, x.dtype)["y"][-1] == 2 * value
    assert len(graphs.nbytes) == 1


def test_two_gpus(plain: Callable[..., list[Tensor]]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    models = [make_i3d().half().to(f"cuda:{i}") for i in range(2)]
    clips = [clip().to(f"cuda:{i}") for i in range(2)]
    for current in (0, 1, 0, 1):
        with torch.cuda.device(current):
            for model, x in zip(models, clips, strict=True):
                expected = plain(model, x)
                y = run(model, x)
                torch.cuda.synchronize(x.device)
                assert y[0].device == x.device
                assert same(y, expected)
    assert set(CUDA.held()) == {torch.device("cuda", i) for i in range(2)}


def test_peak_memory_is_a_third_of_eagers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond weights and clips, at a batch of 8, up to the logits."""
    if torch.cuda.mem_get_info()[0] < 8e9:
        pytest.skip("needs 8 GB of GPU memory")
    ours = make_i3d().cuda().half()
    x = clip(8, 3, 64, 224, 224)

    def peak(call: Callable[[], object]) -> int:
        call()  # makes what is kept from call to call
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    with torch.no_grad():
        eager = peak(lambda: reference.I3D.forward_endpoints(ours, x, ["Logits"]))
        monkeypatch.setenv("FASTI3D_CUDA_GRAPHS", "0")
        plan = peak(lambda: ours(x))
    assert 3 * plan <= eager, f"{plan / 1e6:.0f} MB, eager {eager / 1e6:.0f} MB"
