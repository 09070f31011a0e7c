"""Jobs on a local Ray cluster of two workers: the bytes of one machine, whoever is killed."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from extraction_making import Shown, errors, plain, tree, write_video
from torch import Tensor

import fasti3d
from fasti3d.extraction import ConflictError, ExtractionSettings, OutputError, Progress, find_sources, on_ray

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'fasti3d[ray]'")
    pytest.importorskip("ray.data", reason="needs Ray Data: pip install 'fasti3d[ray]'")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that a worker takes one CPU
    path = os.pathsep.join([str(HERE), *sys.path])  # the workers, too, need this file's classes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")  # as ``on_ray.cluster`` has it
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six of 12 to 37 frames, one that is white, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        write_video(folder / str(i % 2) / f"{i}.mkv", plain([6 * j + i for j in range(12 + 5 * i)]))
    write_video(folder / "white.mkv", plain([255] * 12))
    (folder / "junk.mp4").write_bytes(b"junk")
    return folder


class Marking(Shown):
    """Leaves its process's number in a folder with each pass, and kills it once, and each time at white."""

    def __init__(self, marks: Path) -> None:
        super().__init__()
        self.marks = marks
        marks.mkdir()

    def extract_features(self, x: Tensor) -> Tensor:
        (self.marks / str(os.getpid())).touch()
        result = super().extract_features(x)
        if result.min() > 0.99:
            with (self.marks / "white").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        if len(self.pids()) == 2 and not (self.marks / "killed").exists():
            (self.marks / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return result

    def pids(self) -> set[int]:
        return {int(path.name) for path in self.marks.glob("[0-9]*")}


class Short(Shown):
    """Finds no memory for a clip that is not black."""

    def extract_features(self, x: Tensor) -> Tensor:
        if x.mean() > -0.9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().extract_features(x)


def extract(source: Path, out: Path, **options: Any) -> fasti3d.Extraction:
    return fasti3d.extract(source, out, **({"model": Shown(), "stack": 10} | options))


@pytest.mark.usefixtures("cluster")
def test_two_workers_give_the_bytes_of_one_machine_though_they_are_killed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(videos.parent)  # paths that are not absolute mean the same to workers
    given, out = Path(videos.name), tmp_path / "ray"
    assert extract(given / "0" / "0.mkv", out / "0").done == 1  # what is finished is not done again,
    assert extract(given / "0" / "2.mkv", out / "0", stack=12).done == 1  # and what differs is replaced
    finished = (out / "0" / "0_rgb.npy").stat().st_mtime_ns
    with pytest.raises(ConflictError, match=r"settings\.stack 12 there and 10 now"):
        extract(given, out, ray="auto")
    seen: list[Progress] = []
    model = Marking(tmp_path / "marks")
    done = extract(given, out, model=model, ray="auto", overwrite=True, progress=seen.append)
    assert (done.videos, done.done, done.already_done, len(done.failed)) == (8, 5, 1, 2)
    assert (tmp_path / "marks" / "killed").exists()
    assert len(model.pids()) >= 3
    assert os.getpid() not in model.pids()
    assert seen[-1] == Progress(8, 6, 2, done.rows, 1.0)
    assert (tmp_path / "marks" / "white").read_text() == "xxx"
    reasons = errors(out)
    assert list(reasons) == ["junk", "white"]
    assert reasons["white"] == "ended the process that worked on it 3 times, as for want of memory"

    # Unasked, what failed is not tried again; here nothing kills.
    again = extract(given, out, model=model, ray="auto")
    assert (again.done, again.already_done, len(again.failed)) == (0, 6, 2)
    assert (out / "0" / "0_rgb.npy").stat().st_mtime_ns == finished
    assert (tmp_path / "marks" / "white").read_text() == "xxx"
    assert extract(given, out, retry_errors=True).done == 1
    alone = extract(given, tmp_path / "alone")
    assert (alone.done, alone.failed) == (7, done.failed[:1])
    assert tree(out) == tree(tmp_path / "alone")


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_raises_ends_the_job_and_blames_no_video(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        extract(videos / "0" / "0.mkv", tmp_path, model=Short(), ray="local")
    assert os.listdir(tmp_path) == []


class UntoldError(Exception):
    """Cannot be made anew from its arguments."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def worker(folder: Path, mark: Path, model: Shown, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A worker in this process."""
    attempts = SimpleNamespace(begin=SimpleNamespace(remote=lambda name: 1))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda given: given))
    order = on_ray.Order(ExtractionSettings(stack=10, device="cpu"), {"rgb": model}, folder)
    return on_ray._Worker(order, str(mark), torch.get_num_threads(), attempts, False)


def test_a_worker_says_what_went_wrong_in_what_can_be_sent(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Shown):
        def extract_features(self, x: Tensor) -> Tensor:
            raise UntoldError("no such ", "device")

    def answer(mark: Path) -> Any:
        found = worker(tmp_path, mark, Failing(), monkeypatch)({"video": pickle.dumps((7, source))})
        number, result = pickle.loads(found["result"])
        assert number == 7
        return result

    (source,) = find_sources([videos / "0" / "0.mkv"])
    result = answer(tmp_path)
    assert type(result) is RuntimeError
    assert str(result) == "UntoldError: no such device"
    # As on a machine where the folder is another.
    result = answer(tmp_path / "gone")
    assert isinstance(result, OutputError)
    assert "a machine of the cluster, does not see it: it has to be shared" in str(result)
    assert not any(tmp_path.iterdir())
