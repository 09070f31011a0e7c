"""Work that is killed at each of its changes of files in turn, and done again after each kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path

import torch

_OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "shutil.rmtree"})
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def killed_everywhere(
    program: str, home: Path, *arguments: object, kinds: Sequence[str] = ("all",)
) -> dict[str, tuple[list[Path], list[int]]]:
    """Does work in new folders of ``home``: killed before the first change of a file there, the second...

    Args:
        program: defines ``work(folder)``, which returns an exit code. Processes are forked when it has been
            done once, elsewhere, so that all is imported that the work needs; no threads may be left then.
        home: where to make a folder for each kind, with the folders of the work in it.
        arguments: the program's, after its name.
        kinds: of work, which is told by the name of the folder that its own is in.

    Returns:
        For each kind the folders, the last of which was left alone, and the exit codes of the last runs.
    """
    here = str(Path(__file__).parent)
    start = f"import sys; sys.path.insert(0, {here!r}); import killing"
    loops = "\n".join(f"killing.loop(work, {str(home / kind)!r})" for kind in kinds)
    command = [sys.executable, "-c", f"{program}\n{start}\n{loops}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    codes = [[int(code) for code in line.split()] for line in done.stdout.splitlines()]
    return {kind: (sorted((home / kind).iterdir()), found) for kind, found in zip(kinds, codes, strict=True)}


def loop(work: Callable[[str], int], home: str) -> None:
    """Prints the exit codes, in a line."""
    torch.set_num_threads(1)  # a fork would start others anew, for work of milliseconds
    with tempfile.TemporaryDirectory() as elsewhere, open(os.devnull, "w") as sink, redirect_stdout(sink):
        warm = os.path.join(elsewhere, os.path.basename(home), "warm")
        os.makedirs(warm)
        work(warm)
    codes: list[int] = []
    for number in count(1):
        folder = os.path.join(home, f"{number:04}")
        os.makedirs(folder)
        code = _child(work, folder, number)
        if code >= 0:
            print(*codes, code, flush=True)
            return
        assert code == -signal.SIGKILL, code
        codes.append(_child(work, folder, 0))


def _child(work: Callable[[str], int], folder: str, kill_at: int) -> int:
    """The exit code of the work in a process that kills itself before the change of that number, if not 0."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS and str(arguments[0]).startswith(folder) and _changes(event, *arguments):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    os._exit(work(folder))


def _changes(event: str, path: str, *more: object) -> bool:
    """Whether an operation changes what is on the disk; before any other, a kill leaves the same."""
    if event == "open":
        return bool(int(str(more[1])) & _CHANGING)
    return os.path.lexists(path) != (event == "os.mkdir")
