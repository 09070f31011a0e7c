"""From frames to the flow stream's input, of clips and of the windows of a video."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from threading import Event

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from fasti3d import choices, video
from fasti3d.flow import stream, window_flow
from fasti3d.flow.encoding import encode_mediapipe, encode_readme, to_flow_clip, to_grey
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.solve import tvl1, tvl1_video
from fasti3d.flow.stream import stream_flow
from fasti3d.flow.window_flow import FlowWindow, SolvedFlow, with_flow

CPU = torch.device("cpu")
# Few iterations: what is tested here is which frames meet, not how well they are matched.
QUICK = TVL1Params(nscales=1, warps=1, inner_iterations=3, outer_iterations=1)


def random_frames(count: int, height: int = 230, width: int = 241, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def pair_levels(flow: Tensor) -> list[tuple[int, int]]:
    """The grey levels that ``solved`` hid in the flow of each pair."""
    return [tuple((400 * pair[:, 0, 0]).round().int().tolist()) for pair in flow]


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A solver whose flow says which two plain frames it is between, and the pairs it was asked for."""
    pairs: list[tuple[int, int]] = []

    def fake(grey: Tensor, *, params: TVL1Params) -> Tensor:
        levels = grey[:, 0, 0].tolist()
        pairs.extend(pairwise(levels))
        vectors = torch.stack([grey[:-1], grey[1:]], dim=1)
        return vectors.float() / 20

    monkeypatch.setattr(stream, "tvl1_video", fake)
    return pairs


def write_video(path: Path, frames: np.ndarray) -> Path:
    """A lossless video at 25 frames a second of uint8 frames (T, H, W, 3)."""
    with av.open(str(path), "w") as container:
        out = container.add_stream("ffv1", rate=Fraction(25))
        out.height, out.width, out.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            container.mux(out.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(out.encode())
    return path


def plain(path: Path, count: int) -> Path:
    """Frame i is grey of level i."""
    levels = np.arange(count, dtype=np.uint8)
    return write_video(path, np.tile(levels[:, None, None, None], (1, 16, 16, 3)))


def noise(path: Path, count: int, height: int, width: int) -> Path:
    return write_video(path, random_frames(count, height, width).numpy())


def flow_windows(path: Path, window: int, stride: int, preset: str = "readme") -> list[FlowWindow]:
    source = video.windows(path, window=window, stride=stride, crop=None)
    return list(with_flow(source, SolvedFlow(preset, QUICK, CPU)))  # type: ignore[arg-type]


# ---------------------------------------------------------------- one clip


def test_readme_is_the_flow_of_whole_frames_cropped_and_encoded() -> None:
    frames = random_frames(4)
    expected = encode_readme(tvl1_video(to_grey(frames), params=QUICK))[:, :, 3:227, 8:232]
    found = stream_flow(frames, "readme", QUICK)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_mediapipe_is_the_flow_of_squashed_frames_in_bytes() -> None:
    frames = random_frames(3, 240, 330)
    small = stream._squash(frames)
    assert (small.shape, small.dtype) == ((3, 224, 224, 3), torch.uint8)
    found = stream_flow(frames, "mediapipe", QUICK)
    assert (found.dtype, found.shape) == (torch.uint8, (2, 2, 224, 224))
    assert torch.equal(found, encode_mediapipe(tvl1_video(to_grey(small), params=QUICK)))


@pytest.mark.parametrize("size", [(256, 340), (448, 224), (230, 700)])
def test_squashing_averages(size: tuple[int, int]) -> None:
    (frame,) = random_frames(1, *size)
    apart = stream._squash(frame[None])[0].int() - squashed(frame.numpy()).int()
    assert apart.abs().amax() <= 1  # where float32 rounds a half the other way
    assert apart.count_nonzero() < 1e-3 * apart.numel()


def squashed(frame: np.ndarray) -> Tensor:
    """To 224x224 by a triangle as wide as the step on either side, weights renormalised at the border."""
    pixels = frame.astype(np.float64)
    for axis in (0, 1):
        size = pixels.shape[axis]
        step = size / 224
        centres = (np.arange(224) + 0.5) * step - 0.5
        weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(size)) / step)
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
    return torch.from_numpy(np.rint(pixels).astype(np.uint8))


def test_frames_of_the_network_s_size_are_not_squashed(solved: list[tuple[int, int]]) -> None:
    frames = random_frames(3, 224, 224)
    assert torch.equal(stream._squash(frames), frames)


@pytest.mark.parametrize("preset", ["readme", "mediapipe"])
def test_one_frame_has_no_flow_and_still_frames_have_the_still_flow(preset: stream.FlowPreset) -> None:
    frame = random_frames(1)
    still = stream.still_flow(preset, CPU)
    none = stream_flow(frame, preset, QUICK)
    assert (none.shape, none.dtype) == ((0, 2, 224, 224), still.dtype)
    assert torch.equal(stream_flow(frame.repeat(2, 1, 1, 1), preset, TVL1Params()), still)


def test_clips_are_solved_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = torch.stack([random_frames(4, seed=seed) for seed in range(3)])
    expected = [to_flow_clip(stream_flow(clip, "readme", QUICK)) for clip in clips]
    solved: list[int] = []

    def solve(first: Tensor, second: Tensor, *, params: TVL1Params) -> Tensor:
        solved.append(len(first))
        return tvl1(first, second, params=params)

    monkeypatch.setattr(stream, "tvl1", solve)
    monkeypatch.setattr(stream, "_PAIRS_AT_ONCE", 7)
    found = stream.flow_clips(clips, "readme", QUICK)
    assert torch.equal(found, torch.stack(expected))
    assert solved == [6, 3]


