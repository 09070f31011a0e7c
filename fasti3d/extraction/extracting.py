"""One video, from its path to its files, whoever calls: a thread here or an actor elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fasti3d.extraction.dense import DenseFeatures
from fasti3d.extraction.formats import Contents
from fasti3d.extraction.identity import Json, digest, source_state, weights_digest
from fasti3d.extraction.output import Output, OutputError
from fasti3d.extraction.rows import Producer, Row, Watch
from fasti3d.extraction.settings import Settings
from fasti3d.extraction.sources import Source
from fasti3d.extraction.spool import Spool
from fasti3d.extraction.windows import WindowFeatures
from fasti3d.flow.folder import FlowFolder
from fasti3d.i3d import I3D
from fasti3d.version import __version__
from fasti3d.video import VideoError, probe
from fasti3d.video.decode import DEFAULT_FPS
from fasti3d.video.errors import collected_warnings

State = Literal["done", "there", "busy", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    Attributes:
        source: the video.
        state: ``done``; ``there``, finished before; ``busy``, another process has it; ``failed``.
        rows: of features that were made.
        seconds: that it took.
        reason: why it failed.
        digest: of what was to be done with which state of the video.
        warnings: what was odd about it.
    """

    source: Source
    state: State
    rows: int = 0
    seconds: float = 0.0
    reason: str = ""
    digest: str = ""
    warnings: tuple[str, ...] = ()


def recipe(settings: Settings, models: dict[str, I3D]) -> Json:
    """What is done, in JSON's types: with a video's state, all that decides over the bytes of its output."""
    weights = {name: weights_digest(model) for name, model in models.items()}
    return {"settings": settings.as_json(), "weights": weights}


