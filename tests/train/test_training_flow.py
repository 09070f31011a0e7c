"""Clips of flow: from files, from pictures and from the solver, all the same motion of the same frames."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_making import make_folder, video_bytes, write
from torch import Tensor

from fasti3d.flow import TVL1Params, tvl1_video
from fasti3d.flow.cache import FlowCache
from fasti3d.flow.encoding import encode_centered, to_grey
from fasti3d.flow.export import CacheOutput, FolderOutput, Options, export, settings_of
from fasti3d.train.data import DatasetError, Index, TrainingClips, VideoFolder
from fasti3d.train.data.index import index
from fasti3d.video import VideoError, read_frames

FRAMES = 8
QUICK = TVL1Params(nscales=1, warps=1, outer_iterations=1, inner_iterations=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two videos, with the flow of each in both forms, quick to compute and not good."""
    home = tmp_path_factory.mktemp("flow")
    root = make_folder(home / "videos", classes=("cat",), videos=2, frames=FRAMES)
    options = Options(QUICK, 25.0, 256, torch.device("cpu"), 20.0)
    for path in sorted(root.glob("*/*.avi")):
        (home / "cached").mkdir(exist_ok=True)
        cached = home / "cached" / f"{path.stem}.flow"
        export(path, CacheOutput(cached, settings_of(path, "cache", options)), options)
        pictures = home / "pictures" / "cat" / path.stem
        export(path, FolderOutput(pictures, settings_of(path, "denseflow", options)), options)
    return home


@pytest.fixture
def found(made: Path) -> Index:
    return index(VideoFolder(made / "videos"))


@pytest.fixture(scope="module")
def motion(made: Path) -> Tensor:
    """The whole first video's flow in pixels (T-1, 2, H, W)."""
    path = made / "videos" / "cat" / "v0.avi"
    frames = torch.stack([frame.image for frame in read_frames(path, crop=None)])
    return tvl1_video(to_grey(frames), params=QUICK)


def clip(found: Index, epoch: int = 0, **options) -> Tensor:
    return TrainingClips(found, stream="flow", frames=4, **options)[epoch, 0].frames


def test_flow_is_that_of_whole_frames_and_starts_leave_a_frame_more(
    made: Path, found: Index, motion: Tensor
) -> None:
    stored = encode_centered(motion).permute(0, 2, 3, 1)
    assert stored.float().std() > 0.1
    starts = set()
    for epoch in range(30):
        flows = clip(found, epoch, flow_from=made / "cached")
        (start,) = (s for s in range(4) if torch.equal(flows, stored[s : s + 4]))
        starts.add(start)
    assert starts == {0, 1, 2, 3}


def test_all_sources_give_the_same_clip(made: Path, found: Index) -> None:
    solved = clip(found, tvl1_params=QUICK)
    assert torch.equal(clip(found, flow_from=made / "cached"), solved)
    pictures = clip(found, flow_from=made / "pictures")
    # JPEG of quality 95 is off by some of 255 levels.
    assert (pictures.int() - solved.int()).abs().max() <= 8
    assert (pictures.float() - solved.float()).abs().mean() < 1
    crops = [
        TrainingClips(found, stream="flow", frames=4, flow_from=place)[3, 1].crop
        for place in (made / "cached", made / "pictures")
    ]
    assert crops[0] == crops[1]


def test_rgb_and_flow_of_short_videos(tmp_path: Path) -> None:
    root = make_folder(tmp_path, classes=("cat",), videos=1, frames=3)
    write(root / "cat" / "still.avi", video_bytes(1))
    clips = TrainingClips(index(VideoFolder(root)), stream="flow", frames=5, tvl1_params=QUICK)
    still, moving = clips[0, 0].frames, clips[0, 1].frames
    assert still.unique().tolist() == [128]
    assert still.shape == moving.shape == (5, 256, 341, 2)
    assert torch.equal(moving[0], moving[2])
    assert torch.equal(moving[1], moving[3])
    assert moving.unique().tolist() != [128]


def test_where_flow_is_looked_for(made: Path, found: Index, tmp_path: Path) -> None:
    for place in (tmp_path / "flat", tmp_path / "by class" / "cat"):
        shutil.copytree(made / "cached", place)
    wanted = clip(found, flow_from=made / "cached")
    assert torch.equal(clip(found, flow_from=tmp_path / "flat"), wanted)
    assert torch.equal(clip(found, flow_from=tmp_path / "by class"), wanted)
    with pytest.raises(DatasetError, match=r"2 of 2 videos have no flow .* --cache"):
        clip(found, flow_from=tmp_path)
    os.unlink(tmp_path / "flat" / "v1.flow")
    with pytest.raises(DatasetError, match=r"1 of 2 videos have no flow .* cat/v1"):
        clip(found, flow_from=tmp_path / "flat")
    assert len(TrainingClips(found, stream="flow", flow_from=tmp_path / "flat", max_bad=0.5)) == 1


