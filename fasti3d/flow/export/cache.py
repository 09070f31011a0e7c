"""The flow of a video as bytes, for training: see ``fasti3d.flow.cache``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from fasti3d.flow.cache import FlowCache, pack, read_records, record, write
from fasti3d.flow.export.flow_output import FileOutput
from fasti3d.video.errors import VideoError


class CacheOutput(FileOutput):
    """A file of deflated bytes; while it is written, its flow is on the disk twice."""

    def done(self, height: int, width: int) -> int:
        self._size = width, height
        self._raw.touch()
        with self._raw.open("rb") as file:
            lengths = [len(packed) for packed in read_records(file)]
        os.truncate(self._raw, sum(lengths) + 4 * len(lengths))
        return len(lengths)

    def add(self, index: int, flow: Tensor) -> None:
        with self._raw.open("ab") as file:
            file.write(record(pack(flow)))

    def _join(self, path: Path, times: list[float]) -> None:
        with path.open("wb") as whole, self._raw.open("rb") as raw:
            lengths = [len(packed) for packed in read_records(raw)]
            raw.seek(0)
            write(whole, *self._size, self._settings, lengths, read_records(raw))

    def _inside(self) -> Any:
        try:
            return FlowCache(self.target).settings
        except VideoError:
            return None

    def _parts(self) -> list[Path]:
        return [self._raw] if self._raw.exists() else []

    @property
    def _raw(self) -> Path:
        return self._folder / "flow.raw"
