"""The folder of a run: what is in it, and whether a run of these settings may go on there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fasti3d.train.record import BEST, LAST
from fasti3d.train.settings import RefusedError, TrainingError
from fasti3d.utils.files import write_atomically
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json, brief, parse_json
from fasti3d.utils.plain_files import open_regular

_MAX_CONFIG = 1 << 20


class RunFolder:
    """The files of a run.

    Attributes:
        path: the folder.
        config: ``config.json``, the settings.
        state: ``last.pt``, from which the run goes on.
        log: ``log.csv``, a row per step and per evaluation.
        curve: ``curve.png``.
        best, last: weights, with labels.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.state = self.path / "last.pt"
        self.log = self.path / "log.csv"
        self.curve = self.path / "curve.png"
        self.best = self.path / BEST
        self.last = self.path / LAST

    def step_weights(self, step: int) -> Path:
        """Return the file of the weights after a step, of those that ``keep`` keeps."""
        return self.path / f"step-{step:07}.safetensors"

    def kept_weights(self) -> list[Path]:
        """Return those files, in the order of steps."""
        return sorted(self.path.glob("step-*.safetensors"))

    def check(self, settings: Json) -> None:
        """Check that a run of these settings may start or go on here; create nothing.

        Raises:
            RefusedError: it is a file, holds something else, cannot be written to, or is a run of other
                settings.
        """
        try:
            if not self.path.exists():
                self._check_parent()
                return
            if not self.path.is_dir():
                raise RefusedError(f"{quoted(self.path)} is a file: name a folder for the run")
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise RefusedError(f"{quoted(self.path)} cannot be written to: name another folder")
            config = self.read_config()
            if config is None:
                if any(self.path.iterdir()):
                    raise RefusedError(
                        f"{quoted(self.path)} holds files, but no config.json of a run: name a new folder"
                    )
                return
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise RefusedError(f"{quoted(self.path)} cannot be used: {why}") from error
        from fasti3d.utils.resumable_output import differences  # which loads a lock's package

        if changed := differences(config.get("settings", {}), settings):
            raise RefusedError(
                f"{quoted(self.path)} holds a run of other settings ({changed}): go on with those,"
                " or name a new folder"
            )

    def _check_parent(self) -> None:
        parent = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not parent.is_dir():
            raise RefusedError(f"{quoted(parent)} is a file: {quoted(self.path)} cannot be a folder in it")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise RefusedError(f"{quoted(parent)} cannot be written to: name a folder elsewhere")

    def read_config(self) -> Json | None:
        """Return what config.json says; None if there is none.

        Raises:
            RefusedError: it cannot be understood.
        """
        try:
            with open_regular(self.config) as file:
                config = parse_json(file.read(_MAX_CONFIG))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RefusedError(
                f"{quoted(self.config)} is not JSON ({brief(error)}): remove the folder, or name a new one"
            ) from error
        if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
            raise RefusedError(f"{quoted(self.config)} has no settings: name a new folder")
        return config

    def write_config(self, config: Json) -> None:
        """Create the folder and its config.json, unless they are there.

        Raises:
            OSError: they cannot be created.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            write_atomically(self.config, json.dumps(config, indent=2).encode() + b"\n")

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder's lock.

        Raises:
            TrainingError: another process holds it.
            OSError: the lock cannot be created.
        """
        from fasti3d.utils.resumable_output import locked, remove_lock

        lock = self.path / ".lock"
        with locked(lock, wait=False) as held:
            if not held:
                raise TrainingError(f"another process trains in {quoted(self.path)}: wait for it, or end it")
            try:
                yield
            finally:
                remove_lock(lock)