class Extractor:
    """Makes the output of one video at a time; it can be pickled and knows of no other video.

    Args:
        producer: makes the features.
        settings: what the features are, and how they are written.
        recipe: that of ``recipe``.
        folder: where outputs go.
        overwrite: whether what other settings, weights or videos made there is replaced.
        flow_from: the folder of the folders of flow, called as the videos' outputs, where it is not computed.
    """

    def __init__(
        self,
        producer: Producer,
        settings: Settings,
        recipe: Json,
        folder: Path,
        *,
        overwrite: bool = False,
        flow_from: Path | None = None,
    ) -> None:
        self._producer = producer
        self._settings = settings
        self._recipe = recipe
        self._folder = folder
        self._overwrite = overwrite
        self._flow_from = flow_from

    def look(self, source: Source, *, held: bool = False) -> Outcome | None:
        """What is known about a video without work on it: ``there``, or ``failed``.

        It has failed if its file or its flow is missing, or its name is too long for those of its outputs.

        Args:
            source: the video.
            held: whether the caller has its lock file, which must be gone otherwise.

        Raises:
            ConflictError: its output is there, but made otherwise, and is not to be overwritten.
        """
        try:
            state = self._state(source)
        except VideoError as error:
            return self._failed(source, None, error)
        output = Output(self._folder, source.name, self._settings)
        if not output.nameable:
            reason = "has a name too long for those of its outputs, which add to it: shorten it"
            return self._failed(source, state, VideoError(source.path, reason))
        if output.finished(self._made(state), overwrite=self._overwrite) and (held or output.released):
            return Outcome(source, "there")
        return None

    def digest(self, source: Source) -> str:
        """Of what is to be done with the video as it is now."""
        try:
            return digest(self._recipe, self._state(source))
        except VideoError:
            return digest(self._recipe, None)

    def __call__(
        self,
        source: Source,
        watch: Watch | None = None,
        *,
        wait: bool = False,
        progress: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """The features of one video, in its files.

        Args:
            source: which.
            watch: what to heed meanwhile.
            wait: for another process that works on it, instead of leaving it to that.
            progress: called with the number of rows that came, and the second of the video they reach.

        Raises:
            ConflictError: as ``look``.
            OutputError: a folder that cannot be written to.
            StoppedError: as the watch says.
            MemoryError, torch.OutOfMemoryError, OSError: memory or descriptors ran out, which is not the
                video's fault.
        """
        watch = watch or Watch()
        if (known := self.look(source)) is not None:
            return known
        output = Output(self._folder, source.name, self._settings)
        with output.claimed(wait=wait, stop=watch.stop) as mine:
            if not mine:
                watch.check()
                return Outcome(source, "busy")
            return self._claimed(source, output, watch, progress)

    def _claimed(
        self, source: Source, output: Output, watch: Watch, progress: Callable[[int, float], None] | None
    ) -> Outcome:
        start = time.perf_counter()
        if (known := self.look(source, held=True)) is not None:  # it may have changed while nobody held it
            return known
        output.clean()
        texts: list[str] = []
        where: list[Row] = []
        state = None
        with ExitStack() as cleanup:
            spools = {
                name: cleanup.enter_context(closing(Spool(self._folder))) for name in self._settings.names
            }
            try:
                state = self._state(source)
                with collected_warnings(texts):
                    frames = self._produce(source, watch, spools, where, texts, progress)
                rate = self._settings.fps or probe(source.path).fps or DEFAULT_FPS
                if self._state(source) != state:
                    raise VideoError(source.path, "was changed while it was read: run the same command again")
            except (VideoError, FloatingPointError) as error:
                return self._failed(source, state, error)
            output.write(
                Contents(spools, where, self._metadata(frames, where, texts), rate), self._made(state)
            )
        return Outcome(source, "done", len(where), time.perf_counter() - start, warnings=tuple(texts))

    def _produce(
        self,
        source: Source,
        watch: Watch,
        spools: dict[str, Spool],
        where: list[Row],
        texts: list[str],
        progress: Callable[[int, float], None] | None,
    ) -> int:
        """Adds all rows to ``spools`` and ``where``, warnings being in ``texts``; the number of frames."""
        with closing(self._producer(source.path, watch, self._flow(source))) as pieces:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    return end.value
                if piece is None:
                    if progress is not None:
                        progress(-len(where), 0.0)
                    for spool in spools.values():
                        spool.clear()
                    where.clear()
                    texts.clear()
                    continue
                try:
                    for name, values in piece.features.items():
                        spools[name].add(values)
                except OSError as error:
                    raise OutputError(self._folder, error) from error
                where += piece.where
                if progress is not None:
                    progress(len(piece.where), piece.where[-1].end_seconds)

    def _flow(self, source: Source) -> FlowFolder | None:
        """The video's flow, where it is not computed.

        Raises:
            VideoError: it is not there, or not all of it.
        """
        if self._flow_from is None or self._settings.flow_bound is None:
            return None
        return FlowFolder(self._flow_from / source.name, self._settings.flow_bound)

    def _state(self, source: Source) -> Json:
        """The state of the video and, where that is read, of its flow.

        Raises:
            VideoError: it is not there.
        """
        flow = self._flow(source)
        return source_state(source.path) | ({} if flow is None else {"flow": flow.state()})

    def _made(self, state: Json) -> Json:
        return self._recipe | {"source": state}

    def _metadata(self, frames: int, where: list[Row], texts: list[str]) -> Json:
        metadata: Json = {"fasti3d": __version__, "frames": frames}
        if self._settings.mode == "windows":
            after = frames - where[-1].end_frame
            metadata["tail"] = {"policy": self._settings.tail, "frames_after_last_row": after}
        elif self._settings.flowing:
            metadata["flow_of_last_frame"] = "still"
        return metadata | {"warnings": texts}

    def _failed(self, source: Source, state: Json | None, error: Exception) -> Outcome:
        # The video is named beside the reason; a picture of it, or of its flow, in the reason.
        of_video = isinstance(error, VideoError) and error.path == source.path
        reason = error.reason if isinstance(error, VideoError) and of_video else str(error)
        return Outcome(source, "failed", reason=reason, digest=digest(self._recipe, state))


def extractor(
    settings: Settings,
    models: dict[str, I3D],
    folder: Path,
    *,
    overwrite: bool = False,
    flow_from: Path | None = None,
) -> Extractor:
    """What makes the outputs that these settings ask for."""
    producer = (DenseFeatures if settings.mode == "dense" else WindowFeatures)(settings, models)
    made_of = recipe(settings, models)
    return Extractor(producer, settings, made_of, folder, overwrite=overwrite, flow_from=flow_from)
