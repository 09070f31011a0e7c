"""Work that is killed at each of its operations on files in turn, and done again after each kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

_OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "shutil.rmtree"})


def killed_everywhere(program: str, home: Path, *arguments: object) -> tuple[list[Path], list[int]]:
    """Does work in new folders of ``home``: killed at the first operation on a file there, the second...

    Args:
        program: defines ``work(folder)``, which returns an exit code. Processes are forked when it has run:
            it imports all that the work needs, and starts no threads.
        home: where to make the folders.
        arguments: the program's, after its name.

    Returns:
        The folders, the last of which was left alone, and the exit code of the last run in each.
    """
    here = str(Path(__file__).parent)
    loop = f"import sys; sys.path.insert(0, {here!r}); import killing; killing.loop(work, {str(home)!r})"
    command = [sys.executable, "-c", f"{program}\n{loop}", *map(str, arguments)]
    home.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return sorted(home.iterdir()), [int(code) for code in done.stdout.split()]


def loop(work: Callable[[str], int], home: str) -> None:
    """Prints the exit codes."""
    for number in count(1):
        folder = os.path.join(home, f"{number:04}")
        os.mkdir(folder)
        code = _child(work, folder, number)
        if code >= 0:
            print(code, flush=True)
            return
        assert code == -signal.SIGKILL, code
        print(_child(work, folder, 0), flush=True)


def _child(work: Callable[[str], int], folder: str, kill_at: int) -> int:
    """The exit code of the work in a process that kills itself at the operation of that number, if not 0."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS and str(arguments[0]).startswith(folder):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    os._exit(work(folder))
