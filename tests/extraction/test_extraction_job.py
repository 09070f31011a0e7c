"""Jobs of many videos: going on, failing, conflicts, several processes, kills at any moment."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from extraction_making import (
    Counted,
    Shown,
    errors,
    extract_elsewhere,
    plain,
    record,
    tree,
    write_video,
)
from killing import killed_everywhere
from torch import Tensor
from waiting import PATIENCE, until

import fasti3d
from fasti3d.extraction import ConflictError, OutputError, Progress
from fasti3d.utils import files

HERE = Path(__file__).parent
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module", autouse=True)
def _quick_forks() -> None:
    """The process that others are forked off has imported what they need."""
    FORKS.set_forkserver_preload(["extraction_making", "fasti3d.extraction.api"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, *sys.path))))
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``a``, ``b`` and ``sub/a``, of 12, 25 and 30 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for name, frames in (("a", 12), ("b", 25), ("sub/a", 30)):
        write_video(folder / f"{name}.mkv", plain([8 * i for i in range(frames)]))
    return folder


def extract(source: Path, out: Path, **options: Any) -> fasti3d.Extraction:
    return fasti3d.extract(source, out, **({"model": Shown(), "stack": 10} | options))


def copy(videos: Path, to: Path, *names: str) -> Path:
    for name in names or ("a.mkv", "b.mkv", "sub/a.mkv"):
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((videos / name).read_bytes())
        os.utime(path, ns=(0, 10**18))
    return to


def test_folders_are_mirrored_and_finished_work_is_left_alone(videos: Path, tmp_path: Path) -> None:
    model = Counted()
    first = extract(videos, tmp_path, model=model)
    assert (first.videos, first.done, first.already_done, first.failed, first.rows) == (
        3,
        3,
        0,
        (),
        2 + 3 + 3,
    )
    assert model.passes == 8
    files = ["a.json", "a_rgb.npy", "b.json", "b_rgb.npy", "sub/a.json", "sub/a_rgb.npy"]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == files
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    again = extract(videos, tmp_path, model=model)
    assert (again.done, again.already_done, again.rows) == (0, 3, 0)
    assert model.passes == 8
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    (tmp_path / "b_rgb.npy").write_bytes(b"cut off")
    (tmp_path / "sub" / "a_rgb.npy").unlink()
    assert extract(videos, tmp_path, model=model).done == 2
    assert model.passes == 14


def test_workers_and_company_do_not_change_a_bit(videos: Path, tmp_path: Path) -> None:
    extract(videos, tmp_path / "one", workers=1)
    extract(videos, tmp_path / "many", workers=5)
    for name in ("a.mkv", "b.mkv"):
        extract(videos / name, tmp_path / "alone")
    extract(videos / "sub", tmp_path / "alone" / "sub")
    assert tree(tmp_path / "one") == tree(tmp_path / "many") == tree(tmp_path / "alone")


def test_bad_files_are_reported_and_tried_again_when_asked(
    videos: Path, shared_data: Path, tmp_path: Path
) -> None:
    work = copy(videos, tmp_path / "work", "a.mkv", "b.mkv")
    (work / "junk.mp4").write_bytes(b"junk" * 100)
    (work / "corrupted.mp4").write_bytes((shared_data / "videos" / "corrupted.mp4").read_bytes())
    listed = tmp_path / "work" / "list.txt"
    listed.write_text("a.mkv\njunk.mp4\ncorrupted.mp4\nmissing.mp4\nb.mkv\n")
    out = tmp_path / "out"
    model = Counted()
    first = extract(listed, out, model=model)
    assert (first.done, len(first.failed)) == (2, 3)
    reasons = errors(out)
    assert list(reasons) == ["corrupted", "junk", "missing"]
    assert "breaks off" in reasons["corrupted"]
    assert "is not a video" in reasons["junk"]
    assert "cannot be opened" in reasons["missing"]
    assert {failure.video: failure.reason for failure in first.failed} == reasons
    assert not any(name.startswith(("corrupted", "junk", "missing")) for name in tree(out))
    report = (out / "errors.jsonl").read_bytes()
    passes = model.passes

    again = extract(listed, out, model=model)
    assert (again.done, again.already_done, len(again.failed)) == (0, 2, 3)
    assert model.passes == passes  # nothing was tried
    retried = extract(listed, out, model=model, retry_errors=True)
    assert (retried.done, len(retried.failed)) == (0, 3)
    assert model.passes > passes
    assert (out / "errors.jsonl").read_bytes() == report

    # Mended, or come: they are tried by themselves, and leave the report.
    (work / "junk.mp4").write_bytes((work / "a.mkv").read_bytes())
    (work / "missing.mp4").write_bytes((work / "b.mkv").read_bytes())
    mended = extract(listed, out, model=model)
    assert (mended.done, mended.already_done, len(mended.failed)) == (2, 2, 1)
    assert list(errors(out)) == ["corrupted"]
    partial = extract(work / "corrupted.mp4", tmp_path / "partial", partial=True)
    assert partial.failed == ()
    (warning,) = record(tmp_path / "partial" / "corrupted.json")["warnings"]
    assert "breaks off" in warning
    listed.write_text("a.mkv\nb.mkv\n")
    (work / "corrupted.mp4").write_bytes((work / "b.mkv").read_bytes())
    assert extract(work / "corrupted.mp4", out).done == 1
    assert not (out / "errors.jsonl").exists()


def test_a_name_too_long_for_its_outputs_is_cut_and_told_from_others(videos: Path, tmp_path: Path) -> None:
    source = copy(videos, tmp_path / "in", "a.mkv")
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") - len("._rgb.npy.tmp")
    names = ["a", "x" * longest, "x" * (longest + 1), "é" * ((longest + 8) // 2), "x" * (longest + 9)]
    for name in names[1:]:
        (source / f"{name}.mkv").write_bytes((source / "a.mkv").read_bytes())
    out = tmp_path / "out"
    for done, there in ((5, 0), (0, 5)):
        result = extract(source, out)
        assert (result.done, result.already_done, result.failed) == (done, there, ())
    made = {json.loads(path.read_bytes())["made"]["source"]["file"]: path.stem for path in out.glob("*.json")}
    assert sorted(made) == sorted(f"{name}.mkv" for name in names)
    assert all(made[f"{name}.mkv"] == name for name in names[:2])
    assert all(made[f"{name}.mkv"].startswith(name[:90]) for name in names)
    assert len(list(out.iterdir())) == 10


def test_a_file_in_the_way_of_a_folder_is_told(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").touch()
    with pytest.raises(OutputError, match=r"sub.* cannot be written"):
        extract(copy(videos, tmp_path / "in", "sub/a.mkv"), tmp_path)


def test_a_report_that_a_kill_cut_off_is_read_and_mended(videos: Path, tmp_path: Path) -> None:
    work = copy(videos, tmp_path / "work", "a.mkv")
    for name in ("x", "y"):
        (work / f"{name}.mp4").write_bytes(b"junk")
    whole = tmp_path / "whole"
    extract(work, whole)
    report = (whole / "errors.jsonl").read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "errors.jsonl").write_bytes(report[: report.index(b"\n") + 20])
    done = extract(work, cut)
    assert (done.done, len(done.failed)) == (1, 2)
    assert (cut / "errors.jsonl").read_bytes() == report


def test_other_settings_weights_and_videos_are_refused_until_asked_for(videos: Path, tmp_path: Path) -> None:
    work = copy(videos, tmp_path / "work", "a.mkv", "b.mkv")
    out = tmp_path / "out"
    extract(work, out)
    before = tree(out)
    other = Shown()
    other.weight.data += 1
    for options, said in (
        ({"stack": 9}, "settings.stack 10 there and 9 now, settings.step 10 there and 9 now"),
        ({"tail": "drop"}, "settings.tail pad there and drop now"),
        ({"model": other}, "weights.rgb"),
        ({"format": "npz"}, "settings.format npy there and npz now"),
    ):
        with pytest.raises(ConflictError, match=said):
            extract(work, out, **options)
    os.utime(work / "a.mkv", ns=(0, 10**18 + 1))
    with pytest.raises(ConflictError, match=r"a\.json is of other features \(source.modified_ns"):
        extract(work, out)
    assert tree(out) == before
    os.utime(work / "a.mkv", ns=(0, 10**18))

    assert extract(work, out, format="npz", overwrite=True).done == 2
    extract(work, tmp_path / "fresh", format="npz")
    assert tree(out) == tree(tmp_path / "fresh")  # also without what the first one made
    assert extract(work, out, format="npz", overwrite=True).done == 0


def test_files_of_others_are_not_overwritten(videos: Path, tmp_path: Path) -> None:
    for name in ("a_rgb.npy", "a.json"):
        out = tmp_path / name
        out.mkdir()
        (out / name).write_text("[]")
        with pytest.raises(ConflictError, match=name):
            extract(videos / "a.mkv", out)
        assert tree(out) == {name: b"[]"}
        assert extract(videos / "a.mkv", out, overwrite=True).done == 1


def test_what_a_kill_left_is_removed_whatever_its_settings_were(videos: Path, tmp_path: Path) -> None:
    for name in (".a.lock", ".a.npz.tmp", ".a_flow.npy.tmp", ".a.json.tmp", "a_rgb.npy", ".ab.npz.tmp"):
        (tmp_path / name).touch()
    assert extract(videos / "a.mkv", tmp_path).done == 1
    assert sorted(tree(tmp_path)) == [".ab.npz.tmp", "a.json", "a_rgb.npy"]
    (tmp_path / ".a.lock").touch()  # as a kill right behind the record leaves it
    assert extract(videos / "a.mkv", tmp_path).already_done == 1
    assert not (tmp_path / ".a.lock").exists()


def test_shards_share_the_work_and_give_the_same(videos: Path, tmp_path: Path) -> None:
    parts = [extract(videos, tmp_path / "shards", shard=(i, 2)) for i in (1, 2)]
    assert [part.videos for part in parts] == [part.done for part in parts] == [2, 1]
    extract(videos, tmp_path / "whole")
    assert tree(tmp_path / "shards") == tree(tmp_path / "whole")


def test_a_video_that_is_replaced_while_it_is_read_fails_and_is_done_next_time(
    videos: Path, tmp_path: Path
) -> None:
    work = copy(videos, tmp_path / "work", "a.mkv", "b.mkv")

    class Replacing(Shown):
        def extract_features(self, x: Tensor) -> Tensor:
            if x.mean() > -0.5:  # the second window of either
                (work / "new.mkv").write_bytes((work / "b.mkv").read_bytes())
                os.replace(work / "new.mkv", work / "a.mkv")
            return super().extract_features(x)

    out = tmp_path / "out"
    done = extract(work, out, model=Replacing(), workers=1)
    assert [failure.reason.split(":")[0] for failure in done.failed] == ["was changed while it was read"]
    assert not (out / "a.json").exists()
    assert extract(work, out).done == 1
    assert errors(out) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_ends_the_job_and_nothing_finished_is_lost(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    create = files.create

    def create_on_a_full_disk(path: Path) -> Any:
        return open("/dev/full", "wb") if path.name == ".b_rgb.npy.tmp" else create(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "create", create_on_a_full_disk)
        with pytest.raises(OutputError, match=r"b_rgb\.npy cannot be written: No space left on device"):
            extract(videos, out, workers=1)
    assert sorted(tree(out)) == ["a.json", "a_rgb.npy"]
    assert extract(videos, out).already_done == 1
    extract(videos, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")


def test_errors_of_the_disk_at_any_file_leave_nothing_half_done(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(videos, tmp_path / "fresh", format="npz")
    wanted = tree(tmp_path / "fresh")
    replace = os.replace
    for failing in range(6):
        calls = 0

        def failing_replace(source: Any, target: Any, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            replace(source, target)

        out = tmp_path / str(failing)
        monkeypatch.setattr(os, "replace", failing_replace)
        with pytest.raises(OutputError, match="What is finished stays"):
            extract(videos, out, format="npz", workers=1)
        monkeypatch.setattr(os, "replace", replace)
        assert not [name for name in tree(out) if name.endswith(".tmp")]
        assert extract(videos, out, format="npz").failed == ()
        assert tree(out) == wanted


def test_a_folder_that_cannot_be_written_to(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file cannot be written: "):
        extract(videos, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_error_of_the_network_ends_the_job_at_once(videos: Path, tmp_path: Path) -> None:
    class Failing(Shown):
        def extract_features(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        extract(videos, tmp_path, model=Failing())
    assert tree(tmp_path) == {}
    assert [t.name for t in threading.enumerate() if t.name.startswith("fasti3d")] == []


def test_progress_goes_from_nothing_to_all(videos: Path, tmp_path: Path) -> None:
    work = copy(videos, tmp_path / "work")
    (work / "junk.mp4").write_bytes(b"junk")
    seen: list[Progress] = []
    extract(work / "a.mkv", tmp_path / "out")
    extract(work, tmp_path / "out", progress=seen.append)
    assert seen[0] == Progress(4, 1, 0, 0, 0.0)
    assert seen[-1] == Progress(4, 3, 1, 6, 1.0)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert any(0 < share < 0.2 for share in shares)


WORK = """
import sys
sys.path.insert(0, {here!r})
from extraction_making import Shown
import fasti3d, fasti3d.extraction, fasti3d.video
model = Shown()