def test_small_frames_and_other_presets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 224x224 pixels, got 223x300.*256"):
        stream_flow(random_frames(2, 223, 300), "readme", QUICK)
    with pytest.raises(ValueError, match="one of readme, mediapipe, got 'raw'"):
        choices.check_preset("raw")


# ---------------------------------------------------------------- the windows of a video


@pytest.mark.parametrize(
    ("frames", "window", "stride"),
    [(64, 64, 32), (40, 10, 3), (35, 20, 10), (30, 10, 10), (45, 10, 20), (30, 64, 32)],
)
def test_each_pair_of_the_windows_is_solved_once(
    frames: int, window: int, stride: int, tmp_path: Path, solved: list[tuple[int, int]]
) -> None:
    needed = set()
    for item in flow_windows(plain(tmp_path / "v.mkv", frames), window, stride):
        count = len(item.times)
        pairs = [(item.start + i, item.start + i + 1) for i in range(count - 1)]
        assert pair_levels(item.flow) == pairs  # flow i leads from the window's frame i to its frame i + 1
        assert [int(frame[0, 0, 0]) for frame in item.frames] == list(range(item.start, item.start + count))
        needed |= set(pairs)
    assert sorted(solved) == sorted(needed)


@pytest.mark.parametrize(
    ("frames", "starts"),
    [(1, None), (2, [0] * 9), (5, [0, 1, 2, 3, 0, 1, 2, 3, 0]), (9, [*range(8), 0]), (10, [*range(9)])],
)
def test_a_short_video_repeats_its_flows(
    frames: int, starts: list[int] | None, tmp_path: Path, solved: list[tuple[int, int]]
) -> None:
    (only,) = flow_windows(plain(tmp_path / "v.mkv", frames), 64, 32)
    assert len(only.frames) == max(frames, 9)
    assert only.flow.shape == (9, 2, 224, 224)
    if starts is None:
        assert only.flow.eq(0).all()
    else:
        assert pair_levels(only.flow) == [(i, i + 1) for i in starts]
    assert len(solved) == frames - 1


@pytest.mark.parametrize(
    ("preset", "group"), [("readme", 1), ("readme", 4), ("readme", 100), ("mediapipe", 4)]
)
def test_windows_have_the_flow_of_the_whole_video(
    preset: stream.FlowPreset, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_flow, "_group", lambda device: group)
    path = noise(tmp_path / "v.mkv", 23, 20, 27)
    whole = torch.stack([frame.image for frame in video.read_frames(path, crop=None)])
    expected = stream_flow(whole, preset, QUICK)
    found = flow_windows(path, 10, 4, preset)
    assert [item.start for item in found] == [0, 4, 8, 12, 13]
    for item in found:
        assert torch.equal(item.flow, expected[item.start : item.start + 9])
        assert item.flow.dtype == expected.dtype


def test_a_stop_is_obeyed_within_a_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Event()
    solved: list[int] = []

    def solve(grey: Tensor, *, params: TVL1Params) -> Tensor:
        solved.append(len(grey) - 1)
        stop.set()
        return torch.zeros(len(grey) - 1, 2, *grey.shape[1:])

    monkeypatch.setattr(stream, "tvl1_video", solve)
    monkeypatch.setattr(window_flow, "_group", lambda device: 5)
    source = video.windows(plain(tmp_path / "v.mkv", 30), window=20, crop=None)
    assert list(with_flow(source, SolvedFlow("readme", QUICK, CPU), stop)) == []
    assert solved == [5]


@pytest.mark.parametrize("size", [(40, 53), (71, 32), (64, 64)])
def test_the_frames_are_those_of_the_rgb_path_bit_for_bit(
    size: tuple[int, int], tmp_path: Path, solved: list[tuple[int, int]]
) -> None:
    path = noise(tmp_path / "v.mkv", 25, *size)
    expected = list(video.windows(path, window=12, stride=5))
    for found, plain_ in zip(flow_windows(path, 12, 5), expected, strict=True):
        assert torch.equal(found.frames, plain_.frames)
        assert found.frames.is_contiguous()
        assert (found.index, found.start, found.times) == (plain_.index, plain_.start, plain_.times)


def test_flow_of_a_real_clip_is_that_of_its_pairs(shared_data: Path) -> None:
    path = shared_data / "videos" / "arm_wrestling.mp4"
    item = next(with_flow(video.windows(path, window=10, crop=None), SolvedFlow("readme", TVL1Params(), CPU)))
    frames = next(video.windows(path, window=10, crop=None)).frames[4:6]
    pair = tvl1(to_grey(frames[0]), to_grey(frames[1]))
    rows, columns = stream.center(*frames.shape[1:3])
    assert torch.equal(item.flow[4], encode_readme(pair)[:, rows, columns])
    assert pair.abs().amax() > 0.5


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    """The flow of 240 frames is 96 MB; a run over all of them may grow by four windows at most."""
    pytest.importorskip("resource")
    path = plain(tmp_path / "long.mkv", 120)
    script = """
import resource, sys, torch
from fasti3d import choices, video
from fasti3d.flow import stream
from fasti3d.flow.params import TVL1Params
from fasti3d.flow.window_flow import SolvedFlow, with_flow
stream.tvl1_video = lambda grey, params: torch.stack([grey[1:], grey[:-1]], dim=1).float()

def windows():
    for _ in range(2):
        yield from video.windows(sys.argv[1], window=16, stride=8, crop=None)

peaks = []
for item in with_flow(windows(), SolvedFlow("readme", TVL1Params(), torch.device("cpu"))):
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[5], peaks[-1], len(peaks))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    early, late, count = (int(word) for word in done.stdout.split())
    assert count == 2 * 14
    unit = 1 if sys.platform == "darwin" else 1024
    assert (late - early) * unit < 4 * 16 * (256 * 256 * 3 + 224 * 224 * 8)
