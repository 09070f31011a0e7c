"""Jobs on a local Ray cluster of two workers: the bytes of one machine, whoever is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from extraction_making import Shown, errors, plain, tree, write_video
from torch import Tensor

import fasti3d
from fasti3d.extraction import ConflictError, OutputError, Progress, on_ray

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
    """Six of 12 to 37 frames, and one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(6):
        write_video(folder / str(i % 2) / f"{i}.mkv", plain([6 * j + i for j in range(12 + 5 * i)]))
    (folder / "junk.mp4").write_bytes(b"junk")
    return folder


class Marking(Shown):
    """Leaves its process's number in a folder with each pass, and kills it where ``kill`` says.

    ``kill`` may be ``"never"``, ``"once"`` in the whole cluster, or ``"on white"``, each time that a clip is.
    """

    def __init__(self, marks: Path, kill: str) -> None:
        super().__init__()
        self.marks = marks
        self.kill = kill
        marks.mkdir()

    def extract_features(self, x: Tensor) -> Tensor:
        (self.marks / str(os.getpid())).touch()
        if self.kill == "once" and len(list(self.marks.glob("[0-9]*"))) == 2:
            try:
                (self.marks / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        result = super().extract_features(x)
        if self.kill == "on white" and result.min() > 0.99:
            with (self.marks / "white").open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        return result

    def pids(self) -> set[int]:
        return {int(path.name) for path in self.marks.glob("[0-9]*")}


def extract(source: Path, out: Path, **options: Any) -> fasti3d.Extraction:
    return fasti3d.extract(source, out, **({"model": Shown(), "stack": 10} | options))


@pytest.mark.usefixtures("cluster")
class Short(Shown):
    """Finds no memory for a clip that is not black."""

    def extract_features(self, x: Tensor) -> Tensor:
        if x.mean() > -0.9:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().extract_features(x)


@pytest.mark.usefixtures("cluster")
def test_a_lack_of_memory_in_a_worker_ends_the_job_and_blames_no_video(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        fasti3d.extract(videos / "0" / "0.mkv", tmp_path, model=Short(), stack=10, ray="local")
    assert os.listdir(tmp_path) == []


def test_two_workers_give_the_bytes_of_one_machine(
    videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(videos.parent)  # paths that are not absolute mean the same to workers
    given = Path(videos.name)
    seen: list[Progress] = []
    model = Marking(tmp_path / "marks", "never")
    done = extract(given, tmp_path / "ray", model=model, ray="auto", progress=seen.append)
    assert (done.videos, done.done, len(done.failed)) == (7, 6, 1)
    assert len(model.pids()) == 2
    assert os.getpid() not in model.pids()
    alone = extract(given, tmp_path / "alone")
    assert (alone.done, alone.rows, alone.failed) == (done.done, done.rows, done.failed)
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")
    assert capfd.readouterr() == ("", "")
    assert seen[-1] == Progress(7, 6, 1, done.rows, 1.0)

    # What is finished is not done again; what differs is refused; errors are tried again when asked.
    again = extract(given, tmp_path / "ray", ray="auto")
    assert (again.done, again.already_done, len(again.failed)) == (0, 6, 1)
    with pytest.raises(ConflictError, match=r"settings\.stack 10 there and 12 now"):
        extract(given, tmp_path / "ray", ray="auto", stack=12)
    (tmp_path / "ray" / "0" / "2.json").unlink()
    retried = extract(given, tmp_path / "ray", ray="auto", retry_errors=True, overwrite=True)
    assert (retried.done, retried.already_done, len(retried.failed)) == (1, 5, 1)
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_is_killed_costs_nothing(videos: Path, tmp_path: Path) -> None:
    model = Marking(tmp_path / "marks", "once")
    done = extract(videos, tmp_path / "ray", model=model, ray="auto")
    assert (tmp_path / "marks" / "killed").exists()
    assert len(model.pids()) == 3
    assert (done.done, len(done.failed)) == (6, 1)
    extract(videos, tmp_path / "alone")
    assert tree(tmp_path / "ray") == tree(tmp_path / "alone")


@pytest.mark.usefixtures("cluster")
def test_a_video_that_kills_its_worker_each_time_fails_and_the_others_go_on(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for i in range(3):
        write_video(work / f"{i}.mkv", plain([20 * i] * 12))
    write_video(work / "white.mkv", plain([255] * 12))
    out = tmp_path / "out"
    model = Marking(tmp_path / "marks", "on white")
    done = extract(work, out, model=model, ray="auto")
    assert (done.done, len(done.failed)) == (3, 1)
    assert errors(out) == {
        "white": "ended the process that worked on it 3 times, as for want of memory",
    }
    assert (tmp_path / "marks" / "white").read_text() == "xxx"
    assert extract(work, out, model=model, ray="auto").already_done == 3  # it is not tried unasked
    assert (tmp_path / "marks" / "white").read_text() == "xxx"
    assert extract(work, out, retry_errors=True).done == 1  # here nothing kills
    extract(work, tmp_path / "alone")
    assert tree(out) == tree(tmp_path / "alone")


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_raises_ends_the_job(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(Shown):
        def extract_features(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such device")

    with pytest.raises(RuntimeError, match="no such device"):
        extract(videos, tmp_path / "out", model=Failing(), ray="auto")
    # As on a machine where the folder is another.
    gone = nullcontext(SimpleNamespace(name=str(tmp_path / "gone")))
    monkeypatch.setattr(on_ray, "tempfile", SimpleNamespace(NamedTemporaryFile=lambda **_: gone))
    with pytest.raises(OutputError, match="a machine of the cluster, does not see it"):
        extract(videos, tmp_path / "out", ray="auto")
