"""The code on the documentation's pages runs: all Python, the tutorials' commands, and all options."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import typer
from i3d_making import narrowed
from snippets import (
    DOCS,
    NARROW,
    PAGES,
    RESNET_WIDTHS,
    ROOT,
    changed,
    commands_of,
    fill_cache,
    inline_commands,
    make_files,
    snippets_of,
)
from typer.testing import CliRunner

from fasti3d.cli import app
from fasti3d.resnet import reference as resnet
from fasti3d.train import api
from fasti3d.train.data import clips
from fasti3d.train.evaluation import scoring

COMMANDS = typer.main.get_command(app)
# What each tutorial leaves behind.
TUTORIALS = {
    "classify": ["clip.png", "other.png"],
    "features": [
        "features/clip_rgb.npy",
        "dense/clip.json",
        "anomaly/clip_rgb.npy",
        "resnet/clip.npy",
        "python/clip.json",
        "vf/clip.json",
    ],
    "fvd": ["real.npz", "fvd.png"],
    "two-stream": ["flow/clip.flow", "pictures/clip/flow_x_00001.jpg", "features/clip_flow.npy"],
    "finetune": ["mine/best.safetensors", "mine/curve.png", "scores.npz", "saved/model.safetensors"],
}
# The pages with Python.
RUN = [page for page in PAGES if any(s.language in ("python", "diff") for s in snippets_of(page))]


def _name(page: Path) -> str:
    return str(page.relative_to(DOCS).with_suffix(""))


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with narrowed(NARROW), pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "WIDTHS", RESNET_WIDTHS)
        patch.setattr(resnet, "FEATURE_CHANNELS", RESNET_WIDTHS[-1] * resnet.EXPANSION)
        # Training sees 9 frames and not 64.
        patch.setattr(api, "TrainingClips", partial(clips.TrainingClips, frames=9))
        patch.setattr(scoring, "CLIP_FRAMES", 9)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("FASTI3D_HOME", str(home))
        fill_cache(home)
        yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", RUN, ids=_name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for language, code, line in snippets_of(page):
        if language in ("python", "diff"):
            text = changed(code) if language == "diff" else code
            # With the page's own line numbers, so that an error names its line.
            exec(compile("\n" * (line - 1) + text, page, "exec"), names)
        elif language == "sh" and page.parent.name == "tutorials":
            for words in commands_of(code):
                if "UCF-101" not in words:  # which is not here
                    _call(words, page, line)
    for left in TUTORIALS.get(page.stem, ()):
        assert (tmp_path / left).is_file(), left


def _call(words: list[str], page: Path, line: int) -> None:
    """Run the command in this process, with the shell's patterns expanded."""
    expanded = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
    done = CliRunner().invoke(app, expanded, catch_exceptions=False)
    assert done.exit_code == 0, f"{page}:{line}: fasti3d {' '.join(words)}\n{done.output}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_commands_have_the_options_that_pages_give_them(page: Path) -> None:
    blocks = [s.code for s in snippets_of(page) if s.language in ("sh", "text")]
    for words in commands_of("\n".join([*blocks, *inline_commands(page)])):
        command, given = COMMANDS, list(words)
        while given and given[0] in getattr(command, "commands", {}):
            command = command.commands[given.pop(0)]
        if hasattr(command, "commands"):
            assert given[:1] in (["--help"], ["--version"]), f"no verb {given}"
            continue
        known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
        options = {
            word.partition("=")[0] for word in given if word.startswith("-") and not word[1:2].isdigit()
        }
        assert options <= known, f"{options - known} of fasti3d {' '.join(words)}"


def test_every_tutorial_is_in_the_table() -> None:
    assert {page.stem for page in (DOCS / "tutorials").glob("*.md")} == set(TUTORIALS)
