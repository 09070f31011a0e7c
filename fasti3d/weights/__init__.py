"""Public I3D weights by name, local ones by path, all under one set of names."""

from fasti3d.home import cache_dir
from fasti3d.weights.cache import get, verify
from fasti3d.weights.checkpoint import Checkpoint, load_into
from fasti3d.weights.errors import WeightsError
from fasti3d.weights.labels import KINETICS_400_LABELS
from fasti3d.weights.loading import Spec, convert, load, load_partial
from fasti3d.weights.published import Entry, registry

__all__ = [
    "KINETICS_400_LABELS",
    "Checkpoint",
    "Entry",
    "Spec",
    "WeightsError",
    "cache_dir",
    "convert",
    "get",
    "load",
    "load_into",
    "load_partial",
    "registry",
    "verify",
]
