"""Pixels: scaling, cropping, turning, colours, and every odd kind of frame."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from video_making import WriteVideo, grey, number

from fasti3d.video import VideoError, probe, read_frames, to_clip
from fasti3d.video.transform import scaled_size

WriteImage = Callable[[Path, np.ndarray], Path]


def first(path: Path, **options: object) -> torch.Tensor:
    return next(read_frames(path, **options)).image


def native(path: Path) -> np.ndarray:
    return first(path, resize=None, crop=None).numpy().astype(int)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(
    ("width", "height", "aspect", "expected"),
    [
        (340, 256, 1, (340, 256)),
        (320, 240, 1, (341, 256)),  # 341.33
        (240, 320, 1, (256, 341)),
        (1920, 1080, 1, (455, 256)),  # 455.11
        (426, 240, 1, (454, 256)),  # 454.4
        (257, 512, 1, (256, 510)),  # 510.007
        (3, 2, 1, (384, 256)),
        (512, 641, 1, (256, 321)),  # 320.5, half up
        (720, 576, 64 / 45, (455, 256)),  # 16:9 PAL
        (720, 480, 8 / 9, (341, 256)),  # 4:3 NTSC
        (100, 100, 0.5, (256, 512)),
    ],
)
def test_scaled_size(width: int, height: int, aspect: float, expected: tuple[int, int]) -> None:
    assert scaled_size(width, height, aspect, 256) == expected
    assert scaled_size(width, height, aspect, None) == (width, height)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (240, 320), (64, 48), (101, 75), (1000, 100)])
def test_preset_is_always_224(write_video: WriteVideo, width: int, height: int) -> None:
    path = write_video("v.mkv", [grey(100, width, height)])
    image = first(path)
    assert image.shape == (224, 224, 3)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert number(image) == 100
    long = round(256 * max(width, height) / min(width, height))
    assert sorted(first(path, crop=None).shape[:2]) == [256, long]
    assert first(path, resize=None, crop=None).shape == (height, width, 3)


def test_scaling_is_bilinear(write_video: WriteVideo) -> None:
    rgb = np.repeat(noise(16, 24, 1), 3, axis=2)
    path = write_video("v.mkv", [VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="bgr0")])
    image = first(path, resize=32, crop=None)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(rgb).permute(2, 0, 1)[None].float(), size=(32, 48), mode="bilinear"
    )[0].permute(1, 2, 0)
    # swscale's coefficients have 14 bits and its intermediate values 15
    assert (image.float() - expected).abs().max() <= 1.5


def test_centre_crop(write_video: WriteVideo) -> None:
    rgb = noise(41, 60)
    path = write_video("v.mkv", [VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="bgr0")])
    image = first(path, resize=None, crop=32)
    assert np.array_equal(image.numpy(), rgb[4:36, 14:46])


def test_crop_larger_than_an_unscaled_video(write_video: WriteVideo) -> None:
    path = write_video("small.mkv", [grey(0, 64, 48)])
    with pytest.raises(VideoError, match=r"small\.mkv: is 64x48, smaller than crop=224"):
        first(path, resize=None)


def test_pixel_aspect_is_applied(write_video: WriteVideo) -> None:
    path = write_video("pal.mp4", [grey(9, 72, 56)], codec="libx264", sample_aspect_ratio=Fraction(2, 1))
    assert first(path, crop=None).shape == (256, 658, 3)  # 144:56
    assert first(path, resize=None, crop=None).shape == (56, 72, 3)
    assert (probe(path).width, probe(path).height) == (72, 56)


def test_size_that_changes_keeps_the_first_one(write_video: WriteVideo, tmp_path: Path) -> None:
    options = {"codec": "libx264", "options": {"qp": "0", "bf": "0"}}
    small = write_video("1.ts", [grey(50)] * 5, pts=range(0, 200, 40), **options)
    large = write_video("2.ts", [grey(60, 128, 128)] * 5, pts=range(200, 400, 40), **options)
    path = tmp_path / "joined.ts"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    images = [f.image for f in read_frames(path, resize=None, crop=None)]
    assert {tuple(i.shape) for i in images} == {(48, 64, 3)}
    assert [number(i) for i in images] == [50] * 5 + [60] * 5


# Turning -----------------------------------------------------------------------------------------

# (a, b, c, d): a stored pixel (x, y) is shown at (a x + c y, b x + d y), y downwards, plus a shift.
MATRICES = {
    "upright": (1, 0, 0, 1, 0),
    "right": (0, 1, -1, 0, 90),
    "upside down": (-1, 0, 0, -1, 180),
    "left": (0, -1, 1, 0, 270),
    "mirrored": (-1, 0, 0, 1, None),
    "mirrored, upside down": (1, 0, 0, -1, None),
    "transposed": (0, 1, 1, 0, None),
    "transposed the other way": (0, -1, -1, 0, None),
}


def set_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Puts a display matrix into the track header of an mp4, which PyAV cannot write."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def as_shown(rgb: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Moves every pixel by the definition of the matrix."""
    height, width = rgb.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    shown = np.zeros((to_y.max() + 1, to_x.max() + 1, 3), rgb.dtype)
    shown[to_y, to_x] = rgb
    return shown


