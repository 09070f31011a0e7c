"""Training and evaluation of I3D on video data sets.

Source: Carreira & Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017), sections 3 and 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.train.api import DryRun, TrainingResult, dry_run, finetune
    from fasti3d.train.record import TrainingRecord, read_record
    from fasti3d.train.settings import TrainingError, TrainingSettings

__all__ = [
    "DryRun",
    "TrainingError",
    "TrainingRecord",
    "TrainingResult",
    "TrainingSettings",
    "dry_run",
    "finetune",
    "read_record",
]

# Loaded when first used, so that a record can be read without torch.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "DryRun": "fasti3d.train.api",
        "TrainingError": "fasti3d.train.settings",
        "TrainingRecord": "fasti3d.train.record",
        "TrainingResult": "fasti3d.train.api",
        "TrainingSettings": "fasti3d.train.settings",
        "dry_run": "fasti3d.train.api",
        "finetune": "fasti3d.train.api",
        "read_record": "fasti3d.train.record",
    },
)
