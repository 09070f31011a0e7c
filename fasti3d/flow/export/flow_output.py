"""What every kind of flow output has: a folder of finished parts, and a record of their settings."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fasti3d.utils.files import StagedFiles
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json
from fasti3d.utils.resumable_output import ResumableOutput, differences, remove_lock

_RECORD = "flow.json"
_LOCK = ".lock"


class ExportError(Exception):
    """Flow that cannot be written as asked; the message names the file and the remedy."""


class FlowOutput(ResumableOutput, ABC):
    """Where the flow of one video goes.

    The record comes first: parts that lie beside a record of other settings are removed before a run begins.

    Args:
        target: The folder or file that is asked for.
        folder: Where finished parts are kept, with the record of their settings.
        settings: What ``settings_of`` returned.
    """

    def __init__(self, target: Path, folder: Path, settings: Json) -> None:
        super().__init__(folder / _RECORD, folder / _LOCK)
        self.target = target
        self._folder = folder
        self._settings = settings

    def complete(self) -> bool:
        """Return whether all flow is there, made with these settings; if so, remove what a run has left."""
        if not self._complete():
            return False
        self._tidy()
        return True

    @abstractmethod
    def _complete(self) -> bool:
        """Return whether all flow is there, made with these settings."""

    def _tidy(self) -> None:
        """Remove what only an unfinished run needs."""
        remove_lock(self._lock)

    @abstractmethod
    def conflict(self) -> str | None:
        """Describe what is there that these settings did not make; None if a run may begin or continue."""

    @abstractmethod
    def done(self, height: int, width: int) -> int:
        """Return how many flows of this size are there, from the first on."""

    @abstractmethod
    def add(self, index: int, flow: Tensor) -> None:
        """Append flow number ``index``, float32 (2, H, W) in pixels, x first."""

    @abstractmethod
    def finish(self, times: list[float]) -> None:
        """Complete the target; ``times`` are those of all frames, in seconds."""

    @abstractmethod
    def _parts(self) -> list[Path]:
        """Return the finished parts in the folder, in order."""

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Prepare the folder for this run alone: parts made with other settings are removed.

        Raises:
            ExportError: Another run is writing there.
            OSError: The folder cannot be written to.
        """
        with self.claimed() as held:
            if not held:
                raise ExportError(f"{quoted(self.target)}: another run is writing there: let it end first")
            self.remove_temporary()
            if self._recorded() != self._settings:
                # In this order, so that the record is that of the parts whenever the run is killed.
                self._remove(self._parts())
                self._record()
            yield
        self._tidy()

    def _temporary_files(self) -> Iterable[Path]:
        return list(self._folder.glob(".*.tmp"))

    def _recorded(self, key: str = "settings") -> Any:
        """Return an entry of the record; None if there is none."""
        return (self.read_record() or {}).get(key)

    def _record(self, **more: Any) -> None:
        with StagedFiles(durable=False) as files:
            self._write({"settings": self._settings} | more, 2, files)
            files.publish()

    def _otherwise(self, there: Any) -> str:
        if not isinstance(there, dict):
            return "holds flow of unknown origin"
        return f"holds flow that was made otherwise ({differences(there, self._settings)})"


class FileOutput(FlowOutput):
    """A file that appears when it is complete; until then its parts are beside it, in <name>.partial."""

    def __init__(self, target: Path, settings: Json) -> None:
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
        """Write one file of the parts."""

    @abstractmethod
    def _inside(self) -> Any:
        """Return the settings that the target says it was made with; None if it says none."""
