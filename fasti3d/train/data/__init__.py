"""Labeled videos: data sets in their published layouts, lists and folders, and training clips of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.train.data.batches import to_device
    from fasti3d.train.data.clips import ClipSample, Crop, TrainingClips, order
    from fasti3d.train.data.hmdb51 import HMDB51
    from fasti3d.train.data.index import Index
    from fasti3d.train.data.kinetics import Kinetics
    from fasti3d.train.data.open import open_dataset
    from fasti3d.train.data.ucf101 import UCF101
    from fasti3d.train.data.video_dataset import Coverage, DatasetError, Video, VideoDataset
    from fasti3d.train.data.video_folder import VideoFolder
    from fasti3d.train.data.video_list import VideoList

__all__ = [
    "HMDB51",
    "UCF101",
    "ClipSample",
    "Coverage",
    "Crop",
    "DatasetError",
    "Index",
    "Kinetics",
    "TrainingClips",
    "Video",
    "VideoDataset",
    "VideoFolder",
    "VideoList",
    "open_dataset",
    "order",
    "to_device",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "HMDB51": "fasti3d.train.data.hmdb51",
        "UCF101": "fasti3d.train.data.ucf101",
        "ClipSample": "fasti3d.train.data.clips",
        "Coverage": "fasti3d.train.data.video_dataset",
        "Crop": "fasti3d.train.data.clips",
        "DatasetError": "fasti3d.train.data.video_dataset",
        "Index": "fasti3d.train.data.index",
        "Kinetics": "fasti3d.train.data.kinetics",
        "TrainingClips": "fasti3d.train.data.clips",
        "Video": "fasti3d.train.data.video_dataset",
        "VideoDataset": "fasti3d.train.data.video_dataset",
        "VideoFolder": "fasti3d.train.data.video_folder",
        "VideoList": "fasti3d.train.data.video_list",
        "open_dataset": "fasti3d.train.data.open",
        "order": "fasti3d.train.data.clips",
        "to_device": "fasti3d.train.data.batches",
    },
)
