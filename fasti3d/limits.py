"""Limits on what is read of a video: a few bytes can ask for years of frames, or gigabytes for one."""

from __future__ import annotations

# Frames per second that can be asked for.
MIN_FPS, MAX_FPS = 1e-6, 1e6

# How often one picture is repeated: for 13 minutes at 25 frames per second, such as a screen recording rests.
MAX_REPEATS = 20_000
# All pictures of a video together are repeated MAX_REPEATS times, and so many times more for each of them.
REPEATS_PER_PICTURE = 100
# How long, in seconds, the last picture is shown, whose end no other picture confirms.
MAX_LAST = 60.0

# The longest side that frames can be asked to have.
MAX_SIDE = 8192
# So many pixels a frame may have, stored or scaled: 8192x8192, the largest of video in use.
MAX_PIXELS = MAX_SIDE**2
# Frames whose sides differ more than this on a screen are broken, and would only be huge when scaled.
MAX_PROPORTION = 32


def check_arguments(fps: float | None, resize: int | None, crop: int | None) -> None:
    """ValueError for what ``fasti3d.video.read_frames`` cannot do."""
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
