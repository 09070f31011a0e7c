"""Which data set is asked for, and what of the question is wrong before anything is read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fasti3d.train.data.video_dataset import DatasetError
from fasti3d.utils.naming import quoted

SUBSETS: Final = {
    "ucf101": ("train", "test"),
    "hmdb51": ("train", "test"),
    "kinetics400": ("train", "val", "test"),
    "kinetics600": ("train", "val", "test"),
    "kinetics700": ("train", "val", "test"),
    "list": ("train", "val", "test"),
    "folder": ("train", "val", "test"),
}
# Of UCF-101 and HMDB-51.
SPLITS: Final = (1, 2, 3)

_SUBSET_WORDS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class DatasetRequest:
    """The arguments of ``open_dataset``, by their names there.

    Raises:
        DatasetError: one of them is missing, unknown, or does not go with the data set.
    """

    name: str
    root: StrPath | None = None
    subset: str = "train"
    split: int = 1
    annotations: StrPath | None = None
    list: StrPath | None = None
    prefix: StrPath | None = None
    holdout: float | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        if self.name not in SUBSETS:
            raise DatasetError(f"no data set is called {self.name!r}: expected one of {', '.join(SUBSETS)}")
        if self.subset not in SUBSETS[self.name]:
            raise DatasetError(
                f"{self.name} has no subset {self.subset!r}: expected {' or '.join(SUBSETS[self.name])}"
            )
        splits = SPLITS if self.name in ("ucf101", "hmdb51") else (1,)
        if self.split not in splits:
            expected = (
                f"expected one of {', '.join(map(str, splits))}" if len(splits) > 1 else "leave --split out"
            )
            raise DatasetError(f"{self.name} has no split {self.split}: {expected}")
        self._check_options()
        self._check_paths()

    def _check_options(self) -> None:
        for option, value, of in (
            ("--list", self.list, "list"),
            ("--prefix", self.prefix, "list"),
            ("--holdout", self.holdout, "folder"),
            ("--group", self.group, "folder"),
        ):
            if value is not None and self.name != of:
                raise DatasetError(f"{option} is for --dataset {of}, not for {self.name}: leave it out")
        if self.name == "folder" and self.annotations is not None:
            raise DatasetError(
                "--annotations has no use with --dataset folder, whose folders are the classes"
            )
        if self.name == "list" and self.list is None:
            raise DatasetError("--dataset list needs --list FILE, with a path and a label per line")
        if self.name != "list" and self.root is None:
            raise DatasetError(f"--dataset {self.name} needs --root DIR, the folder of its videos")
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise DatasetError(f"--holdout is a share between 0 and 1, got {self.holdout:g}")
        if self.group is not None:
            if self.holdout is None:
                raise DatasetError("--group says what --holdout keeps together: expected both")
            try:
                re.compile(self.group)
            except re.error as error:
                raise DatasetError(f"--group {self.group!r} is not a regular expression: {error}") from None

    def _check_paths(self) -> None:
        if self.root is not None and not os.path.isdir(self.root):
            found = "is a file" if os.path.isfile(self.root) else "does not exist, or leads nowhere"
            raise DatasetError(f"the root {quoted(self.root)} {found}: expected the folder of the videos")
        for option, path in (("--list", self.list), ("--annotations", self.annotations)):
            if path is not None and not os.path.exists(path):
                raise DatasetError(f"{option} {quoted(path)} does not exist: expected a file or folder")
        if self.list is not None and Path(self.list).is_dir():
            raise DatasetError(f"--list {quoted(self.list)} is a folder: expected a file")


def named_subset(name: str) -> str | None:
    """Return the subset that is a word of a list's name; None if none is, or several.

    Example:
        >>> named_subset("kinetics-400_validate")
        'val'
    """
    found = {_SUBSET_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _SUBSET_WORDS}
    return found.pop() if len(found) == 1 else None
