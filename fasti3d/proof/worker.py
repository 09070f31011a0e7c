"""A process that proves subjects, one after the other.

An illegal memory access or an endless loop ends this process, and not the program that asked.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any

from fasti3d.proof.subject import Subject

# Timeout of a start with its imports, and of a proof with its compilation, in seconds.
_PATIENCE = 180.0
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from fasti3d.proof.worker import serve
serve()
"""


class WorkerError(RuntimeError):
    """The worker does not start, or has no GPU."""


class Worker:
    """One process on one device, which ends with this one.

    Raises:
        WorkerError: it does not start, or cannot use the device.
    """

    def __init__(self, device: str, patience: float = _PATIENCE, start: str = _START) -> None:
        self._patience = patience
        command = [sys.executable, "-c", start, json.dumps(sys.path), device]
        env = {**os.environ, "FASTI3D_SELF_CHECK": "0"}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
            )
        except (OSError, ValueError, TypeError) as error:
            raise WorkerError(str(error)) from error
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        atexit.register(self.close)
        try:
            ready = json.loads(self._line())
        except (TimeoutError, ValueError) as error:
            self.close()
            raise WorkerError(f"it does not start: {error}") from error
        if ready["fault"]:
            self.close()
            raise WorkerError(ready["fault"])

    def ask(self, subject: Subject) -> tuple[str, str]:
        """Prove a subject, and return the kind of verdict and the fault."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(subject).encode() + b"\n")
            self._process.stdin.flush()
            answer = json.loads(self._line())
        except TimeoutError:
            self.close()
            return "hung", f"no result after {self._patience:.0f} s"
        except (ValueError, OSError):
            self._process.wait()
            return "crashed", f"it ended its process (exit code {self._process.returncode})"
        return answer["kind"], answer["fault"]

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        atexit.unregister(self.close)
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")  # not valid JSON

    def _line(self) -> bytes:
        try:
            return self._lines.get(timeout=self._patience)
        except queue.Empty:
            raise TimeoutError("it does not answer") from None


def serve() -> None:
    """Run the process: read one subject per line on stdin, write one verdict per line on stdout."""
    # Output of other code must not be mistaken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    import torch

    from fasti3d.proving import prove

    try:
        device = torch.device(sys.argv[2])
        torch.empty(1, device=device)
    except Exception as error:
        say(fault=f"{type(error).__name__}: {error}")
        return
    say(fault="")
    for line in sys.stdin:
        kind, fault = prove(Subject(*json.loads(line)), device)
        say(kind=kind, fault=fault)
        if kind == "crashed":
            return  # no kernel runs in this process again
