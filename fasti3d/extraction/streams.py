"""What all producers of features have: a network for each stream, and the views of a video that it sees."""

from __future__ import annotations

from torch import Tensor

from fasti3d.extraction import clips
from fasti3d.extraction.settings import Settings
from fasti3d.flow.stream import still_flow
from fasti3d.i3d import I3D


class StreamFeatures:
    """What a producer of features has before it is given a video."""

    def __init__(self, settings: Settings, models: dict[str, I3D]) -> None:
        self._settings = settings
        self._models = models
        self._views = clips.views(settings.crops, settings.flip)
        weight = next(next(iter(models.values())).parameters())
        self._device, self._dtype = weight.device, weight.dtype

    def _clip(self, stream: str, stacks: list[tuple[Tensor, clips.View]]) -> Tensor:
        """Views of frames, or of encoded flow, as the stream's network takes them."""
        if stream == "rgb":
            return clips.rgb_clip(stacks, self._device)
        return clips.flow_clip(stacks, self._dtype)

    def _still(self) -> Tensor:
        """Encoded flow (1, 2, 1, 1) where nothing moves."""
        return still_flow(self._settings.flow_preset, self._device)[:, :, :1, :1]
