"""What every data set gives: videos with classes, and what was found of its list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class DatasetError(Exception):
    """A data set that cannot be used: what was found, what was expected and the remedy, in one line."""


class MissingPartError(DatasetError):
    """A data set without the list or folder of the subset that is asked for."""


@dataclass(frozen=True)
class Video:
    """A video of a data set.

    Attributes:
        path: the file, or a folder of images.
        label: index of its class in the data set's class list; None where the list has no labels.
        key: its name in the data set, unique there and the same on every machine, such as
            ``"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01"``.
    """

    path: Path
    label: int | None
    key: str


@dataclass(frozen=True)
class Coverage:
    """What was found of a data set's list.

    Attributes:
        listed: the number of videos in the list.
        missing: keys of listed videos without a file, in the list's order.
        unlisted: paths of videos below the root that no list of the data set names, relative to it, sorted.
        remarks: what else a user should know, a sentence each, such as how many names were matched loosely.
    """

    listed: int
    missing: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def found(self) -> int:
        """The number of listed videos that are there."""
        return self.listed - len(self.missing)


@dataclass(frozen=True)
class VideoDataset:
    """One part of a data set, such as the training list of UCF-101's split 1.

    Attributes:
        name: as ``open_dataset`` takes it, such as ``ucf101``.
        subset: ``train``, ``val`` or ``test``.
        split: the number of the split, where the data set has several; None otherwise.
        root: the folder of the videos.
        classes: the class names in the data set's own order, which is the order of the logits.
        videos: the listed videos that were found, in the list's order.
        coverage: what was found of the list.
    """

    name: str
    subset: str
    split: int | None
    root: Path
    classes: tuple[str, ...]
    videos: tuple[Video, ...]
    coverage: Coverage
