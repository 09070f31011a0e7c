"""The flow of a video in files: one per pair of frames, arrays, or a colour video.

The next run with the same settings continues work that was cut short, even by a kill, and the files are
then those of one undisturbed run, byte for byte. For that, each kind of output keeps what is finished in a
folder, beside a record of the settings it was made with.
"""

from fasti3d.flow.export.flow_output import ExportError, FlowOutput
from fasti3d.flow.export.folder import FolderOutput
from fasti3d.flow.export.npz import NpzOutput
from fasti3d.flow.export.run import Exported, export
from fasti3d.flow.export.settings import Kind, Options, settings_of
from fasti3d.flow.export.video import VideoOutput

__all__ = [
    "ExportError",
    "Exported",
    "FlowOutput",
    "FolderOutput",
    "Kind",
    "NpzOutput",
    "Options",
    "VideoOutput",
    "export",
    "settings_of",
]
