"""The flow of a video in files: one per pair of frames, arrays, a colour video, or bytes for training.

The next run with the same settings continues work that was cut short, even by a kill, and the files are
then those of one undisturbed run, byte for byte. For that, each kind of output keeps what is finished in a
folder, beside a record of the settings it was made with.
"""

from fasti3d.flow.export.cache import CacheOutput
from fasti3d.flow.export.flow_output import ExportError, FlowOutput
from fasti3d.flow.export.folder import FolderOutput
from fasti3d.flow.export.npz import NpzOutput
from fasti3d.flow.export.run import Exported, export
from fasti3d.flow.export.settings import Kind, Options, settings_of
from fasti3d.flow.export.video import VideoOutput

__all__ = [
    "CacheOutput",
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
