"""Feature extraction: many videos to files, resumable, each row with its place in time.

One video is ``Extractor``'s, which can be pickled and sent elsewhere; many are a ``Job``, which knows what
is to do and what became of it; ``run`` brings the two together on this machine, ``on_ray`` on many.
"""

from fasti3d.extraction.api import Extraction, extract
from fasti3d.extraction.dense import DenseFeatures
from fasti3d.extraction.errors import ErrorReport
from fasti3d.extraction.extractor import Extractor, Outcome, extractor
from fasti3d.extraction.job import Failure, Job, Tally
from fasti3d.extraction.output import ConflictError, OutputError
from fasti3d.extraction.progress import Progress, Tracker
from fasti3d.extraction.rows import Producer, Row, Rows, StoppedError, Watch
from fasti3d.extraction.run import run
from fasti3d.extraction.settings import Settings
from fasti3d.extraction.sources import Source, find_sources
from fasti3d.extraction.windows import WindowFeatures

__all__ = [
    "ConflictError",
    "DenseFeatures",
    "ErrorReport",
    "Extraction",
    "Extractor",
    "Failure",
    "Job",
    "Outcome",
    "OutputError",
    "Producer",
    "Progress",
    "Row",
    "Rows",
    "Settings",
    "Source",
    "StoppedError",
    "Tally",
    "Tracker",
    "Watch",
    "WindowFeatures",
    "extract",
    "extractor",
    "find_sources",
    "run",
]
