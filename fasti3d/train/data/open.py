"""Opens a data set by its name."""

from __future__ import annotations

import os

from fasti3d.train.data.hmdb51 import HMDB51
from fasti3d.train.data.kinetics import Kinetics
from fasti3d.train.data.request import DatasetRequest
from fasti3d.train.data.ucf101 import UCF101
from fasti3d.train.data.video_dataset import DatasetError, VideoDataset
from fasti3d.train.data.video_folder import VideoFolder
from fasti3d.train.data.video_list import VideoList
from fasti3d.utils.naming import quoted

StrPath = str | os.PathLike[str]


def open_dataset(
    name: str,
    root: StrPath | None = None,
    *,
    subset: str = "train",
    split: int = 1,
    annotations: StrPath | None = None,
    list: StrPath | None = None,
    prefix: StrPath | None = None,
    holdout: float | None = None,
    group: str | None = None,
) -> VideoDataset:
    """Open a data set by its name.

    Args:
        name: ``ucf101``, ``hmdb51``, ``kinetics400``, ``kinetics600``, ``kinetics700``, ``list`` or
            ``folder``.
        root: the folder of the videos, which only ``list`` can do without.
        subset: ``train``, ``val`` or ``test``; UCF-101 and HMDB-51 have no ``val``.
        split: 1, 2 or 3, of UCF-101 and HMDB-51.
        annotations: the folder of the lists; of ``list``, the file of class names.
        list, prefix: as for ``VideoList``.
        holdout, group: as for ``VideoFolder``.

    Raises:
        DatasetError: an argument does not go with the data set, or the data set cannot be used: what was
            found, what was expected and the remedy, in one line.

    Example:
        >>> open_dataset("ucf101", "UCF-101", split=1).classes[23:25]  # doctest: +SKIP
        ('Hammering', 'HammerThrow')
    """
    request = DatasetRequest(name, root, subset, split, annotations, list, prefix, holdout, group)
    dataset = open_request(request)
    if not dataset.videos:
        raise DatasetError(
            f"{quoted(dataset.root)} holds none of the {dataset.coverage.listed:,} videos listed for "
            f"{subset}, such as {quoted(dataset.coverage.missing[0])}, but others of {name}: expected those"
        )
    return dataset


def open_request(request: DatasetRequest) -> VideoDataset:
    """Open the data set that is asked for, as ``open_dataset``, but perhaps without videos."""
    if request.name == "list":
        assert request.list is not None
        return VideoList(
            request.list,
            request.root,
            prefix=request.prefix,
            classes=request.annotations,
            subset=request.subset,
        )
    assert request.root is not None
    if request.name == "folder":
        return VideoFolder(request.root, subset=request.subset, holdout=request.holdout, group=request.group)
    if request.name.startswith("kinetics"):
        classes = int(request.name.removeprefix("kinetics"))
        return Kinetics(request.root, classes=classes, subset=request.subset, annotations=request.annotations)
    of_splits = {"ucf101": UCF101, "hmdb51": HMDB51}[request.name]
    return of_splits(
        request.root, subset=request.subset, split=request.split, annotations=request.annotations
    )