def work(folder):
    return len(fasti3d.extract(sys.argv[1], folder, model=model, stack=10, step=20, workers=1).failed)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_file_and_called_again_it_gives_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    work = copy(videos, tmp_path / "work", "sub/a.mkv")
    (work / "junk.mp4").write_bytes(b"junk")
    runs = tmp_path / "runs"
    (*killed, undisturbed), codes = killed_everywhere(WORK.format(here=str(HERE)), runs, work)["all"]
    assert len(killed) >= 15
    assert codes == [1] * (len(killed) + 1)  # junk
    wanted = tree(undisturbed)
    assert sorted(wanted) == ["errors.jsonl", "sub/a.json", "sub/a_rgb.npy"]
    for folder in killed:
        assert tree(folder) == wanted, folder.name


class Elsewhere:
    """An extraction in another process, forked off one that has torch."""

    def __init__(self, videos: Path, out: Path, seconds: float) -> None:
        self._told, told = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=extract_elsewhere, args=(videos, out, seconds, told))
        self.process.start()
        told.close()
        assert self.read() == "ready"

    def read(self) -> Any:
        assert self._told.poll(PATIENCE)
        return self._told.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def test_two_processes_share_a_folder_and_do_each_video_once(videos: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for i in range(12):
        copy(videos, work / str(i), "a.mkv")
    (work / "junk.mp4").write_bytes(b"junk")
    out = tmp_path / "out"
    both = [Elsewhere(work, out, 0.02) for _ in range(2)]
    passes, done, already_done, failed = map(sum, zip(*(one.read() for one in both), strict=True))
    assert (passes, done, already_done) == (24, 12, 12)
    assert failed == 2  # the one that both looked at
    extract(work, tmp_path / "alone")
    assert tree(out) == tree(tmp_path / "alone")


def test_a_process_that_waits_takes_over_from_a_process_that_is_killed(videos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = Elsewhere(videos / "b.mkv", out, 60)
    until(lambda: (out / ".b.lock").exists())
    second = Elsewhere(videos / "b.mkv", out, 0)
    time.sleep(0.3)
    assert second.process.is_alive()
    first.kill()
    assert second.read() == (3, 1, 0, 0)
    second.process.join()
    assert sorted(path.name for path in out.iterdir()) == ["b.json", "b_rgb.npy"]


def test_a_large_job_that_is_killed_on_the_way(tmp_path: Path) -> None:
    """With files that are not videos among them."""
    work = tmp_path / "work"
    source = write_video(tmp_path / "a.mkv", plain([20 * i for i in range(12)])).read_bytes()
    for i in range(80):
        path = work / f"{i % 7}" / f"{i}.mkv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk" if i % 20 == 0 else source)
    out = tmp_path / "out"
    killed = Elsewhere(work, out, 0)
    until(lambda: len(list(out.rglob("*.json"))) >= 20)
    killed.kill()
    finished = len(list(out.rglob("*.json")))
    assert 20 <= finished < 76
    model = Counted()
    done = extract(work, out, model=model)
    assert (done.videos, done.done, done.already_done, len(done.failed)) == (80, 76 - finished, finished, 4)
    assert model.passes == 2 * (76 - finished)
    assert len(errors(out)) == 4
    assert not list(out.rglob(".*"))
    assert all(record(path)["frames"] == 12 for path in out.rglob("*.json"))
