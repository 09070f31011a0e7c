"""One video, from its path to its files, called by a thread here or an actor on another machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from fasti3d.extraction.clips import views
from fasti3d.extraction.dense_features import DenseFeatures
from fasti3d.extraction.feature_files import FeatureFiles, OutputError
from fasti3d.extraction.formats import Contents
from fasti3d.extraction.identity import digest, weights_digest
from fasti3d.extraction.rows import Producer, Row, Watch
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.extraction.sources import Source
from fasti3d.extraction.spool import Spool
from fasti3d.extraction.window_features import WindowFeatures
from fasti3d.flow.folder import FlowFolder
from fasti3d.i3d import I3D
from fasti3d.models import VideoNetwork, place, preprocessing_of
from fasti3d.preprocessing import Preprocessing, record
from fasti3d.utils.parsing import Json
from fasti3d.version import __version__
from fasti3d.video import VideoError, probe
from fasti3d.video.decode import DEFAULT_FPS
from fasti3d.video.errors import collected_warnings
from fasti3d.video.state import video_state

State = Literal["done", "already_done", "busy", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one video.

    Attributes:
        source: The video.
        state: ``done``; ``already_done``, finished before; ``busy``, in work in another process; ``failed``.
        rows: Rows of features that were made.
        seconds: The time that it took.
        reason: Why it failed.
        digest: A digest of what was to be done with which state of the video.
        warnings: What was odd about it.
    """

    source: Source
    state: State
    rows: int = 0
    seconds: float = 0.0
    reason: str = ""
    digest: str = ""
    warnings: tuple[str, ...] = ()


def recipe(settings: ExtractionSettings, models: dict[str, VideoNetwork]) -> Json:
    """Return, in JSON's types, what the bytes of an output depend on beside the video's state."""
    weights = {name: weights_digest(model) for name, model in models.items()}
    return {"settings": settings.as_json(), "weights": weights}


