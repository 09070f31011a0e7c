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
    parts = [name for name in names if name in SUBSETS["folder"]]
    if parts:
        if holdout is not None:
            raise DatasetError(
                f"{quoted(folder)} has the folder {parts[0]}, so --holdout has no use: leave it out"
            )
        if others := [name for name in names if name not in SUBSETS["folder"]]:
            raise DatasetError(
                f"{quoted(folder)} holds {quoted(others[0])} beside {parts[0]}: expected only train, val and "
                "test, or only folders of classes"
            )
        if subset not in parts:
            raise DatasetError(
                f"{quoted(folder)} has the folders {', '.join(parts)}: expected {subset} for that subset"
            )
        everything = {name: _class_videos(folder / name, folder) for name in parts}
        classes = tuple(
            sorted({video.key.split("/")[0] for videos in everything.values() for video in videos})
        )
        if absent := [name for name in classes if not (folder / subset / name).is_dir()]:
            raise DatasetError(
                f"{quoted(folder / subset)} has no folder {quoted(absent[0])}, which another of "
                f"{', '.join(parts)} has: expected the same classes in all"
            )
        videos = everything[subset]
        remarks = _shared_takes({name: [video.key for video in some] for name, some in everything.items()})
    else:
        found = _class_videos(folder, folder)
        classes = tuple(sorted({video.key.split("/")[0] for video in found}))
        if subset == "test" or (subset == "val" and holdout is None):
            raise MissingPartError(
                f"{quoted(folder)} has no folder {subset}, but the classes {', '.join(classes)[:80]}: "
                f"expected {quoted(folder / subset)}, or --holdout for videos to validate on"
            )
        held = _held_out([video.key for video in found], holdout, group) if holdout is not None else set()
        kept = {"train": [video for video in found if video.key not in held]}
        kept["val"] = [video for video in found if video.key in held]
        videos = kept[subset]
        remarks = _shared_takes({name: [video.key for video in some] for name, some in kept.items()})
    labels = {name: label for label, name in enumerate(classes)}
    labelled = tuple(Video(video.path, labels[video.key.split("/")[0]], video.key) for video in videos)
    return VideoDataset(
        "folder", subset, None, folder, classes, labelled, Coverage(len(labelled), remarks=tuple(remarks))
    )


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
    filled = {key.split("/")[0] for key in videos}
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
    totals = Counter(key.split("/")[0] for key in keys)
    targets = {name: max(1, round(holdout * count)) for name, count in totals.items()}
    kept_groups = Counter(
        name for members in groups.values() for name in {key.split("/")[0] for key in members}
    )
    held: set[str] = set()
    counts: Counter[str] = Counter()
    # Hashes are an order that is the same everywhere and has nothing to do with names.
    for name in sorted(groups, key=lambda text: hashlib.sha256(text.encode()).digest()):
        classes = {key.split("/")[0] for key in groups[name]}
        if any(counts[c] >= targets[c] or kept_groups[c] == 1 for c in classes):
            continue
        held.update(groups[name])
        counts.update(key.split("/")[0] for key in groups[name])
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
