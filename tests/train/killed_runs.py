"""Runs that are killed, or asked to end, at several places, and started again: a program of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from moving_clips import MovingClips, accuracy, eighth, job_of, trainer_of

from fasti3d.train.loop import Trainer
from fasti3d.train.settings import TrainingSettings
from fasti3d.train.stopping import stopping_on_signals
from fasti3d.train.updating import Updater

CLIPS = MovingClips(5, frames=9, size=40)
HELD_OUT = MovingClips(4, frames=9, size=40, first=100)
SETTINGS = TrainingSettings(
    steps=7, batch=2, lr=0.05, workers=0, save_every=2, evaluate_every=3, precise_bn=2, ema=0.5, freeze="none"
)


def work(folder: Path) -> int:
    """Train, or go on; 0 at the end, and 3 after a signal that asked to end."""
    validate = lambda model: accuracy(model, HELD_OUT)  # noqa: E731
    with stopping_on_signals() as stopping:
        trainer = trainer_of(job_of(SETTINGS, CLIPS, validate), folder)
        trainer.resume()
        return 0 if trainer.run(stopping) else 3


def _sending(number: int, call: int, function: Callable[..., Any], *, after: bool = False) -> Any:
    """The function, which sends this process a signal in its ``call``-th call."""
    calls = 0

    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        result = function(*arguments, **named) if after else None
        if calls == call:
            os.kill(os.getpid(), number)
        return result if after else function(*arguments, **named)

    return patched


KILL, TERM, USR1 = signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1
# Where a signal comes: what is replaced, and by what.
PLACES: dict[str, tuple[Any, str, Callable[[Any], Any]]] = {
    "in a step": (Updater, "_update", lambda f: _sending(KILL, 4, f)),
    # Of the weights and the checkpoint of step 3, some have their names and some do not.
    "while saving": (os, "replace", lambda f: _sending(KILL, 6, f)),
    "between epochs": (Trainer, "_step", lambda f: _sending(KILL, 5, f, after=True)),
    "before anything is saved": (Updater, "_update", lambda f: _sending(KILL, 2, f)),
    "SIGTERM in a step": (Updater, "_update", lambda f: _sending(TERM, 5, f)),
    "SIGUSR1 in an evaluation": (Trainer, "_precise", lambda f: _sending(USR1, 2, f, after=True)),
}


def child(task: Callable[[], int]) -> int:
    """The exit code of a task in a process of its own; negative is the signal that killed it."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 99
    try:
        code = task()
    finally:
        os._exit(code)


def interrupted(place: str, folder: Path) -> int:
    """Work with a signal at a place."""
    where, name, patched = PLACES[place]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, patched(getattr(where, name)))
        return work(folder)


def main(home: Path) -> None:
    """Prints a line per place: the exit codes of the run with the signal, and of the next."""
    torch.set_num_threads(1)
    with eighth():
        assert work(home / "undisturbed") == 0  # here, so that all is imported that its forks need
        for place in PLACES:
            first = child(lambda place=place: interrupted(place, home / place))
            print(first, child(lambda place=place: work(home / place)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
