"""Feature extraction: many videos to files, resumable, each row with its place in time.

An ``Extractor`` makes the output of one video, and can be pickled and sent elsewhere; a ``Job`` holds many,
and knows which are done; ``local`` brings the two together on this machine, ``on_ray`` on several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fasti3d.lazy import lazily

if TYPE_CHECKING:
    from fasti3d.extraction.api import Extraction, extract
    from fasti3d.extraction.dense_features import DenseFeatures
    from fasti3d.extraction.error_report import ErrorReport
    from fasti3d.extraction.extracting import Extractor, Outcome, extractor
    from fasti3d.extraction.feature_files import ConflictError, OutputError
    from fasti3d.extraction.job import Failure, Job, Tally
    from fasti3d.extraction.local import run
    from fasti3d.extraction.progress import Progress, Tracker
    from fasti3d.extraction.rows import Producer, Row, Rows, StoppedError, Watch
    from fasti3d.extraction.settings import ExtractionSettings
    from fasti3d.extraction.sources import Source, find_sources
    from fasti3d.extraction.window_features import WindowFeatures

__all__ = [
    "ConflictError",
    "DenseFeatures",
    "ErrorReport",
    "Extraction",
    "ExtractionSettings",
    "Extractor",
    "Failure",
    "Job",
    "Outcome",
    "OutputError",
    "Producer",
    "Progress",
    "Row",
    "Rows",
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
        "ConflictError": "fasti3d.extraction.feature_files",
        "DenseFeatures": "fasti3d.extraction.dense_features",
        "ErrorReport": "fasti3d.extraction.error_report",
        "extract": "fasti3d.extraction.api",
        "Extraction": "fasti3d.extraction.api",
        "ExtractionSettings": "fasti3d.extraction.settings",
        "Extractor": "fasti3d.extraction.extracting",
        "extractor": "fasti3d.extraction.extracting",
        "Failure": "fasti3d.extraction.job",
        "find_sources": "fasti3d.extraction.sources",
        "Job": "fasti3d.extraction.job",
        "Outcome": "fasti3d.extraction.extracting",
        "OutputError": "fasti3d.extraction.feature_files",
        "Producer": "fasti3d.extraction.rows",
        "Progress": "fasti3d.extraction.progress",
        "Row": "fasti3d.extraction.rows",
        "Rows": "fasti3d.extraction.rows",
        "run": "fasti3d.extraction.local",
        "Source": "fasti3d.extraction.sources",
        "StoppedError": "fasti3d.extraction.rows",
        "Tally": "fasti3d.extraction.job",
        "Tracker": "fasti3d.extraction.progress",
        "Watch": "fasti3d.extraction.rows",
        "WindowFeatures": "fasti3d.extraction.window_features",
    },
)
