"""Training clips: where they begin, how they are cut, and that nothing but (seed, epoch, index) decides "
"it."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_making import make_folder, make_ucf101, video_bytes, write
from torch.utils.data import DataLoader

from fasti3d.train.data import (
    DatasetError,
    TrainingClips,
    VideoFolder,
    VideoList,
    open_dataset,
    order,
    to_device,
)
from fasti3d.train.data.clips import ClipSample, Crop
from fasti3d.train.data.index import index
from fasti3d.video import VideoError, read_frames


@pytest.fixture
def clips(tmp_path: Path) -> TrainingClips:
    dataset = open_dataset("ucf101", make_ucf101(tmp_path, classes=("Hammering", "HammerThrow"), frames=30))
    return TrainingClips(index(dataset), frames=8, seed=5)


def test_a_clip_is_consecutive_frames_of_the_video(clips: TrainingClips) -> None:
    video = clips.videos[1]
    whole = torch.stack([frame.image for frame in read_frames(video.path, crop=None)])
    sums = whole.sum((1, 2, 3)).tolist()
    assert len(set(sums)) == 30
    starts = set()
    for epoch in range(12):
        clip = clips[epoch, 1]
        assert (clip.key, clip.label) == (video.key, video.label)
        start = sums.index(clip.frames[0].sum().item())
        assert torch.equal(clip.frames, whole[start : start + 8])
        starts.add(start)
    assert len(starts) > 4


def test_starts_are_uniform_and_leave_a_whole_clip(
    clips: TrainingClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[int] = Counter()

    def recorded(path: Path, first: int, count: int, **options: object) -> torch.Tensor:
        seen[first] += 1
        assert count == 8
        return torch.zeros(1, dtype=torch.uint8).expand(8, 256, 341, 3)

    monkeypatch.setattr("fasti3d.train.data.clips.read_span", recorded)
    crops = [clips[epoch, 0].crop for epoch in range(4000)]
    assert set(seen) == set(range(23))
    assert max(abs(count - 4000 / 23) for count in seen.values()) < 5 * (4000 / 23) ** 0.5
    assert {crop.size for crop in crops} == {224}
    assert {crop.top for crop in crops} == set(range(33))
    assert {crop.left for crop in crops} == set(range(118))
    assert sum(crop.flip for crop in crops) == pytest.approx(2000, abs=5 * 1000**0.5)


def test_only_seed_epoch_and_index_decide(clips: TrainingClips) -> None:
    again = TrainingClips(clips._index, frames=8, seed=5)
    for item in ((0, 1), (3, 0), (0, 1)):
        one, two = clips[item], again[item]
        assert one.crop == two.crop
        assert torch.equal(one.frames, two.frames)
    others = [clips[1, 1], clips[0, 2], TrainingClips(clips._index, frames=8, seed=6)[0, 1]]
    assert all(other.crop != clips[0, 1].crop for other in others)


def test_workers_change_nothing(clips: TrainingClips) -> None:
    items = [(epoch, i) for epoch in range(2) for i in order(5, epoch, len(clips))]
    here = [clips[item] for item in items]
    loader = DataLoader(
        clips, batch_size=3, sampler=items, num_workers=2, collate_fn=list, multiprocessing_context="fork"
    )
    there = [clip for batch in loader for clip in batch]
    for one, two in zip(here, there, strict=True):
        assert (one.key, one.crop) == (two.key, two.crop)
        assert torch.equal(one.frames, two.frames)


def test_clips_can_be_sent_to_other_processes(clips: TrainingClips) -> None:
    there = pickle.loads(pickle.dumps(clips))
    assert torch.equal(there[2, 1].frames, clips[2, 1].frames)


def test_no_flip(clips: TrainingClips) -> None:
    still = TrainingClips(clips._index, frames=8, seed=5, flip=False)
    flips = [clips[epoch, 0].crop.flip for epoch in range(12)]
    assert set(flips) == {True, False}
    for epoch in range(12):
        # All else is as with flips.
        assert still[epoch, 0].crop == clips[epoch, 0].crop._replace(flip=False)


@pytest.mark.parametrize("frames", [1, 3, 9])
def test_short_videos_are_repeated_from_their_start(tmp_path: Path, frames: int) -> None:
    root = make_folder(tmp_path, frames=frames)
    clip = TrainingClips(index(VideoFolder(root)), frames=20)[0, 0].frames
    assert len(clip) == 20
    for i in range(20):
        assert torch.equal(clip[i], clip[i % frames])
    if frames > 1:
        assert not torch.equal(clip[0], clip[1])


def test_portrait_and_tiny_videos_are_scaled_to_256(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=("cat",), frames=4)
    write(root / "cat" / "v0.avi", video_bytes(4, width=32, height=96))
    found = TrainingClips(index(VideoFolder(root)), frames=4)
    assert found[0, 0].frames.shape == (4, 768, 256, 3)
    assert found[0, 0].crop.top <= 544


def test_orders_of_epochs() -> None:
    assert sorted(order(0, 0, 100)) == list(range(100))
    assert order(0, 0, 100) == order(0, 0, 100)
    assert len({tuple(order(seed, epoch, 100)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0, 1) == [0]
    assert order(0, 0, 0) == []


def test_a_video_that_broke_after_it_was_indexed(clips: TrainingClips) -> None:
    path = clips.videos[0].path
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(VideoError, match="v_Hammering_g02"):
        clips[0, 0]
    path.unlink()
    with pytest.raises(VideoError, match="No such file"):
        clips[0, 0]


def test_unreadable_videos_are_left_out_up_to_a_share(tmp_path: Path) -> None:
    root = make_folder(tmp_path, videos=5, frames=2)
    write(root / "dog" / "v3.avi", b"broken")
    found = index(VideoFolder(root))
    with pytest.raises(DatasetError, match="1 of 10 videos"):
        TrainingClips(found)
    clips = TrainingClips(found, max_bad=0.1)
    assert len(clips) == 9
    assert "dog/v3" not in [video.key for video in clips.videos]


def test_videos_without_labels_are_not_for_training(tmp_path: Path) -> None:
    write(tmp_path / "a.avi", video_bytes(2))
    found = index(VideoList(write(tmp_path / "l.txt", "a.avi\n"), classes=write(tmp_path / "names", "x\n")))
    with pytest.raises(DatasetError, match="no labels"):
        TrainingClips(found)


def sample(frames: torch.Tensor, **crop: int) -> ClipSample:
    return ClipSample(frames, Crop(**{"top": 0, "left": 0, "size": 4, "flip": False, **crop}), 0, "a")


def test_bytes_become_the_network_s_input_on_the_device() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (3, 6, 7, 3), dtype=np.uint8))
    clips = [sample(frames, top=1, left=2), sample(frames, top=2, left=3, flip=True)]
    batch = to_device(clips, torch.device("cpu"), torch.float32)
    assert batch.shape == (2, 3, 3, 4, 4)
    assert batch.is_contiguous(memory_format=torch.channels_last_3d)
    wanted = frames.float() / 127.5 - 1
    torch.testing.assert_close(batch[0], wanted[:, 1:5, 2:6].permute(3, 0, 1, 2))
    torch.testing.assert_close(batch[1], wanted[:, 2:6, 3:7].flip(2).permute(3, 0, 1, 2))
    half = to_device(clips, torch.device("cpu"), torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), batch, atol=4e-3, rtol=0)  # half of bfloat16's step below 1


def test_flow_has_a_level_for_no_motion_and_a_flip_turns_x() -> None:
    frames = torch.full((2, 4, 6, 2), 128, dtype=torch.uint8)
    frames[:, 1, 0] = torch.tensor([255, 1], dtype=torch.uint8)
    plain, flipped = to_device(
        [sample(frames), sample(frames, flip=True)], torch.device("cpu"), torch.float32
    )
    assert plain[:, 0, 1, 0].tolist() == [1.0, -1.0]
    assert flipped[:, 0, 1, 3].tolist() == [-1.0, -1.0]
    assert plain.count_nonzero() == flipped.count_nonzero() == 4
    beyond = to_device([sample(torch.zeros_like(frames))], torch.device("cpu"), torch.float32)
    assert beyond.min() == -1


def test_clips_of_different_sizes_make_a_batch() -> None:
    clips = [
        sample(torch.zeros((2, 6, 9, 3), dtype=torch.uint8)),
        sample(torch.zeros((2, 8, 5, 3), dtype=torch.uint8)),
    ]
    assert to_device(clips, torch.device("cpu"), torch.float32).shape == (2, 3, 2, 4, 4)


@pytest.mark.parametrize(
    "arguments", [{"stream": "both"}, {"frames": 0}, {"flow_from": "x"}, {"flow_bound": 3.0}]
)
def test_arguments_that_are_wrong(clips: TrainingClips, arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"stream|frames|flow"):
        TrainingClips(clips._index, **arguments)
