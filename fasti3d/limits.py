"""Limits on what is read of a video: a few bytes can declare years of frames, or gigabytes for one."""

from __future__ import annotations

# Frames per second that can be asked for.
MIN_FPS, MAX_FPS = 1e-6, 1e6

# Max repeats of one picture: 13 minutes at 25 frames per second, as in a screen recording.
MAX_REPEATS = 20_000
# All pictures of a video together are repeated MAX_REPEATS times, plus this many times per picture.
REPEATS_PER_PICTURE = 100
# Max seconds of the last picture, whose end no other picture confirms.
MAX_LAST = 60.0

# Max side of frames that can be requested.
MAX_SIDE = 8192
# Max pixels of a frame, stored or scaled: 8192x8192, the maximum of video in use.
MAX_PIXELS = MAX_SIDE**2
# Max ratio of a frame's sides as shown; beyond it a frame is broken, and would be huge when scaled.
MAX_PROPORTION = 32


def check_arguments(fps: float | None, resize: int | None, crop: int | None) -> None:
    """Raise a ValueError for arguments that ``fasti3d.video.read_frames`` does not take."""
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        raise ValueError(
            f"fps must be a positive number, from {MIN_FPS:g} to {MAX_FPS:g}, or None for the video's own "
            f"rate, got {fps}"
        )
    for name, value in (("resize", resize), ("crop", crop)):
        if value is not None and not 1 <= value <= MAX_SIDE:
            raise ValueError(f"{name} must be at least 1 pixel and at most {MAX_SIDE}, or None, got {value}")
    if resize is not None and crop is not None and crop > resize:
        raise ValueError(f"crop must be at most resize={resize}, got {crop}")
