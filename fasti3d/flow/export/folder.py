"""A folder with one file, or two, per pair of frames."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fasti3d.flow.colour import flow_to_rgb
from fasti3d.flow.export.flow_output import ExportError, FlowOutput
from fasti3d.flow.files import write_denseflow, write_flo, write_kitti_png, write_png
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json

_SUFFIXES = ("flo", "png", "jpg")


class FolderOutput(FlowOutput):
    """A file per pair of frames: flow_000000.flo is the flow from frame 0 to 1; or .png, KITTI's or coloured.

    In denseflow's layout, flow_x_00001.jpg and flow_y_00001.jpg are the flow from frame 0 to frame 1.
    """

    def __init__(self, target: Path, settings: Json) -> None:
        super().__init__(target, target, settings)
        self._kind = settings["kind"]

    def _complete(self) -> bool:
        pairs = self._recorded("pairs")
        return self._recorded() == self._settings and pairs is not None and self._present() >= pairs

    def conflict(self) -> str | None:
        there = self._recorded()
        if there is None:
            return "holds files named flow_*, of unknown origin" if self._parts() else None
        return None if there == self._settings else self._otherwise(there)

    def done(self, height: int, width: int) -> int:
        return self._present()

    def add(self, index: int, flow: Tensor) -> None:
        paths = self._paths(index)
        path = paths[0]
        if self._kind == "denseflow":
            write_denseflow((path, paths[1]), flow, bound=self._settings["bound"])
        elif self._kind == "flo":
            write_flo(path, flow)
        elif self._kind == "colour":
            rgb = flow_to_rgb(flow, max_magnitude=self._settings["max_magnitude"])
            write_png(path, rgb.cpu().numpy())
        else:
            try:
                write_kitti_png(path, flow)
            except ValueError as error:
                raise ExportError(f"{quoted(path)}: {error}") from error

    def finish(self, times: list[float]) -> None:
        self._record(pairs=len(times) - 1)

    def _present(self) -> int:
        index = 0
        while all(path.exists() for path in self._paths(index)):
            index += 1
        return index

    def _paths(self, index: int) -> list[Path]:
        if self._kind == "denseflow":
            return [self.target / f"flow_{axis}_{index + 1:05}.jpg" for axis in "xy"]
        return [self.target / f"flow_{index:06}{'.flo' if self._kind == 'flo' else '.png'}"]

    def _parts(self) -> list[Path]:
        return [path for suffix in _SUFFIXES for path in sorted(self.target.glob(f"flow_*.{suffix}"))]
