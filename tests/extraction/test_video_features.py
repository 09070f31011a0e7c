"""The layout video_features against that tool restated: OpenCV reads, Pillow scales, the plain network."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from extraction_making import record
from i3d_making import make_i3d
from PIL import Image
from torch import nn

from fasti3d import extract, network, reference, video
from fasti3d.video.pillow import PillowTransform
from fasti3d.video.read import read_transformed

pytestmark = pytest.mark.usefixtures("narrow")

STACK = 12


def write(path: Path, frames: int, width: int, height: int, aspect: int = 1) -> Path:
    """H.264 in 4:2:0 of colours that move, so that conversion and scaling both count."""
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for i in range(frames):
            waves = [np.sin((x + 3 * i) / a + y / b) for a, b in ((3, 7), (11, 4), (5, -9))]
            image = np.stack([wave * 120 + 128 for wave in waves], axis=-1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def theirs(path: Path) -> list[np.ndarray]:
    """Frames as it has them before the crop."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, image = capture.read()
        if not there:
            return frames
        height, width = image.shape[:2]
        short = 256, int(256 * height / width)
        size = short if width < height else (int(256 * width / height), 256)
        rgb = Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
        frames.append(
            np.asarray(rgb if min(rgb.size) == 256 else rgb.resize(size, Image.Resampling.BILINEAR))
        )


@pytest.mark.parametrize(
    ("width", "height", "aspect"), [(320, 240, 1), (240, 426, 1), (640, 480, 2), (340, 256, 1)]
)
def test_frames_are_theirs(width: int, height: int, aspect: int, tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", 2, width, height, aspect)
    found = list(read_transformed(path, PillowTransform(256, None), fps=None, strict=True))
    for frame, wanted in zip(found, theirs(path), strict=True):
        assert frame.image.shape == wanted.shape
        difference = np.abs(frame.image.numpy().astype(int) - wanted)
        assert difference.max() <= 1  # Pillow's rounding
        assert (difference > 0).mean() < 0.02
    default = next(video.read_frames(path, crop=None)).image.numpy()
    assert default.shape != wanted.shape or np.abs(default.astype(int) - theirs(path)[0]).max() > 5


def test_values_are_theirs_in_their_dtype(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mp4", STACK + 1, 320, 240)
    model = make_i3d()
    own = {norm.eps for norm in model.modules() if isinstance(norm, nn.BatchNorm3d)}
    extract(path, tmp_path / "out", model=model, layout="video_features", stack=STACK, fps=None)
    found = np.load(tmp_path / "out" / "v_rgb.npy")
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.BatchNorm3d)} == own == {1e-3}

    plain = reference.I3D(7).eval()
    plain.load_state_dict(model.state_dict())
    for norm in plain.modules():
        if isinstance(norm, nn.BatchNorm3d):
            norm.eps = 1e-5  # torch's default, as there
    frames = torch.from_numpy(np.stack(theirs(path)[:STACK])).permute(0, 3, 1, 2).float()
    top, left = ((side - 224) // 2 for side in frames.shape[2:])
    clip = (2 * frames[..., top : top + 224, left : left + 224] / 255 - 1).permute(1, 0, 2, 3)[None]
    with torch.no_grad():
        maps = plain.forward_endpoints(clip, ("Mixed_5c",))["Mixed_5c"]
    wanted = np.array(nn.AvgPool3d((2, 7, 7), 1)(maps).squeeze(4).squeeze(3).mean(2).tolist())

    assert found.dtype == wanted.dtype == np.float64
    assert found.shape == wanted.shape == (1, network.FEATURE_CHANNELS)
    error = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert error < 2e-3
    assert record(tmp_path / "out" / "v.json")["made"]["settings"]["frames"] == "pillow"
    extract(path, tmp_path / "default", model=model, stack=STACK, fps=None)
    default = np.load(tmp_path / "default" / "v_rgb.npy")
    assert default.dtype == np.float32
    assert np.linalg.norm(default - wanted) / np.linalg.norm(wanted) > error * 5
