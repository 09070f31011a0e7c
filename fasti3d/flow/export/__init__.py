"""The flow of a video in files: one a pair, arrays, or a colour video.

Work that is cut short, even by a kill, is taken up by the next run with the same settings, and the files
are then those of one undisturbed run, byte for byte. For that, each kind of output keeps what is finished
in a folder, beside a record of the settings it was made with.
"""

from fasti3d.flow.export.folder import FolderOutput
from fasti3d.flow.export.npz import NpzOutput
from fasti3d.flow.export.output import ExportError, Output
from fasti3d.flow.export.run import Exported, export
from fasti3d.flow.export.settings import Kind, Options, Settings, settings_of
from fasti3d.flow.export.video import VideoOutput

__all__ = [
    "ExportError",
    "Exported",
    "FolderOutput",
    "Kind",
    "NpzOutput",
    "Options",
    "Output",
    "Settings",
    "VideoOutput",
    "export",
    "settings_of",
]
