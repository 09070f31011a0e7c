"""What every kind of output has: a folder of finished parts, and a record of their settings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from fasti3d.flow.export.settings import Settings, differences
from fasti3d.flow.files import replacing
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import parse_json

_RECORD = "flow.json"
_LOCK = ".lock"


class ExportError(Exception):
    """Flow that cannot be written as asked; the message names the file and the remedy."""


class Output(ABC):
    """Where the flow of one video goes.

    Args:
        target: the folder or file that is wanted.
        folder: where finished parts are kept, with the record of their settings.
        settings: what ``settings_of`` gave.
    """

    def __init__(self, target: Path, folder: Path, settings: Settings) -> None:
        self.target = target
        self._folder = folder
        self._settings = settings

    def complete(self) -> bool:
        """Whether all is there, made with these settings; then, nothing else of a run is left there."""
        if not self._complete():
            return False
        self._tidy()
        return True

    @abstractmethod
    def _complete(self) -> bool:
        """Whether all is there, made with these settings."""

    def _tidy(self) -> None:
        """Removes what only an unfinished run needs."""
        with contextlib.suppress(OSError):
            (self._folder / _LOCK).unlink()

    @abstractmethod
    def conflict(self) -> str | None:
        """In words, what is there that these settings did not make; None where a run may begin or go on."""

    @abstractmethod
    def done(self, height: int, width: int) -> int:
        """How many flows of this size are there, from the first on."""

    @abstractmethod
    def add(self, index: int, flow: Tensor) -> None:
        """Puts flow ``index``, (2, H, W), behind those that are there."""

    @abstractmethod
    def finish(self, times: list[float]) -> None:
        """Completes the target; ``times`` are those of all the frames, in seconds."""

    @abstractmethod
    def _parts(self) -> list[Path]:
        """The finished parts in the folder, in order."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Readies the folder for this run alone: parts that other settings made are removed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._folder / _LOCK, timeout=0), self._leaving_no_lock():
                for left in self._folder.glob(".*.tmp"):
                    left.unlink()  # by a run that was killed
                if self._recorded() != self._settings:
                    # In this order, so that the record is that of the parts whenever the run is killed.
                    for part in self._parts():
                        part.unlink()
                    self._record()
                yield
        except Timeout:
            raise ExportError(
                f"{quoted(self.target)}: another run is writing there: let it end first"
            ) from None
        self._tidy()

    @contextmanager
    def _leaving_no_lock(self) -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (self._folder / _LOCK).unlink()

    def _recorded(self, key: str = "settings") -> Any:
        """What the record in the folder says; None where there is none."""
        try:
            return parse_json((self._folder / _RECORD).read_bytes()).get(key)
        except (OSError, ValueError, AttributeError):
            return None

    def _record(self, **more: Any) -> None:
        with replacing(self._folder / _RECORD) as temporary:
            temporary.write_text(json.dumps({"settings": self._settings} | more, indent=2) + "\n")

    def _otherwise(self, there: Settings) -> str:
        return f"holds flow that was made otherwise ({differences(there, self._settings)})"


class FileOutput(Output):
    """A file that appears when it is complete; until then its parts are beside it, in <name>.partial."""

    def __init__(self, target: Path, settings: Settings) -> None:
        super().__init__(target, target.with_name(f"{target.name}.partial"), settings)

    def _complete(self) -> bool:
        return self.target.exists() and self._inside() == self._settings

    def _tidy(self) -> None:
        if self._recorded() == self._settings:
            shutil.rmtree(self._folder, ignore_errors=True)

    def conflict(self) -> str | None:
        unfinished = self._recorded()
        if unfinished == self._settings:
            return None
        if unfinished is not None:
            return f"is unfinished: {self._folder.name} {self._otherwise(unfinished)}"
        if self._parts():
            return f"is unfinished: {self._folder.name} holds parts of unknown origin"
        if not self.target.exists():
            return None
        inside = self._inside()
        return "is there, and not made by this program" if inside is None else self._otherwise(inside)

    def finish(self, times: list[float]) -> None:
        whole = self._folder / f"whole{self.target.suffix}"
        self._join(whole, times)
        os.replace(whole, self.target)

    @abstractmethod
    def _join(self, path: Path, times: list[float]) -> None:
        """Makes one file of the parts."""

    @abstractmethod
    def _inside(self) -> Settings | None:
        """The settings that the target says it was made with."""
