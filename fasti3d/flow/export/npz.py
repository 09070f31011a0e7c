"""NumPy arrays of a whole video's flow in one file, written without holding them in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fasti3d.flow.export.flow_output import FileOutput
from fasti3d.utils.archives import Archive, array_member
from fasti3d.utils.parsing import parse_json
from fasti3d.utils.plain_files import open_regular
from fasti3d.utils.resources import is_resource_error

_COPY_BYTES = 1 << 24
# The most that deflate can give: of a whole video only the settings are read.
_DEFLATE_RATIO = 1032


class NpzOutput(FileOutput):
    """Arrays flow, float32 (T-1, 2, H, W), times (T,) and fps; params and settings in JSON.

    ``np.load`` reads it. Flow i leads from the frame at times[i] to that at times[i + 1], in seconds; fps is
    NaN if all frames of the video were taken. Nothing is compressed. While the file is written, its flow is
    on the disk twice.
    """

    def done(self, height: int, width: int) -> int:
        self._shape = (2, height, width)
        size = 4 * math.prod(self._shape)
        self._raw.touch()
        pairs = self._raw.stat().st_size // size
        os.truncate(self._raw, pairs * size)
        return pairs

    def add(self, index: int, flow: Tensor) -> None:
        with self._raw.open("ab") as file:
            file.write(flow.cpu().numpy().astype("<f4").tobytes())

    def _join(self, path: Path, times: list[float]) -> None:
        fps = self._settings["fps"]
        with zipfile.ZipFile(path, "w") as archive:
            with array_member(archive, "flow") as file, self._raw.open("rb") as raw:
                shape = (len(times) - 1, *self._shape)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(raw, file, _COPY_BYTES)
            for name, value in {
                "times": times,
                "fps": math.nan if fps is None else fps,
                "params": json.dumps(self._settings["params"]),
                "settings": json.dumps(self._settings),
            }.items():
                with array_member(archive, name) as file:
                    np.lib.format.write_array(file, np.array(value))

    def _inside(self) -> Any:
        try:
            with open_regular(self.target) as file:
                return parse_json(str(Archive(file, ratio=_DEFLATE_RATIO).array("settings.npy")))
        except (OSError, ValueError) as error:
            if is_resource_error(error):
                raise
            return None

    def _parts(self) -> list[Path]:
        return [self._raw] if self._raw.exists() else []

    @property
    def _raw(self) -> Path:
        return self._folder / "flow.raw"
