"""Training and evaluation of I3D on video data sets.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), sections 3 and 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.train.record import TrainingRecord, read_record

__all__ = ["TrainingRecord", "read_record"]

# Loaded when first used, so that a record can be read without torch.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "TrainingRecord": "fasti3d.train.record",
        "read_record": "fasti3d.train.record",
    },
)
