"""Real videos, a damaged and a short one among them."""

from __future__ import annotations

from pathlib import Path

import pytest

import fasti3d

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def videos(shared_data: Path) -> Path:
    folder = shared_data / "videos"
    if not folder.is_dir():
        pytest.skip(f"no videos in {shared_data}")
    return folder


def test_a_folder_of_real_videos_against_itself(videos: Path, random_weights: Path) -> None:
    result = fasti3d.fvd(videos, videos, weights=random_weights, frames=9, clips=3, device="cpu", batch=2)
    assert 0 <= result.score < 1e-6
    real, generated = result.receipt["real"], result.receipt["generated"]
    assert real["chosen"] == generated["chosen"]
    assert len(real["chosen"]) == 3


@pytest.mark.usefixtures("colours")
def test_what_is_wrong_with_files_is_told(videos: Path, tmp_path: Path) -> None:
    for name in ("rotated_180.mov", "corrupted.mp4", "flipping_pancake.mkv"):
        (tmp_path / name).symlink_to(videos / name)
    result = fasti3d.fvd(tmp_path, tmp_path, frames=9)
    (skipped,) = result.receipt["real"]["skipped"]
    assert skipped == {"name": "rotated_180.mov", "reason": "has 3 frames, fewer than the 9 of a clip"}
    assert any("corrupted.mp4: breaks off" in text for text in result.receipt["warnings"])
    with pytest.raises(fasti3d.video.VideoError):
        fasti3d.fvd(tmp_path, tmp_path, frames=9, strict=True)
