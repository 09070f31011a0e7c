"""The process that compiles some kernels, without a GPU."""

from __future__ import annotations

import contextlib
import json
import sys

from fasti3d.runtime.builds import Build, parsed


def serve() -> None:
    """Compile the kernels that come as JSON on stdin; one that fails is left to its launch."""
    import triton

    for fields in json.load(sys.stdin):
        with contextlib.suppress(Exception):
            module, name, target, data = fields
            source, where, options = parsed(Build(module, name, tuple(target), data))
            triton.compile(source, target=where, options=options)
