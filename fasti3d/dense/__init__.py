"""Dense features: one pass of the network over a whole video of any length, in bounded memory."""

from fasti3d.dense.features import dense_clip, dense_features
from fasti3d.dense.field import FEATURES, Field, Support, field, steps, support
from fasti3d.dense.stream import FrameCountError, dense_stream

__all__ = [
    "FEATURES",
    "Field",
    "FrameCountError",
    "Support",
    "dense_clip",
    "dense_features",
    "dense_stream",
    "field",
    "steps",
    "support",
]
