"""The file of scores: the logits of every view of every video, and what they are of.

It is an .npz, for ``np.load(path, allow_pickle=False)``:

- ``fasti3d_scores``: JSON, see ``Scores.header``;
- ``classes``: text (C,), the class names in the order of the logits;
- ``keys``: text (N,), the name of each found video, in the data set's order;
- ``labels``: int64 (N,), the index of each one's class; -1 where the list has none;
- ``logits``: float32 (N, views, C), clips first, then crops; NaN where a video failed;
- ``failed``: text (N,), why a video failed; empty where it did not;
- ``missing``: text (M,), the names of listed videos without a file.

Files of equal scores have equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fasti3d.train.data.video_dataset import VideoDataset
from fasti3d.train.evaluation.errors import ScoresError
from fasti3d.utils.archives import Archive, ArchiveError, array_member, damaged
from fasti3d.utils.files import StagedFiles
from fasti3d.utils.naming import quoted
from fasti3d.utils.parsing import Json, brief, parse_json
from fasti3d.utils.plain_files import open_regular

_KEY = "fasti3d_scores"
FORMAT = 1
_TEXTS, _LABELS, _LOGITS = ("classes", "keys", "failed", "missing"), "labels", "logits"
_RATIO = 8
# What a header must say, and in which of JSON's types.
_HEADER: dict[str, type | tuple[type, ...]] = {
    "format": int,
    "dataset": dict,
    "stream": str,
    "views": str,
    "weights": str,
    "settings": dict,
    "versions": dict,
}
_DATASET: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "subset": str,
    "split": (int, type(None)),
    "listed": int,
    "digest": str,
}


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of a data set's videos.

    Attributes:
        header: ``dataset``: name, subset, split, listed (videos in the list) and digest (SHA-256 of its
            keys and classes); ``stream``: ``rgb``, ``flow`` or, fused, ``rgb+flow``; ``views``; ``weights``:
            SHA-256 of the network's tensors; ``settings``: what else the numbers depend on; ``versions``.
        classes: the class names in the order of the logits.
        keys: the name of each found video, in the data set's order.
        labels: int64 (N,), -1 where the list has none.
        logits: float32 (N, views, classes), NaN where a video failed.
        failed: why a video failed; empty where it did not.
        missing: the names of listed videos without a file.
    """

    header: Json
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    failed: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def listed(self) -> int:
        """The number of videos in the data set's list."""
        return int(self.header["dataset"]["listed"])

    @property
    def title(self) -> str:
        """The data set's name, split and subset.

        Example: ``ucf101 split 1, test``
        """
        data = self.header["dataset"]
        split = "" if data["split"] is None else f" split {data['split']}"
        return f"{data['name']}{split}, {data['subset']}"

    def averaged(self) -> NDArray[np.float64]:
        """Return the mean of each video's logits over its views: (N, classes), NaN where it failed."""
        return self.logits.mean(axis=1, dtype=np.float64)

    def probabilities(self) -> NDArray[np.float64]:
        """Return the mean of each video's probabilities over its views: (N, classes), NaN where it failed."""
        exact = self.logits.astype(np.float64)
        shares = np.exp(exact - exact.max(axis=2, keepdims=True))
        shares /= shares.sum(axis=2, keepdims=True)
        return shares.mean(axis=1)


def identity(dataset: VideoDataset) -> Json:
    """Return what tells a data set's part from others, for ``Scores.header``.

    It is the same on machines that hold different shares of the videos.
    """
    keys = sorted({*(video.key for video in dataset.videos), *dataset.coverage.missing})
    listed = [dataset.classes, keys]
    return {
        "name": dataset.name,
        "subset": dataset.subset,
        "split": dataset.split,
        "listed": dataset.coverage.listed,
        "digest": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
    }


def write_scores(
    path: Path,
    header: Json,
    classes: Sequence[str],
    keys: Sequence[str],
    labels: Sequence[int],
    failed: Sequence[str],
    missing: Sequence[str],
    logits: Iterable[NDArray[np.float32]],
    views: int,
) -> None:
    """Write scores, whole or not at all; one video's logits are in memory at a time.

    Args:
        path: The file.
        header, classes, keys, labels, failed, missing: As in ``Scores``.
        logits: Of each video in turn, float32 (views, classes).
        views: How many.

    Raises:
        OSError: It cannot be written; it names ``path``.
    """
    texts = {"classes": classes, "keys": keys, "failed": failed, "missing": missing}
    arrays: dict[str, NDArray[Any]] = {_KEY: np.array(json.dumps(header, sort_keys=True))}
    arrays |= {name: _text(values) for name, values in texts.items()}
    arrays[_LABELS] = np.array(labels, np.int64)
    shape = (len(keys), views, len(classes))
    # One process writes at a time, and the next replaces what a killed one has left.
    with StagedFiles() as files:
        with files.open(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, values in arrays.items():
                with array_member(archive, name) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
            with array_member(archive, _LOGITS) as member:
                header_of_logits = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header_of_logits)
                for rows in logits:
                    member.write(np.ascontiguousarray(rows, "<f4").tobytes())
        files.publish()


