"""fasti3d.flow.tvl1 and tvl1_video: what they take, give and refuse, whatever implements the operator."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from flow_making import HEIGHT, QUICK, WIDTH, moving
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fasti3d.flow import TVL1Params, solve, tvl1, tvl1_video

FRAMES = moving(4)
FLOATS = FRAMES.float() / 255
FIRST, SECOND = FRAMES[0], FRAMES[1]
MODES = ["opencv-cpu", "opencv-cuda"]


@pytest.fixture(scope="module")
def flow() -> Tensor:
    """Between FIRST and SECOND."""
    return tvl1(FIRST, SECOND, params=QUICK)


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# What it gives.


def test_flow_points_from_the_first_frame_to_the_second() -> None:
    frames = moving(2, step=(2.0, -1.0))
    params = TVL1Params(epsilon=0.02)
    inner = (slice(6, -6), slice(6, -6))
    there, back = tvl1(frames[0], frames[1], params=params), tvl1(frames[1], frames[0], params=params)
    for found, wanted in ((there, (2.0, -1.0)), (back, (-2.0, 1.0))):
        assert (found[0][inner] - wanted[0]).abs().mean() < 0.1
        assert (found[1][inner] - wanted[1]).abs().mean() < 0.1


def test_shapes_and_kinds(flow: Tensor) -> None:
    assert flow.shape == (2, HEIGHT, WIDTH)
    assert flow.dtype == torch.float32
    assert flow.is_contiguous()
    assert flow.abs().max() > 0.5
    one = tvl1(FIRST[None], SECOND[None], params=QUICK)
    assert torch.equal(one, flow[None])
    channel = tvl1(FIRST[None, None], SECOND[None, None], params=QUICK)
    assert torch.equal(channel, flow[None])
    array = tvl1(FIRST.numpy(), SECOND.numpy(), params=QUICK)
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert np.array_equal(array, flow.numpy())


@pytest.mark.parametrize("mode", MODES)
def test_a_pair_does_not_depend_on_its_batch(mode: Any) -> None:
    params = dataclasses.replace(QUICK, mode=mode)
    batch = tvl1(FRAMES[:3], FRAMES[1:], params=params)
    assert batch.shape == (3, 2, HEIGHT, WIDTH)
    for i in range(3):
        assert torch.equal(batch[i], tvl1(FRAMES[i], FRAMES[i + 1], params=params))


def test_dtypes(flow: Tensor) -> None:
    single = tvl1(FLOATS[0], FLOATS[1], params=QUICK)
    assert (single - flow).abs().mean() < 1e-3
    double = tvl1(FLOATS[0].double(), FLOATS[1].double(), params=QUICK)
    assert torch.equal(double, single)
    for dtype in (torch.float16, torch.bfloat16):
        first, second = FLOATS[0].to(dtype), FLOATS[1].to(dtype)
        assert torch.equal(
            tvl1(first, second, params=QUICK), tvl1(first.float(), second.float(), params=QUICK)
        )
    foreign, native = FLOATS[0].numpy().astype(">f4"), FLOATS[1].numpy()
    assert np.array_equal(tvl1(foreign, native, params=QUICK), single.numpy())
    for kind in (">f4", "<f8", ">f8"):
        first, second = (FLOATS[i].numpy().astype(kind) for i in (0, 1))
        assert np.array_equal(tvl1(first, second, params=QUICK), single.numpy())


def test_any_strides_and_read_only_memory(flow: Tensor) -> None:
    first, second = FIRST.numpy().copy(), SECOND.numpy().copy()
    for array in (first, second):
        array.setflags(write=False)
    assert np.array_equal(tvl1(first, second, params=QUICK), flow.numpy())
    turned = [np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1] for array in (first, second)]
    assert turned[0].strides == (-WIDTH, -1)
    assert np.array_equal(tvl1(*turned, params=QUICK), flow.numpy())
    wide = [frame.T.contiguous().T for frame in (FIRST, SECOND)]
    assert not wide[0].is_contiguous()
    assert torch.equal(tvl1(*wide, params=QUICK), flow)
    sparse = [frame.repeat_interleave(2, dim=1)[:, ::2] for frame in (FIRST, SECOND)]
    assert torch.equal(tvl1(*sparse, params=QUICK), flow)


def test_arguments_are_left_alone() -> None:
    frames, start = FRAMES.clone(), torch.full((3, 2, HEIGHT, WIDTH), 0.5)
    tvl1(frames[:3], frames[1:], params=dataclasses.replace(QUICK, nscales=1), initial_flow=start)
    assert torch.equal(frames, FRAMES)
    assert (start == 0.5).all()


@pytest.mark.parametrize("mode", MODES)
def test_initial_flow_is_where_it_starts(mode: Any) -> None:
    frames = moving(2, step=(9.0, 0.0))
    params = TVL1Params(mode=mode, nscales=1, epsilon=0.05)
    wanted = torch.tensor([9.0, 0.0])[:, None, None]
    inner = (slice(None), slice(6, -6), slice(14, -14))

    def apart(flow: Tensor) -> float:
        return (flow - wanted)[inner].norm(dim=0).mean().item()

    start = (wanted + torch.tensor([-0.6, 0.4])[:, None, None]).expand(2, HEIGHT, WIDTH)
    helped = tvl1(frames[0], frames[1], params=params, initial_flow=start)
    assert apart(helped) < 0.15
    assert apart(tvl1(frames[0], frames[1], params=params)) > 3
    batch = tvl1(frames[:1], frames[1:], params=params, initial_flow=start[None].double())
    assert torch.equal(batch[0], helped)
    array = tvl1(frames[0].numpy(), frames[1].numpy(), params=params, initial_flow=start.contiguous().numpy())
    assert np.array_equal(array, helped.numpy())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gamma", [0.0, 0.2])
def test_nothing_moves(mode: Any, gamma: float) -> None:
    params = TVL1Params(mode=mode, gamma=gamma, outer_iterations=2)
    for frame in (FIRST, FLOATS[0], torch.zeros_like(FIRST)):
        assert (tvl1(frame, frame, params=params) == 0).all()
    if not gamma:
        grey, lighter = (torch.full((HEIGHT, WIDTH), value, dtype=torch.uint8) for value in (90, 200))
        assert (tvl1(grey, lighter, params=params) == 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_cap_holds_at_a_cut(mode: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    shots = torch.randint(0, 256, (2, 40, 40), generator=generator, dtype=torch.uint8)
    p = TVL1Params(mode=mode, epsilon=1e-4, nscales=3, inner_iterations=7, outer_iterations=3)
    flow, iterations = torch.ops.fasti3d.tvl1(shots[:1], shots[1:], None, **dataclasses.asdict(p))
    assert iterations.tolist() == [[[21] * 5] * 3]
    assert torch.isfinite(flow).all()
    assert torch.equal(tvl1(shots[0], shots[1], params=p), flow[0])


@pytest.mark.parametrize("size", [(3, 3), (3, 200), (200, 3), (15, 16), (17, 31)])
@pytest.mark.parametrize("mode", MODES)
def test_small_and_odd_sizes(size: tuple[int, int], mode: Any) -> None:
    frames = moving(2, height=size[0], width=size[1])
    flow = tvl1(frames[0], frames[1], params=dataclasses.replace(QUICK, mode=mode, gamma=0.1))
    assert flow.shape == (2, *size)
    assert torch.isfinite(flow).all()


def test_empty_batches() -> None:
    empty = FRAMES[:0]
    assert tvl1(empty, empty).shape == (0, 2, HEIGHT, WIDTH)
    assert tvl1(FLOATS[:0], FLOATS[:0], initial_flow=torch.zeros(0, 2, HEIGHT, WIDTH)).dtype == torch.float32
    assert tvl1(empty.numpy()[:, None], empty.numpy()[:, None]).shape == (0, 2, HEIGHT, WIDTH)
    for few in (FRAMES[:0], FRAMES[:1]):
        assert tvl1_video(few).shape == (0, 2, HEIGHT, WIDTH)
        assert tvl1_video(few.numpy()).shape == (0, 2, HEIGHT, WIDTH)
        assert list(tvl1_video(list(few))) == []
    torch.set_default_dtype(torch.float64)
    try:
        assert tvl1_video(FRAMES[:1]).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_two_threads_at_once_give_what_one_gives() -> None:
    def work(i: int) -> Tensor:
        return tvl1(FRAMES[i % 3], FRAMES[i % 3 + 1], params=QUICK)

    alone = [work(i) for i in range(6)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, range(6)))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("frames", [FRAMES, FLOATS], ids=["uint8", "float32"])
def test_compiled_it_is_one_operator(frames: Tensor) -> None:
    calls: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        calls.extend(str(node.target) for node in module.graph.nodes if "fasti3d" in str(node.target))
        return module.forward

    def motion(first: Tensor, second: Tensor, start: Tensor) -> Tensor:
        return tvl1(first, second, params=QUICK, initial_flow=start).abs().amax(dim=1)

    start = torch.ones((3, 2, HEIGHT, WIDTH))
    compiled = torch.compile(motion, fullgraph=True, backend=backend)
    assert torch.equal(compiled(frames[:3], frames[1:], start), motion(frames[:3], frames[1:], start))
    assert len(calls) == 1
    calls.clear()
    video = torch.compile(lambda frames: tvl1_video(frames, params=QUICK), fullgraph=True, backend=backend)
    assert torch.equal(video(frames), tvl1_video(frames, params=QUICK))
    assert len(calls) == 1


def test_values_that_are_not_there_are_not_looked_at() -> None:
    for mode in (FakeTensorMode(), torch.device("meta")):
        with mode:
            images = torch.empty((2, HEIGHT, WIDTH))
            flow = tvl1(images, images, initial_flow=torch.empty((2, 2, HEIGHT, WIDTH)))
            assert (flow.shape, flow.device) == ((2, 2, HEIGHT, WIDTH), images.device)


# Videos.


@pytest.mark.parametrize("mode", MODES)
def test_a_video_is_its_pairs(mode: Any) -> None:
    params = dataclasses.replace(QUICK, mode=mode)
    flows = tvl1_video(FRAMES, params=params)
    assert torch.equal(flows, tvl1(FRAMES[:-1], FRAMES[1:], params=params))
    assert torch.equal(flows, tvl1_video(FRAMES[:, None], params=params))
    array = tvl1_video(FLOATS.numpy(), params=params)
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, tvl1_video(FLOATS, params=params).numpy())


@pytest.fixture
def groups_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "_PAIRS", 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.mark.parametrize("frames", range(1, 9))
def test_a_stream_is_the_video(groups_of_three: None, frames: int) -> None:
    video = moving(frames, height=20, width=24)
    streamed = list(tvl1_video(iter(video), params=QUICK))
    assert len(streamed) == frames - 1
    for flow, wanted in zip(streamed, tvl1_video(video, params=QUICK), strict=True):
        assert torch.equal(flow, wanted)
        assert flow.untyped_storage().nbytes() == flow.nbytes
    arrays = list(tvl1_video(list(video.numpy()), params=QUICK))
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(arrays, streamed, strict=True))


def test_a_stream_is_lazy_and_takes_frames_written_over_each_other(groups_of_three: None) -> None:
    video = moving(8, height=20, width=24)
    memory = np.empty((20, 24), np.uint8)
    read = 0

    def decode() -> Iterator[np.ndarray]:
        nonlocal read
        for frame in video.numpy():
            read += 1
            memory[:] = frame
            yield memory

    flows = tvl1_video(decode(), params=QUICK)
    assert read == 0
    seen = []
    for flow in flows:
        seen.append(read)
        memory[:] = 0
        assert np.array_equal(flow, tvl1_video(video.numpy(), params=QUICK)[len(seen) - 1])
    assert seen == [4, 4, 4, 7, 7, 7, 8]


def test_a_stream_feeds_every_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []
    real = solve._solve

    def counted(frames: Tensor, *args: Any) -> Tensor:
        solved.append(len(frames) - 1)
        return real(frames, *args)

    monkeypatch.setattr(solve, "_solve", counted)
    few = moving(40, height=8, width=8)
    list(tvl1_video(iter(few), params=QUICK))
    assert solved == [16, 16, 7] or torch.get_num_threads() > 16
    solved.clear()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 24)
    list(tvl1_video(iter(few), params=QUICK))
    assert solved == [24, 15]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (FIRST[:-1], ValueError, "frames[0] and frames[5] must have one shape, got (48, 64) and (47, 64)"),
        (FLOATS[0], ValueError, "frames[0] and frames[5] must have one dtype, got uint8 and float32"),
        (FIRST.numpy(), TypeError, "frames[0] and frames[5] must both be NumPy arrays or both tensors"),
        (FIRST[None], ValueError, "frames[5] must be (H, W), got (1, 48, 64)"),
        (FLOATS[0] * 255, ValueError, "frames[5] must lie in 0 to 1"),
        ("frame.png", TypeError, "frames[5] must be a NumPy array or a torch"),
        (FIRST.int(), ValueError, "frames[5] must be uint8 (0 to 255) or floating point (0 to 1), got int32"),
    ],
)
def test_a_wrong_frame_in_a_stream_is_named(
    groups_of_three: None, wrong: Any, error: type[Exception], message: str
) -> None:
    flows = tvl1_video(iter([FIRST] * 5 + [wrong]), params=QUICK)
    got = []
    with pytest.raises(error, match=re.escape(message)):
        got.extend(flow for flow in iter(flows.__next__, None))
    assert next(flows, None) is None


def test_videos_that_are_none() -> None:
    with pytest.raises(
        TypeError, match="frames must be a NumPy array, a tensor or an iterable of them, got int"
    ):
        tvl1_video(7)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="got str"):
        tvl1_video("clip.mp4")
    with pytest.raises(ValueError, match=r"frames must be \(T, H, W\), got \(48, 64\): use tvl1"):
        tvl1_video(FIRST)
    with pytest.raises(ValueError, match=r"^frames\[2\] must be finite, but has values from nan"):
        tvl1_video(torch.cat([FLOATS[:2], FLOATS[:1] * torch.nan]))
    with pytest.raises(TypeError, match="params must be a TVL1Params, got str"):
        tvl1_video(FRAMES, params="i3d")  # type: ignore[call-overload]
