"""Reads video: decoding, sampling by time stamps, the RGB preset of I3D, sliding windows."""

from fasti3d.video.count import count_frames
from fasti3d.video.errors import VideoError, VideoWarning
from fasti3d.video.probe import VideoInfo, probe
from fasti3d.video.read import Frame, read_frames
from fasti3d.video.transform import to_clip
from fasti3d.video.windows import Window, windows

__all__ = [
    "Frame",
    "VideoError",
    "VideoInfo",
    "VideoWarning",
    "Window",
    "count_frames",
    "probe",
    "read_frames",
    "to_clip",
    "windows",
]
