"""The features of one pass over a whole video, however long."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from fasti3d.choices import MAP, POOLED
from fasti3d.dense import FrameCountError, Support, dense_stream, support
from fasti3d.dense.field import HEADS
from fasti3d.extraction.reading import Reading, ahead, unreadable
from fasti3d.extraction.rows import Row, Rows, Watch, finite, shown_until
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.extraction.streams import StreamFeatures
from fasti3d.flow.folder import check_flow_count
from fasti3d.flow.stored import StoredFlow
from fasti3d.i3d import I3D
from fasti3d.network import MIN_FRAMES
from fasti3d.video import VideoError, count_frames
from fasti3d.video.errors import collected_warnings
from fasti3d.video.windows import cut_windows

# Frames that go through a network at a time, those of all views together; and the minimum of each view: the
# fewer they are, the more steps are computed twice. The features' last bits depend on both.
_PIECE = 128
_MIN_PIECE = 32

_NAMES = {POOLED: "pooled", MAP: "Mixed_5c", "Logits": "logits"}


# What each stream sees of the next frames of a video: frames (t, H, W, 3), and as many flows (t, 2, H, W).
_Piece = dict[str, Tensor]


class DenseFeatures(StreamFeatures):
    """Features of one pass over a video. Can be pickled, and used by several threads at once.

    One step of the features is one row. Steps of an endpoint and of ``"map"`` are (C, H', W'), stand for 8
    frames each in ``"map"`` and tile the video; rows of ``"pooled"`` and ``"Logits"`` are of two neighbouring
    steps, 16 frames, 8 apart, and need a video of at least 9. Each depends on more frames around it
    (``fasti3d.dense.support``).

    Frames, crops and mirror images are those of ``WindowFeatures``; the views of a video go through the
    network side by side. N frames have N-1 flows: the flow of the last frame is still, so that both streams
    have N and a row is of the same frames in both. (In the preset readme still flow is zero, as is what SAME
    padding adds at the end.)

    The first step already depends on the number of frames. The packets of the file give it, but for damaged
    files; if it turns out to be wrong, the frames are counted by decoding, and the video begins again.

    Memory does not grow with the length of the video: some pieces of frames, of flow and of the network's
    feature maps, and a few hundred bytes per row.

    Args:
        settings: What to extract.
        models: The network of each stream, in eval mode, all on one device and in one dtype.
    """

    def __init__(self, settings: ExtractionSettings, models: dict[str, I3D]) -> None:
        super().__init__(settings, dict(models))
        self._i3ds = models
        self._features = _NAMES.get(settings.features, settings.features)

    def __call__(
        self, path: Path, watch: Watch, folder: StoredFlow | None = None
    ) -> Generator[Rows | None, None, int]:
        """Yield the rows of a video, as ``Producer`` says."""
        least = MIN_FRAMES if self._features in HEADS else 1
        total = self._count(path, decode=False)
        if total >= least:
            try:
                yield from self._rows(path, total, watch, folder)
                return total
            except FrameCountError:
                yield None
        total = self._count(path, decode=True)
        if total < least:
            raise VideoError(
                path,
                f"has {total} frames, fewer than the {least} that {self._settings.features} needs: take map",
            )
        try:
            yield from self._rows(path, total, watch, folder)
        except FrameCountError as error:
            raise VideoError(path, f"gives other frames each time it is read ({error})") from error
        return total

    def _count(self, path: Path, *, decode: bool) -> int:
        with collected_warnings([]):  # reading it gives the same warnings
            try:
                return count_frames(path, fps=self._settings.rate, decode=decode)
            except VideoError:
                raise
            except Exception as error:
                raise unreadable(path, error) from error

    def _rows(
        self, path: Path, total: int, watch: Watch, folder: StoredFlow | None
    ) -> Generator[Rows, None, None]:
        """All rows of a video of ``total`` frames; FrameCountError where it has others."""
        if folder is not None:
            check_flow_count(folder, path, self._settings.rate)
        steps = support(self._features, total)
        times = array("d")
        with closing(self._pieces(path, total, watch, times, folder)) as pieces:
            shared = _Shared(pieces, len(self._models))
            # Of the same length, they give the same steps for the same pieces.
            found = zip(
                *(
                    self._steps(name, model, shared.taken(i), total)
                    for i, (name, model) in enumerate(self._i3ds.items())
                ),
                strict=True,
            )
            while True:
                shared.wait()  # not while it has the device
                with watch.turn:
                    parts = next(found, None)
                if parts is None:
                    return
                first, count = parts[0][0], len(parts[0][1])
                yield Rows(
                    tuple(self._row(step, times, total) for step in steps[first : first + count]),
                    dict(zip(self._models, (values for _, values in parts), strict=True)),
                )

    def _steps(
        self, stream: str, model: I3D, pieces: Iterator[_Piece], total: int
    ) -> Iterator[tuple[int, Tensor]]:
        """The first of some steps, and their features: (steps, ...), or (steps, views, ...) of several."""
        made = (self._clip(stream, [(piece[stream], view) for view in self._views]) for piece in pieces)
        for first, part in dense_stream(model, made, total, features=self._features):
            values = finite(stream, part.movedim(2, 0))
            yield first, values[:, 0] if len(self._views) == 1 else values

    def _pieces(
        self, path: Path, total: int, watch: Watch, times: array[float], folder: StoredFlow | None
    ) -> Generator[_Piece, None, None]:
        """The frames piece by piece; their times are added to ``times``."""
        size = max(_MIN_PIECE, _PIECE // len(self._views))
        # A window begins with the last frame of the one before, to which that one's last flow leads.
        windows = cut_windows(Reading(path, self._settings), size + 1, size)
        with closing(ahead(windows, self._settings, self._device, watch, folder)) as found:
            for window, flow in found:
                times.extend(window.times[len(times) - window.start :])
                short = len(window.times) <= size and len(times) < total
                if len(times) > total or short:
                    raise FrameCountError(f"there are not {total} frames")
                last = len(times) == total
                piece = {"rgb": window.frames if last else window.frames[:size]}
                if flow is not None:
                    piece["flow"] = self._with_still(flow) if last else flow
                yield piece

    def _with_still(self, flow: Tensor) -> Tensor:
        return torch.cat((flow, self._still().expand(1, *flow.shape[1:])))

    def _row(self, step: Support, times: array[float], total: int) -> Row:
        ends = times[step.end] if step.end < total else shown_until(times, self._settings.rate)
        return Row(step.start, step.end, times[step.start], ends)


class _Shared:
    """The pieces for several takers, each of which gets all of them; kept until the last one has taken them.

    (``itertools.tee`` keeps some fifty that every taker has taken.)
    """

    def __init__(self, pieces: Iterator[_Piece], takers: int) -> None:
        self._pieces = pieces
        self._waiting: list[deque[_Piece]] = [deque() for _ in range(takers)]

    def wait(self) -> None:
        """Make the next piece, unless every taker has one waiting, so that none waits for it later."""
        if not all(self._waiting):
            for piece in islice(self._pieces, 1):
                for waiting in self._waiting:
                    waiting.append(piece)

    def taken(self, index: int) -> Iterator[_Piece]:
        """Yield the pieces for one taker."""
        waiting = self._waiting[index]
        while True:
            if not waiting:
                self.wait()
            if not waiting:
                return
            yield waiting.popleft()