class Extractor:
    """Makes the output of one video at a time; it can be pickled and knows of no other video.

    Args:
        producer: Makes the features.
        settings: What the features are, and how they are written.
        recipe: What ``recipe`` returned for them.
        folder: The output folder.
        preprocessing: What the record says of how clips were prepared, in JSON's types.
    """

    def __init__(
        self,
        producer: Producer,
        settings: ExtractionSettings,
        recipe: Json,
        folder: Path,
        preprocessing: Json,
    ) -> None:
        self._producer = producer
        self._settings = settings
        self._recipe = recipe
        self._folder = folder
        self.preprocessing = preprocessing

    def look(self, source: Source, *, held: bool = False) -> Outcome | None:
        """Return what is known about a video without work on it: ``already_done``, or ``failed``.

        It has failed if its file or its flow is missing, or its name is too long for those of its outputs.

        Args:
            source: The video.
            held: Whether the caller holds its lock file, which must be gone otherwise.

        Raises:
            ConflictError: Its output is there, but made otherwise, and is not to be overwritten.
        """
        try:
            state = self._state(source)
        except VideoError as error:
            return self._failed(source, None, error)
        output = FeatureFiles(self._folder, source.name, self._settings)
        if not output.nameable:
            reason = "has a name too long for those of its outputs, which add to it: shorten it"
            return self._failed(source, state, VideoError(source.path, reason))
        finished = output.finished(self._made(state), overwrite=self._settings.overwrite)
        if finished and (held or output.released):
            return Outcome(source, "already_done")
        return None

    def digest(self, source: Source) -> str:
        """Return a digest of what is to be done with the video as it is now."""
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
        """Write the features of one video to its files.

        Args:
            source: The video.
            watch: What to observe meanwhile.
            wait: Whether to wait for another process that works on it, instead of leaving it to that.
            progress: Called with the number of rows that came, and the second of the video they reach.

        Raises:
            ConflictError: As ``look``.
            OutputError: The output folder cannot be written to.
            StoppedError: The watch says to stop.
            MemoryError, torch.OutOfMemoryError, OSError: Memory or descriptors ran out, which is not the
                video's fault.
        """
        watch = watch or Watch()
        if (known := self.look(source)) is not None:
            return known
        output = FeatureFiles(self._folder, source.name, self._settings)
        with output.claimed(wait=wait, stop=watch.stop) as mine:
            if not mine:
                watch.check()
                return Outcome(source, "busy")
            return self._claimed(source, output, watch, progress)

    def _claimed(
        self,
        source: Source,
        output: FeatureFiles,
        watch: Watch,
        progress: Callable[[int, float], None] | None,
    ) -> Outcome:
        start = time.perf_counter()
        if (known := self.look(source, held=True)) is not None:  # it may have changed since
            return known
        output.remove_temporary()
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
                rate = self._settings.rate or probe(source.path).fps or DEFAULT_FPS
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
        """Add all rows to ``spools`` and ``where``, with warnings in ``texts``; return the frame count."""
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
        """The video's flow; None if it is computed.

        Raises:
            VideoError: It is not there, or not all of it.
        """
        if self._settings.flow_from is None:
            return None
        return FlowFolder(Path(self._settings.flow_from) / source.name, self._settings.flow_bound)

    def _state(self, source: Source) -> Json:
        """The state of the video and, if it is read, of its flow.

        Raises:
            VideoError: It is not there.
        """
        flow = self._flow(source)
        return video_state(source.path) | ({} if flow is None else {"flow": flow.state()})

    def _made(self, state: Json) -> Json:
        return self._recipe | {"source": state}

    def _metadata(self, frames: int, where: list[Row], texts: list[str]) -> Json:
        metadata: Json = {"fasti3d": __version__, "frames": frames, "preprocessing": self.preprocessing}
        if self._settings.mode == "windows":
            after = frames - where[-1].end_frame
            metadata["tail"] = {"policy": self._settings.tail_policy, "frames_after_last_row": after}
        elif self._settings.flowing:
            metadata["flow_of_last_frame"] = "still"
        return metadata | {"warnings": texts}

    def _failed(self, source: Source, state: Json | None, error: Exception) -> Outcome:
        # The video is named beside the reason; a picture of it, or of its flow, in the reason.
        of_video = isinstance(error, VideoError) and error.path == source.path
        reason = error.reason if isinstance(error, VideoError) and of_video else str(error)
        return Outcome(source, "failed", reason=reason, digest=digest(self._recipe, state))


def extractor(settings: ExtractionSettings, models: dict[str, VideoNetwork], folder: Path) -> Extractor:
    """Return what makes the outputs that these settings ask for.

    Args:
        settings: What to extract; a device and dtype of ``"auto"`` become those of the networks.
        models: The network of each stream, in eval mode, all on one device and in one dtype.
        folder: The output folder, which must exist.
    """
    device, dtype = place(next(iter(models.values())))
    if settings.device == "auto":
        settings = replace(settings, device=device.type)
    if settings.dtype == "auto":
        settings = replace(settings, dtype=str(dtype).removeprefix("torch."))
    own = preprocessing_of(next(iter(models.values())))
    settings = settings.for_weights(own)
    producer: Producer
    if settings.mode == "dense":
        producer = DenseFeatures(settings, cast("dict[str, I3D]", models))
    else:
        producer = WindowFeatures(settings, models)
    return Extractor(producer, settings, recipe(settings, models), folder, _prepared(settings, own))


def _prepared(settings: ExtractionSettings, own: Preprocessing) -> Json:
    row = settings.preprocessing if settings.layout == "anomaly" else own
    return record(
        row,
        normalization=settings.normalized_as,
        fps=settings.rate,
        frames=settings.window,
        step=settings.every,
        crops=[view.name for view in views(settings)],
        crop=settings.crop_side,
    )
