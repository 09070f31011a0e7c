"""What all producers of features share: a network per stream, and the views of a video that it sees."""

from __future__ import annotations

from torch import Tensor

from fasti3d.extraction import clips
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.flow.stream import still_flow
from fasti3d.models import VideoNetwork, place


class StreamFeatures:
    """The part of a producer of features that does not depend on the video."""

    def __init__(self, settings: ExtractionSettings, models: dict[str, VideoNetwork]) -> None:
        self._settings = settings
        self._models = models
        self._views = clips.views(settings)
        self._device, self._dtype = place(next(iter(models.values())))

    def _clip(self, stream: str, stacks: list[tuple[Tensor, clips.View]]) -> Tensor:
        """Views of frames, or of encoded flow, as the stream's network takes them."""
        if stream == "rgb":
            return clips.rgb_clip(stacks, self._device)
        return clips.flow_clip(stacks, self._dtype)

    def _still(self) -> Tensor:
        """Encoded flow (1, 2, 1, 1) of pixels that do not move."""
        return still_flow(self._settings.flow_preset, self._device)[:, :, :1, :1]