@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES.keys())
def test_display_matrix(write_video: WriteVideo, matrix: tuple[int, int, int, int, int | None]) -> None:
    *matrix_values, rotation = matrix
    path = write_video(
        "v.mp4", [VideoFrame.from_ndarray(noise(32, 48), format="rgb24").reformat(format="yuv420p")] * 2,
        codec="libx264", options={"qp": "0"},
    )  # fmt: skip
    stored = native(path)
    set_matrix(path, *matrix_values)
    shown = native(path)
    assert np.array_equal(shown, as_shown(stored, *matrix_values))
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    if rotation is not None:
        assert info.rotation == rotation
    scaled = first(path, resize=64, crop=None)
    assert scaled.shape == ((64, 96, 3) if matrix_values[0] else (96, 64, 3))


def test_real_rotated_file(shared_data: Path) -> None:
    path = shared_data / "videos" / "rotated_180.mov"
    assert probe(path).rotation == 180
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    # The colour conversion here rounds differently.
    assert np.abs(native(path) - stored[::-1, ::-1]).mean() < 2
    assert np.abs(native(path) - stored).mean() > 20


def test_exif_orientation_of_an_image(tmp_path: Path, write_image: WriteImage) -> None:
    image = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None], 48, axis=0).repeat(3, axis=2)
    path = write_image(tmp_path / "0.jpg", image)
    jpeg = path.read_bytes()
    # Orientation 6: turn a quarter clockwise. One IFD with one entry, big-endian.
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x112, 3, 1, 6, 0, 0)
    exif = b"Exif\0\0" + tiff
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:])
    shown = native(tmp_path)
    assert shown.shape == (64, 48, 3)
    assert shown[5].mean() < 40  # the dark left side is now on top
    assert shown[-5].mean() > 215


# Colours -----------------------------------------------------------------------------------------

SPACES = {"bt709": (1, 0.2126, 0.0722), "bt601": (5, 0.299, 0.114), "bt2020": (9, 0.2627, 0.0593)}


