"""Videos in a folder per class, as users have them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, defaultdict
from pathlib import Path

from fasti3d.train.data.matching import found_videos, stem
from fasti3d.train.data.request import SUBSETS, DatasetRequest
from fasti3d.train.data.video_dataset import Coverage, DatasetError, MissingPartError, Video, VideoDataset
from fasti3d.utils.naming import quoted

_HOLDS = "a folder per class with videos in it, or train/CLASS and val/CLASS"
# Takes of one scene, as UCF-101 and others number them.
_TAKE = re.compile(r"(.*_g\d+)_c\d+", re.IGNORECASE)


def VideoFolder(  # noqa: N802 (a kind of data set)
    root: str | os.PathLike[str],
    *,
    subset: str = "train",
    holdout: float | None = None,
    group: str | None = None,
) -> VideoDataset:
    """Open the videos of class folders: ``root/train/CLASS/…``, or ``root/CLASS/…`` with a held-out share.

    Classes are sorted by name. Which videos are held out depends on their names alone.

    Args:
        root: the folder.
        subset: ``train``, ``val`` or ``test``; with ``holdout``, ``val`` are the videos held out.
        holdout: the share of each class's videos to hold out, 0 to 1, of folders without train and val.
        group: a regular expression that is searched in ``CLASS/NAME``: videos for which it finds the same
            text, of its first group if it has one, are held out together.

    Raises:
        DatasetError: folders of another layout, a class without videos, or too few to hold some out.

    Example:
        >>> VideoFolder("animals", holdout=0.2, group=r"scene\\d+").classes  # doctest: +SKIP
        ('cat', 'dog')
    """
    DatasetRequest("folder", root, subset, holdout=holdout, group=group)
    folder = Path(root)
    names = _folders(folder)
    if any(name in SUBSETS["folder"] for name in names):
        if holdout is not None:
            raise DatasetError(
                f"{quoted(folder)} has parts already: expected no --holdout, which is for others"
            )
        parts = _separate_parts(folder, names)
    else:
        parts = _held_out_parts(folder, holdout, group)
    if subset not in parts:
        remedy = "" if holdout is not None or len(parts) > 1 else ", or --holdout for videos to validate on"
        raise MissingPartError(
            f"{quoted(folder)} has no videos for {subset}, only for {', '.join(parts)}: expected a folder "
            f"{subset} of folders of classes{remedy}"
        )
    classes = tuple(sorted({_class(video.key) for videos in parts.values() for video in videos}))
    labels = {name: label for label, name in enumerate(classes)}
    videos = tuple(Video(video.path, labels[_class(video.key)], video.key) for video in parts[subset])
    remarks = tuple(_shared_takes({name: [video.key for video in some] for name, some in parts.items()}))
    return VideoDataset(
        "folder", subset, None, folder, classes, videos, Coverage(len(videos), remarks=remarks)
    )


def _separate_parts(folder: Path, names: list[str]) -> dict[str, list[Video]]:
    """The videos of the folders train, val and test that there are."""
    for name in names:
        if name not in SUBSETS["folder"]:
            raise DatasetError(
                f"{quoted(folder)} holds {quoted(name)} beside folders of {', '.join(SUBSETS['folder'])}: "
                "expected only those, or only folders of classes"
            )
    parts = {name: _class_videos(folder / name, folder) for name in SUBSETS["folder"] if name in names}
    classes = {name: {_class(video.key) for video in videos} for name, videos in parts.items()}
    for name, own in classes.items():
        if absent := sorted(set().union(*classes.values()) - own):
            raise DatasetError(
                f"{quoted(folder / name)} has no folder {quoted(absent[0])}, which another of "
                f"{', '.join(parts)} has: expected the same classes in all"
            )
    return parts


def _held_out_parts(folder: Path, holdout: float | None, group: str | None) -> dict[str, list[Video]]:
    """The videos to train on, and those held out if any are to be."""
    found = _class_videos(folder, folder)
    if holdout is None:
        return {"train": found}
    held = _held_out([video.key for video in found], holdout, group)
    return {
        "train": [video for video in found if video.key not in held],
        "val": [video for video in found if video.key in held],
    }


def _class(key: str) -> str:
    return key.split("/")[0]


def _folders(folder: Path) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DatasetError(f"{quoted(folder)} cannot be read: {error.strerror}: expected {_HOLDS}") from error
    return [name for name in names if os.path.isdir(folder / name)]


def _class_videos(folder: Path, root: Path) -> list[Video]:
    """The videos of the class folders, keyed CLASS/NAME; no labels yet."""
    videos: dict[str, Video] = {}
    for path in found_videos(folder, _HOLDS):
        parts = path.relative_to(folder).parts
        if len(parts) != 2:
            where = quoted(path.relative_to(root).as_posix())
            raise DatasetError(f"{quoted(root)} holds {where}: expected {_HOLDS}, and no folders in those")
        key = f"{parts[0]}/{stem(parts[1])}"
        if key in videos:
            raise DatasetError(
                f"{quoted(videos[key].path)} and {quoted(path.name)} have one name: expected names that "
                "differ in more than the suffix"
            )
        videos[key] = Video(path, None, key)
    filled = {_class(key) for key in videos}
    if empty := [name for name in _folders(folder) if name not in filled]:
        raise DatasetError(
            f"{len(empty)} of {len(empty) + len(filled)} class folders hold no video, such as "
            f"{quoted(folder / empty[0])}: expected some in each; remove it, or fill it"
        )
    return [*videos.values()]


def _held_out(keys: list[str], holdout: float, group: str | None) -> set[str]:
    """The keys that are held out: of each class that share, at least one video and not all of its groups."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key in keys:
        groups[_group(key, group)].append(key)
    totals = Counter(_class(key) for key in keys)
    targets = {name: max(1, round(holdout * count)) for name, count in totals.items()}
    kept_groups = Counter(name for members in groups.values() for name in {_class(key) for key in members})
    held: set[str] = set()
    counts: Counter[str] = Counter()
    # Hashes are an order that is the same everywhere and has nothing to do with names.
    for name in sorted(groups, key=lambda text: hashlib.sha256(os.fsencode(text)).digest()):
        classes = {_class(key) for key in groups[name]}
        if any(counts[c] >= targets[c] or kept_groups[c] == 1 for c in classes):
            continue
        held.update(groups[name])
        counts.update(_class(key) for key in groups[name])
        kept_groups.subtract(classes)
    if short := [name for name in sorted(totals) if not counts[name]]:
        what = f"{totals[short[0]]} video{'s' * (totals[short[0]] != 1)}"
        raise DatasetError(
            f"the class {short[0]!r} has {what} in too few groups to hold some out and keep others: "
            "expected at least two that --group does not join"
        )
    return held


def _group(key: str, pattern: str | None) -> str:
    if pattern is None:
        return key
    found = re.search(pattern, key)
    if found is None:
        raise DatasetError(
            f"--group {pattern!r} finds nothing in {quoted(key)}: expected it to match every video"
        )
    return (found[1] if found.re.groups else found[0]) or ""


def _shared_takes(keys: dict[str, list[str]]) -> list[str]:
    """A remark for each two parts that hold takes of one scene, which makes the accuracy of one too good."""
    scenes = {
        name: {found[1] for found in map(_TAKE.fullmatch, some) if found is not None}
        for name, some in keys.items()
    }
    remarks = []
    for name, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if shared := sorted(scenes.get(name, set()) & scenes.get(other, set())):
            remarks.append(
                f"{name} and {other} share {len(shared):,} groups of takes, such as {shared[0]}: accuracy on "
                f"{other} is too good; hold out groups with --group"
            )
    return remarks
