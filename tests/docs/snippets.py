"""The code blocks of the documentation's pages, and a place to run them: small clips, narrow networks."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from dataset_making import video_bytes, write
from torch import Tensor

import fasti3d
from fasti3d import network
from fasti3d.weights import KINETICS_400_LABELS, registry
from fasti3d.weights.checkpoint import read_checkpoint, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Of the network that the pages run: an eighth of each width.
NARROW: dict[str, network.Conv | network.Pool | network.Mixed] = {
    name: network.Mixed(*(width // 8 for width in part))
    if isinstance(part, network.Mixed)
    else part._replace(out_channels=part.out_channels // 8)
    if isinstance(part, network.Conv)
    else part
    for name, part in network.TRUNK.items()
}
RESNET_WIDTHS = (8, 8, 16, 16)
_INCLUDED = re.compile(r'^--8<-- "(?P<file>.*):(?P<section>\w+)"$', re.MULTILINE)
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)


class Snippet(NamedTuple):
    """A code block: its language, its text and the line of the page that it starts on."""

    language: str
    code: str
    line: int


def snippets_of(page: Path) -> list[Snippet]:
    """The code blocks of a page, in order."""
    text = _INCLUDED.sub(_section, page.read_text())
    found = []
    for match in _FENCE.finditer(text):
        lines = [line.removeprefix(match["indent"]) for line in match["code"].splitlines()]
        found.append(
            Snippet(match["language"], "\n".join(lines) + "\n", text.count("\n", 0, match.start("code")) + 1)
        )
    return found


def _section(match: re.Match[str]) -> str:
    """What a page includes of another file."""
    _, _, rest = (ROOT / match["file"]).read_text().partition(f"[start:{match['section']}] -->")
    return rest.partition(f"<!-- --8<-- [end:{match['section']}]")[0]


def inline_commands(page: Path) -> list[str]:
    """The calls of fasti3d in a page's sentences."""
    text = _FENCE.sub("", page.read_text())
    return [" ".join(call.split()) for call in re.findall(r"`(fasti3d [a-z-][^`]*)`", text)]


def changed(code: str) -> str:
    """The text after a change that a block shows as a diff."""
    return "".join(f"{line[1:]}\n" for line in code.splitlines() if not line.startswith("-"))


def commands_of(code: str) -> list[list[str]]:
    """The calls of fasti3d in a block for the shell, also those that another program starts."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["fasti3d"]:
            found.append(words[1:])
        elif words[:1] == ["torchrun"]:
            found.append(words[words.index("fasti3d") + 1 :])
    return found


def fill_cache(folder: Path) -> None:
    """A cache of weights, ``FASTI3D_HOME``, in which public names stand for random numbers.

    To be called, and used, where networks are ``NARROW``.
    """
    for name in ("kinetics400-rgb", "pytorch-i3d-flow-imagenet"):
        channels = registry()[name].in_channels
        checkpoint = replace(
            read_checkpoint(_random_weights(channels)), source="random numbers", labels=KINETICS_400_LABELS
        )
        path = folder / "weights" / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps({"sha256": write_checkpoint(checkpoint, path)}))


def _random_weights(channels: int) -> dict[str, Tensor]:
    torch.manual_seed(channels)
    return fasti3d.I3D(400, channels).state_dict()


def make_files(folder: Path) -> None:
    """What the pages speak of: clip.mp4 and other.mp4, folders of videos, weights of other projects."""
    for name, frames in {"clip.mp4": 20, "other.mp4": 12, "videos/clip.mp4": 20}.items():
        write(folder / name, video_bytes(frames, suffix=".mp4"))
    for side in ("real", "generated"):
        for i in range(4):
            write(folder / side / f"{i}.mp4", video_bytes(18, 4 * i + len(side), suffix=".mp4"))
    for label, name in enumerate(("jump", "walk")):
        for video in "abcd" if name == "jump" else "cdef":
            write(folder / "my_videos" / name / f"{video}.mp4", video_bytes(16, label, suffix=".mp4"))
    for name, channels in (("flow_imagenet.pt", 2), ("rgb_imagenet.pt", 3)):
        torch.save(_random_weights(channels), folder / name)
    torch.save(fasti3d.I3DResNet("caffe2-32x2").state_dict(), folder / "i3d_r50_kinetics.pth")
    (folder / "model").mkdir()
    torch.save(fasti3d.compat.I3D(400).state_dict(), folder / "model" / "model_rgb.pth")