def save_scores(path: Path, scores: Scores) -> None:
    """Write scores that are in memory, as ``write_scores`` does."""
    write_scores(
        path,
        scores.header,
        scores.classes,
        scores.keys,
        scores.labels.tolist(),
        scores.failed,
        scores.missing,
        scores.logits,
        scores.logits.shape[1],
    )


def _text(values: Sequence[str]) -> NDArray[np.str_]:
    """An array of text of at least one character each, which every reader takes."""
    return np.array(values, np.str_) if any(values) else np.zeros(len(values), "<U1")


def read_scores(path: str | Path) -> Scores:
    """Read scores that ``fasti3d evaluate`` wrote.

    Args:
        path: The file. Nothing in it is run, and no more is read than it declares and holds.

    Raises:
        ScoresError: It cannot be read, holds no scores, or is damaged.

    Example:
        >>> read_scores("rgb.npz").logits.shape  # doctest: +SKIP
        (3783, 1, 101)
    """
    path = Path(path)
    try:
        with open_regular(path) as file, damaged("the file"):
            archive = Archive(file, ratio=_RATIO)
            if f"{_KEY}.npy" not in archive.names:
                raise ArchiveError("it has no fasti3d_scores: it was not written by `fasti3d evaluate`")
            arrays = {name: archive.array(f"{name}.npy") for name in (_KEY, *_TEXTS, _LABELS, _LOGITS)}
            return _checked(arrays)
    except ArchiveError as error:
        raise ScoresError(f"{quoted(path)} holds no scores that can be read: {error}") from error
    except OSError as error:
        raise ScoresError(f"{quoted(path)} cannot be read: {error.strerror or error}") from error


def _checked(arrays: dict[str, NDArray[Any]]) -> Scores:
    header = _header(arrays.pop(_KEY))
    labels, logits = arrays.pop(_LABELS), arrays.pop(_LOGITS)
    for name, values in arrays.items():
        if values.dtype.kind != "U" or values.ndim != 1:
            raise ArchiveError(f"{name} is {values.dtype} of shape {values.shape}, and text (n,) is expected")
    classes, keys, failed, missing = (tuple(map(str, arrays[name])) for name in _TEXTS)
    if labels.dtype != np.int64 or labels.shape != (len(keys),):
        raise ArchiveError(f"labels are {labels.dtype} of shape {labels.shape}, not int64 of ({len(keys)},)")
    if logits.dtype != np.float32 or logits.ndim != 3 or logits.shape[::2] != (len(keys), len(classes)):
        raise ArchiveError(
            f"logits are {logits.dtype} of shape {logits.shape}, not float32 of "
            f"({len(keys)}, views, {len(classes)})"
        )
    if len(failed) != len(keys) or not classes or not logits.shape[1]:
        raise ArchiveError("its arrays do not go together")
    if labels.size and not -1 <= labels.min() <= labels.max() < len(classes):
        raise ArchiveError(f"labels are {labels.min()} to {labels.max()}, not below {len(classes)}")
    if len(set(keys)) < len(keys):
        raise ArchiveError("it has a video twice")
    finite = np.isfinite(logits).all(axis=(1, 2))
    if any(there != (not reason) for there, reason in zip(finite, failed, strict=True)):
        raise ArchiveError("its logits are not those of the videos that did not fail")
    return Scores(header, classes, keys, labels, logits, failed, missing)


def _header(array: NDArray[Any]) -> Json:
    if array.dtype.kind != "U" or array.ndim:
        raise ArchiveError("its header is not text")
    try:
        header = parse_json(str(array))
    except ValueError as error:
        raise ArchiveError(f"its header is not JSON: {error}") from error
    _check_fields(header, _HEADER, "header")
    if header["format"] != FORMAT:
        raise ArchiveError(f"it is of format {header['format']}, and this fasti3d reads {FORMAT}: update it")
    _check_fields(header["dataset"], _DATASET, "data set")
    return dict(header)


def _check_fields(found: Any, wanted: dict[str, type | tuple[type, ...]], what: str) -> None:
    for name, kind in wanted.items():
        value = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, dict) or name not in found or not isinstance(value, kind):
            raise ArchiveError(f"its {what} has {brief(repr(value))} for {name}")
