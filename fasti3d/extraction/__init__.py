"""Feature extraction: many videos to files, resumable, each row with its place in time.

One video is ``Extractor``'s, which can be pickled and sent elsewhere; many are a ``Job``, which knows what
is to do and what became of it; ``local`` brings the two together on this machine, ``on_ray`` on many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.extraction.api import Extraction, extract
    from fasti3d.extraction.dense import DenseFeatures
    from fasti3d.extraction.errors import ErrorReport
    from fasti3d.extraction.extracting import Extractor, Outcome, extractor
    from fasti3d.extraction.job import Failure, Job, Tally
    from fasti3d.extraction.local import run
    from fasti3d.extraction.output import ConflictError, OutputError
    from fasti3d.extraction.progress import Progress, Tracker
    from fasti3d.extraction.rows import Producer, Row, Rows, StoppedError, Watch
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

# Loaded when first used, so that settings can be checked without torch.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "ConflictError": "fasti3d.extraction.output",
        "DenseFeatures": "fasti3d.extraction.dense",
        "ErrorReport": "fasti3d.extraction.errors",
        "extract": "fasti3d.extraction.api",
        "Extraction": "fasti3d.extraction.api",
        "Extractor": "fasti3d.extraction.extracting",
        "extractor": "fasti3d.extraction.extracting",
        "Failure": "fasti3d.extraction.job",
        "find_sources": "fasti3d.extraction.sources",
        "Job": "fasti3d.extraction.job",
        "Outcome": "fasti3d.extraction.extracting",
        "OutputError": "fasti3d.extraction.output",
        "Producer": "fasti3d.extraction.rows",
        "Progress": "fasti3d.extraction.progress",
        "Row": "fasti3d.extraction.rows",
        "Rows": "fasti3d.extraction.rows",
        "run": "fasti3d.extraction.local",
        "Settings": "fasti3d.extraction.settings",
        "Source": "fasti3d.extraction.sources",
        "StoppedError": "fasti3d.extraction.rows",
        "Tally": "fasti3d.extraction.job",
        "Tracker": "fasti3d.extraction.progress",
        "Watch": "fasti3d.extraction.rows",
        "WindowFeatures": "fasti3d.extraction.windows",
    },
)
