"""The index: what is known of videos, recalled until they change, and how many may be bad."""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from dataset_making import KINETICS_CLASSES, make_folder, make_kinetics, make_ucf101, video_bytes, write

from fasti3d.train.data import DatasetError, Kinetics, VideoFolder, open_dataset
from fasti3d.train.data import index as index_module
from fasti3d.train.data.index import index, parse_max_bad
from fasti3d.video.survey import Survey, survey


@pytest.fixture
def surveyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of videos that were read, rather than recalled."""
    seen: list[str] = []

    def recorded(path: Path, **options: float) -> Survey:
        seen.append(Path(path).name)
        return survey(path, **options)

    monkeypatch.setattr("fasti3d.train.data.index.survey", recorded)
    return seen


def test_what_is_known_of_each_video(tmp_path: Path) -> None:
    dataset = open_dataset("ucf101", make_ucf101(tmp_path, frames=20))
    found = index(dataset)
    assert list(found.info) == [video.key for video in dataset.videos]
    info = found.info["Hammering/v_Hammering_g02_c01"]
    assert (info.frames, info.fps, info.width, info.height) == (20, 25.0, 64, 48)
    assert info.duration == pytest.approx(0.8)
    assert index(dataset, fps=12.5).info["Hammering/v_Hammering_g02_c01"].frames == 10
    assert found.usable() == dataset.videos


def test_videos_are_read_once_until_they_change(tmp_path: Path, surveyed: list[str]) -> None:
    root = make_folder(tmp_path, videos=3, frames=4)
    dataset = VideoFolder(root)
    first = index(dataset)
    assert len(surveyed) == 6
    assert index(dataset) == first
    assert len(surveyed) == 6
    write(root / "cat" / "v1.avi", video_bytes(5))
    state = (root / "cat" / "v2.avi").stat()
    os.utime(root / "cat" / "v2.avi", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    again = index(dataset)
    assert sorted(surveyed[6:]) == ["v1.avi", "v2.avi"]
    assert again.info["cat/v1"].frames == 5
    index(dataset, fps=10.0)
    assert len(surveyed) == 14  # at another rate there are other counts


def test_unreadable_videos_are_recalled_too(tmp_path: Path, surveyed: list[str]) -> None:
    root = make_folder(tmp_path, videos=3)
    write(root / "cat" / "v1.avi", b"\0" * 500)
    first = index(VideoFolder(root))
    assert "FFmpeg" in first.unreadable["cat/v1"]
    assert index(VideoFolder(root)).unreadable == first.unreadable
    assert len(surveyed) == 6


@pytest.mark.parametrize(
    "damage", [b"", b"{", b'{"version": 1, "videos": 3}', b"\xff" * 99, "entry", "version"]
)
def test_a_damaged_cache_is_as_none(
    tmp_path: Path, index_home: Path, surveyed: list[str], damage: bytes | str
) -> None:
    dataset = VideoFolder(make_folder(tmp_path, videos=1, frames=4))
    good = index(dataset)
    (file,) = (index_home / "index").glob("*.json")
    content = json.loads(file.read_text())
    if damage == "entry":
        for entry in content["videos"].values():
            entry[2]["frames"] = -4
    elif damage == "version":
        content["version"] = 0
    file.write_bytes(damage if isinstance(damage, bytes) else json.dumps(content).encode())
    assert index(dataset) == good
    assert len(surveyed) == 4


def test_without_a_place_for_the_cache_all_goes_on(
    tmp_path: Path, index_home: Path, surveyed: list[str]
) -> None:
    (index_home / "index").write_text("a file")
    dataset = VideoFolder(make_folder(tmp_path, videos=1, frames=4))
    assert len(index(dataset).info) == len(index(dataset).info) == 2
    assert len(surveyed) == 4


def test_what_was_done_stays_when_a_call_is_interrupted(tmp_path: Path, surveyed: list[str]) -> None:
    dataset = VideoFolder(make_folder(tmp_path, videos=4, frames=2))

    def interrupt(done: int, count: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(dataset, workers=1, progress=interrupt)
    before = len(surveyed)
    assert before >= 3
    index(dataset)
    assert len(surveyed) == 8


def test_workers_read_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = VideoFolder(make_folder(tmp_path, videos=2, frames=2))
    meeting = threading.Barrier(4, timeout=20)

    def meet(path: Path, **options: float) -> Survey:
        meeting.wait()  # raises unless four are here
        return survey(path, **options)

    monkeypatch.setattr("fasti3d.train.data.index.survey", meet)
    assert list(index(dataset, workers=4).info) == [video.key for video in dataset.videos]


def test_two_processes_add_to_one_cache(tmp_path: Path, surveyed: list[str]) -> None:
    root = make_folder(tmp_path, videos=2, frames=2)
    cats = VideoFolder(root)
    one = index_module.IndexCache(root, 25.0)
    index(cats)
    one.put("elsewhere.avi", (1, 2), "is broken")
    one.save()
    assert index_module.IndexCache(root, 25.0).get("elsewhere.avi", (1, 2)) == "is broken"
    index(cats)
    assert len(surveyed) == 4


def audio_only() -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def test_failed_cuts_sound_alone_and_truncated_files(tmp_path: Path) -> None:
    root = make_kinetics(tmp_path, clips=3, frames=16)
    paths = sorted(root.glob("train/*/*.mp4"))
    whole = paths[3].read_bytes()
    damages = [
        b"",
        audio_only(),
        whole[: len(whole) // 2],
        video_bytes(3, suffix=".mp4"),
        b"<html>gone</html>",
    ]
    for path, data in zip(paths, damages, strict=False):
        path.write_bytes(data)
    found = index(Kinetics(root))
    by_name = {video.path: video.key for video in found.dataset.videos}
    said = {path.name: found.unreadable.get(by_name[path]) for path in paths[:5]}
    assert "0 bytes" in (said[paths[0].name] or "")
    assert "no video stream, only audio" in (said[paths[1].name] or "")
    assert "FFmpeg" in (said[paths[2].name] or "")  # no moov atom
    assert said[paths[3].name] is None
    assert "FFmpeg" in (said[paths[4].name] or "")
    assert found.info[by_name[paths[3]]].frames == 3
    assert len(found.unreadable) == 4
    with pytest.raises(DatasetError, match=r"4 of 12 videos .* expected at most 1%;.*--max-bad"):
        found.usable()
    assert len(found.usable(0.34)) == 8
    assert found.dataset.classes == KINETICS_CLASSES


def test_a_file_that_is_cut_off_counts_as_far_as_it_goes(tmp_path: Path) -> None:
    root = make_folder(tmp_path, videos=1, frames=60)
    path = root / "cat" / "v0.avi"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    found = index(VideoFolder(root))
    assert "cut off" in found.broken["cat/v0"]
    assert 1 <= found.info["cat/v0"].frames < 60
    assert found.unreadable == {}


def test_a_video_that_is_gone_or_no_video_at_all(tmp_path: Path) -> None:
    dataset = VideoFolder(make_folder(tmp_path, videos=2, frames=2))
    dataset.videos[0].path.unlink()
    assert "No such file" in index(dataset).unreadable[dataset.videos[0].key]
    shutil.rmtree(tmp_path)
    with pytest.raises(DatasetError, match="4 of 4 videos"):
        index(dataset).usable(1.0)


@pytest.mark.parametrize(
    ("text", "share"), [("1%", 0.01), ("0.01", 0.01), ("0", 0), ("100%", 1), ("2.5 %", 0.025), ("1", 1)]
)
def test_shares(text: str, share: float) -> None:
    assert parse_max_bad(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "one", "-1%", "101%", "1.1", "nan", "1%%"])
def test_what_is_not_a_share(text: str) -> None:
    with pytest.raises(ValueError, match="a share such as 1%"):
        parse_max_bad(text)