def uniform(rgb: tuple[int, int, int], kr: float, kb: float, *, full: bool, depth: int = 8) -> VideoFrame:
    """A frame of one colour, by the definition of Y'CbCr."""
    r, g, b = (v / 255 for v in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    chroma = ((b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr)))
    unit = 1 << (depth - 8)
    scales = (255, 255, 0) if full else (219, 224, 16)
    values = (scales[2] + scales[0] * luma, *(128 + scales[1] * c for c in chroma))
    frame = VideoFrame(64, 64, "yuv420p" if depth == 8 else f"yuv420p{depth}le")
    dtype = np.uint8 if depth == 8 else np.dtype("<u2")
    for plane, value in zip(frame.planes, values, strict=True):
        pixels = np.full(plane.buffer_size // np.dtype(dtype).itemsize, round(value * unit), dtype)
        plane.update(pixels.tobytes())
    return frame


@pytest.mark.parametrize("rgb", [(200, 60, 30), (20, 40, 220), (255, 255, 255), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("space", SPACES)
def test_matrix_and_range(write_video: WriteVideo, space: str, full: bool, rgb: tuple[int, int, int]) -> None:
    code, kr, kb = SPACES[space]
    frame = uniform(rgb, kr, kb, full=full)
    frame.colorspace, frame.color_range = code, 2 if full else 1
    path = write_video("v.mp4", [frame], codec="libx264", options={"qp": "0"})
    for image in (native(path), first(path).numpy().astype(int)):
        # 8-bit chroma moves a channel by up to 1 when rounded, and swscale's tables by 1 more
        assert np.abs(image - rgb).max() <= 2


def test_colour_without_metadata_is_bt601_limited(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [uniform((200, 60, 30), 0.299, 0.114, full=False)])
    assert np.abs(native(path) - (200, 60, 30)).max() <= 2


def test_ten_bits(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [uniform((200, 60, 30), 0.299, 0.114, full=False, depth=10)])
    assert np.abs(native(path) - (200, 60, 30)).max() <= 2


@pytest.mark.parametrize("depth", ["gray", "gray10le", "gray16le"])
def test_grey(write_video: WriteVideo, depth: str) -> None:
    levels = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    frame = VideoFrame.from_ndarray(levels, format="gray")
    frame.color_range = 2
    deep = VideoReformatter().reformat(frame, format=depth, dst_color_range=2)
    deep.color_range = 2
    image = native(write_video("v.mkv", [deep]))
    assert np.abs(image - levels[..., None]).max() <= 1


def test_odd_sizes(write_video: WriteVideo) -> None:
    path = write_video("v.mkv", [grey(77, 101, 75)])
    assert number(first(path, resize=None, crop=None)) == 77
    assert first(path, resize=None, crop=None).shape == (75, 101, 3)


@pytest.mark.parametrize(("codec", "name", "layout"), [("qtrle", "v.mov", "argb"), ("ffv1", "v.mkv", "bgra")])
def test_alpha_is_laid_on_black(write_video: WriteVideo, codec: str, name: str, layout: str) -> None:
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[...] = (200, 100, 50, 255)
    rgba[:, 16:32, 3] = 128
    rgba[:, 32:, 3] = 0
    frame = VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=layout)
    image = native(write_video(name, [frame], codec=codec))
    assert np.abs(image[:, :16] - (200, 100, 50)).max() <= 1
    assert np.abs(image[:, 16:32] - np.array((200, 100, 50)) * 128 / 255).max() <= 1
    assert image[:, 32:].max() == 0


def test_interlaced_is_deinterlaced(write_video: WriteVideo) -> None:
    # Two fields far apart in brightness: woven together, every second line jumps.
    rows = np.where(np.arange(64) % 2 == 0, 60, 190).astype(np.uint8)
    frames = []
    for level in range(6):
        frame = grey(0, 64, 64)
        luma = np.repeat(rows[:, None] + level, frame.planes[0].line_size, axis=1).astype(np.uint8)
        frame.planes[0].update(luma.tobytes())
        frames.append(frame)
    woven = write_video("p.mkv", frames, codec="libx264", options={"qp": "0"})
    options = {"qp": "0", "x264-params": "tff=1"}
    fields = write_video("i.mkv", frames, codec="libx264", options=options)

    def combing(path: Path) -> list[float]:
        images = [f.image.float() for f in read_frames(path, resize=None, crop=None)]
        return [float(i.diff(dim=0)[4:-4].abs().mean()) for i in images]

    assert min(combing(woven)) > 140
    assert len(combing(fields)) == 6
    assert max(combing(fields)) < 10


def test_interlaced_keeps_colour_and_turn(write_video: WriteVideo) -> None:
    frame = uniform((200, 60, 30), 0.2126, 0.0722, full=False)
    frame.colorspace, frame.color_range = 1, 1
    options = {"qp": "0", "x264-params": "tff=1"}
    for count in (1, 5):
        path = write_video("i.mp4", [frame] * count, codec="libx264", options=options)
        set_matrix(path, 0, 1, -1, 0)
        images = [f.image.numpy().astype(int) for f in read_frames(path, fps=None, resize=None, crop=None)]
        assert len(images) == count
        assert probe(path).rotation == 90
        for image in images:
            assert np.abs(image - (200, 60, 30)).max() <= 2


# Formats -----------------------------------------------------------------------------------------

FORMATS = {
    "v.mp4": ("libx264", "yuv420p"),
    "v.mov": ("libx264", "yuv420p"),
    "v.mkv": ("ffv1", "yuv420p"),
    "v.webm": ("libvpx-vp9", "yuv420p"),
    "v.avi": ("mpeg4", "yuv420p"),
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "v.gif": ("gif", "gray"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(write_video: WriteVideo, name: str) -> None:
    codec, layout = FORMATS[name]
    frames = [VideoReformatter().reformat(grey(20 * i), format=layout) for i in range(10)]
    path = write_video(name, frames, codec=codec, rate=10 if name == "v.gif" else 25)
    got = [number(f.image) for f in read_frames(path, fps=None)]
    assert got == pytest.approx([20 * i for i in range(10)], abs=2)
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (64, 48, 0)
    assert info.fps == pytest.approx(10 if name == "v.gif" else 25)
    assert info.path == path


def test_probe(write_video: WriteVideo) -> None:
    info = probe(write_video("v.mp4", [grey(0)] * 50, codec="libx264"))
    assert (info.codec, info.frames, info.fps, info.duration) == ("h264", 50, 25.0, 2.0)


# to_clip -----------------------------------------------------------------------------------------


def test_to_clip() -> None:
    frames = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    frames[0, 0, 0] = torch.tensor([0, 255, 51])
    clip = to_clip(frames)
    assert clip.shape == (3, 2, 4, 5)
    assert clip.dtype == torch.float32
    assert clip[:, 0, 0, 0].tolist() == pytest.approx([-1.0, 1.0, -0.6])
    torch.testing.assert_close(clip, frames.permute(3, 0, 1, 2).float() / 255 * 2 - 1)
    assert frames[0, 0, 0].tolist() == [0, 255, 51]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 4, 5, 3), torch.float32), ((4, 5, 3), torch.uint8), ((2, 3, 4, 5), torch.uint8)]
)
def test_to_clip_refuses(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"frames must be uint8 of shape \(T, H, W, 3\)"):
        to_clip(torch.zeros(shape, dtype=dtype))
