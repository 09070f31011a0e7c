"""fasti3d: the I3D video network (Carreira & Zisserman, CVPR 2017) on custom kernels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fasti3d import ops, reference
from fasti3d.i3d import I3D
from fasti3d.version import __version__

if TYPE_CHECKING:
    from fasti3d import compat, video, weights
    from fasti3d.classification import Classification, classify

__all__ = [
    "I3D",
    "Classification",
    "__version__",
    "classify",
    "compat",
    "ops",
    "reference",
    "video",
    "weights",
]

# Loaded when first used, so that importing the network does not wait for decoders and file formats.
_LAZY = {
    "Classification": "fasti3d.classification",
    "classify": "fasti3d.classification",
    "compat": None,
    "video": None,
    "weights": None,
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fasti3d' has no attribute {name!r}")
    home = _LAZY[name]
    value = (
        importlib.import_module(f"fasti3d.{name}")
        if home is None
        else getattr(importlib.import_module(home), name)
    )
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