def test_flow_that_is_of_other_frames(made: Path, tmp_path: Path) -> None:
    path = made / "videos" / "cat" / "v0.avi"
    for name, fps, resize in (("rate", 12.5, 256), ("size", 25.0, 128)):
        options = Options(QUICK, fps, resize, torch.device("cpu"), 20.0)
        (tmp_path / name).mkdir()
        target = tmp_path / name / "v0.flow"
        export(path, CacheOutput(target, settings_of(path, "cache", options)), options)
        shutil.copy(made / "cached" / "v1.flow", tmp_path / name / "v1.flow")
    found = index(VideoFolder(made / "videos"))
    with pytest.raises(VideoError, match=r"made with fps 12\.5, not 25"):
        clip(found, flow_from=tmp_path / "rate")
    with pytest.raises(VideoError, match="made with resize 128, not 256"):
        clip(found, flow_from=tmp_path / "size")
    pictures = tmp_path / "pictures"
    shutil.copytree(made / "pictures" / "cat", pictures)
    for axis in "xy":
        for number in (5, 6, 7):
            (pictures / "v0" / f"flow_{axis}_{number:05}.jpg").unlink()
    with pytest.raises(VideoError, match="4 flows, which are those of 4 or 5 frames"):
        clip(found, flow_from=pictures)


def test_workers_may_read_flow(made: Path, found: Index) -> None:
    clips = TrainingClips(found, stream="flow", frames=4, flow_from=made / "cached")
    loader = torch.utils.data.DataLoader(
        clips, batch_size=None, sampler=[(0, 1), (1, 0)], num_workers=1, multiprocessing_context="fork"
    )
    for there, item in zip(loader, [(0, 1), (1, 0)], strict=True):
        assert torch.equal(there.frames, clips[item].frames)


def test_bytes_keep_no_motion_and_a_hundredth_of_the_range() -> None:
    flow = torch.linspace(-25, 25, 1001).view(1, 1, 1001).expand(2, 1, 1001)
    stored = encode_centered(flow)
    assert stored[0, 0, 500] == 128
    assert (stored.min(), stored.max()) == (1, 255)
    back = (stored.float() - 128) * (20 / 127)
    assert (back - flow.clamp(-20, 20)).abs().max() <= 10 / 127 + 1e-6
    assert isinstance(encode_centered(np.zeros((2, 1, 1), np.float32)), np.ndarray)


def test_a_cache_file_is_read_in_part(made: Path, motion: Tensor) -> None:
    cache = FlowCache(made / "cached" / "v0.flow")
    assert (len(cache), cache.width, cache.height) == (7, 341, 256)
    np.testing.assert_allclose(cache.read(2, 3), motion[2:5].clamp(-20, 20), atol=10 / 127 + 1e-5)
    with pytest.raises(VideoError, match="holds 7 flows, fewer than the 8"):
        cache.read(5, 3)


@pytest.mark.parametrize("kept", [0, 5, 11, 60, -1])
def test_a_cache_file_that_is_cut_off(made: Path, tmp_path: Path, kept: int) -> None:
    data = (made / "cached" / "v0.flow").read_bytes()
    with pytest.raises(VideoError, match=r"v0\.flow"):
        FlowCache(write(tmp_path / "v0.flow", data[:kept]))


def test_an_export_that_was_killed_is_continued(made: Path, tmp_path: Path) -> None:
    path = made / "videos" / "cat" / "v0.avi"
    options = Options(QUICK, 25.0, 256, torch.device("cpu"), 20.0)
    target = tmp_path / "v0.flow"
    settings = settings_of(path, "cache", options)

    class StopError(Exception):
        pass

    def stop(done: float) -> None:
        if done == 4:
            raise StopError

    with pytest.raises(StopError):
        export(path, CacheOutput(target, settings), options, progress=stop)
    raw = tmp_path / "v0.flow.partial" / "flow.raw"
    raw.write_bytes(raw.read_bytes()[:-3])  # as if killed while it wrote
    assert not target.exists()
    assert export(path, CacheOutput(target, settings), options).solved == 4
    assert target.read_bytes() == (made / "cached" / "v0.flow").read_bytes()
    assert CacheOutput(target, settings).complete()
    other = settings_of(path, "cache", Options(QUICK, 10.0, 256, torch.device("cpu"), 20.0))
    assert "fps" in (CacheOutput(target, other).conflict() or "")
