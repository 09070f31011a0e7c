"""Test runs in processes of their own, beside the other tests, in what these leave of the processor."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
# Of pytest. A test may take long beside what else runs.
OPTIONS = ("-q", "-p", "no:cacheprovider", "-o", "timeout=1200")
_LEAST_PRIORITY = 19


class Job(NamedTuple):
    """What to run, and what it has in its environment besides this process's."""

    command: tuple[str | Path, ...]
    environment: dict[str, str]


class Outcome(NamedTuple):
    status: int
    output: str


def interpreted(file: str) -> Job:
    """The tests of a file beside this one, by a process that asks for the interpreter before it imports
    triton.
    """
    command = (sys.executable, "-m", "pytest", *OPTIONS, HERE / file)
    return Job(command, {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)})


class Runs:
    """Jobs by name, one after the other, from now on."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self._outcomes: dict[str, Future[Outcome]] = {name: Future() for name in jobs}
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(dict(jobs),), daemon=True)
        self._thread.start()

    def outcome(self, name: str) -> Outcome:
        """Waits for the end of a job."""
        return self._outcomes[name].result()

    def stop(self) -> None:
        """Ends what still runs."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _run(self, jobs: dict[str, Job]) -> None:
        for name, job in jobs.items():
            with self._lock:
                if self._stopped:
                    return
                self._process = subprocess.Popen(
                    job.command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=os.environ | job.environment,
                    cwd=HERE.parent.parent,
                )
                # An operator's threads spin while they wait for each other: a core short, the tests beside
                # this would take many times as long.
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _LEAST_PRIORITY)
            output, _ = self._process.communicate()
            self._outcomes[name].set_result(Outcome(self._process.returncode, output))


RUNS = pytest.StashKey[Runs]()
