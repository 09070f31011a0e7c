"""The networks that jobs run, by name: what can be said of them without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from fasti3d import network
from fasti3d.preprocessing import PREPROCESSINGS, Preprocessing
from fasti3d.resnet.variants import VARIANTS, check_network, endpoints_of, smallest_clip

Family = Literal["i3d", "i3d-resnet", "video-resnet"]

I3D_NAME = "i3d"


class Kind(NamedTuple):
    """What stands behind a network's name.

    Attributes:
        family: which class it is.
        depth: of an I3D-ResNet.
        variant: of an I3D-ResNet whose name says it; None asks for one.
    """

    family: Family
    depth: int = 0
    variant: str | None = None


BACKBONES: Mapping[str, Kind] = {
    I3D_NAME: Kind("i3d"),
    "i3d-r50": Kind("i3d-resnet", 50),
    "i3d-r101": Kind("i3d-resnet", 101),
    "slow-r50": Kind("i3d-resnet", 50, "slow-8x8"),
    "r3d-18": Kind("video-resnet"),
    "mc3-18": Kind("video-resnet"),
    "r2plus1d-18": Kind("video-resnet"),
}
# What a network of torchvision's returns: its last map and its head.
VIDEO_RESNET_ENDPOINTS = ("layer4", "Logits", "Predictions")
VIDEO_RESNET_CHANNELS = 512


@dataclass(frozen=True)
class Backbone:
    """A network as it is asked for by name.

    Attributes:
        network: one of ``BACKBONES``.
        variant: of ``i3d-r50`` and ``i3d-r101``, which need one; None for the others.
        non_local: what the non-local blocks of these compute; None without such blocks.

    Raises:
        ValueError: an unknown name, a variant that is missing, unknown or of another network.
    """

    network: str = I3D_NAME
    variant: str | None = None
    non_local: str | None = None

    def __post_init__(self) -> None:
        if self.network not in BACKBONES:
            raise ValueError(f"network must be one of {', '.join(BACKBONES)}, got {self.network!r}")
        if self.family != "i3d-resnet":
            for name in ("variant", "non_local"):
                if (value := getattr(self, name)) is not None:
                    raise ValueError(f"{name} is of i3d-r50 and i3d-r101, got {value!r} for {self.network}")
            return
        named = self.kind.variant
        if named is not None and self.variant not in (None, named):
            raise ValueError(
                f"variant of {self.network} is {named!r}, got {self.variant!r}: leave it out, or "
                "choose i3d-r50"
            )
        if named is None and self.variant is None:
            raise ValueError(
                f"variant of {self.network} must be one of {', '.join(VARIANTS)}, got None: strides and "
                "pools differ, so choose the implementation that the weights come from"
            )
        object.__setattr__(self, "variant", self.variant or named)
        check_network(self.variant or "", self.kind.depth, self.non_local)

    @property
    def kind(self) -> Kind:
        return BACKBONES[self.network]

    @property
    def family(self) -> Family:
        return self.kind.family

    @property
    def preprocessing(self) -> Preprocessing:
        """How its implementation prepares clips."""
        if self.family == "i3d":
            return PREPROCESSINGS["i3d"]
        return VARIANTS[self.variant].preprocessing if self.variant else PREPROCESSINGS["torchvision"]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The outputs that can be extracted, the last map and the scores at the end."""
        if self.family == "i3d":
            return network.ENDPOINTS
        if self.variant is None:
            return VIDEO_RESNET_ENDPOINTS
        return endpoints_of(self.variant)

    @property
    def last_map(self) -> str:
        """The endpoint that the head reads."""
        return self.endpoints[-3]

    @property
    def min_frames(self) -> int:
        """Frames of the shortest clip that fills the head."""
        if self.family == "i3d":
            return network.MIN_FRAMES
        return smallest_clip(self.variant)[0] if self.variant else 1

    @property
    def says(self) -> str:
        """The network in words, for messages."""
        parts = (self.network, self.variant if self.kind.variant is None else None, self.non_local)
        return " ".join(part for part in parts if part)
