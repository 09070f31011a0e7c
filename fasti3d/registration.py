"""``torch.ops.fasti3d`` exists as soon as both fasti3d and torch are imported, in either order.

``import fasti3d`` does not import torch itself, so that the command line answers at once.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# The parts of the package that the network does not import: it can be imported in the middle of them.
ABOVE_THE_NETWORK = {
    *("catalog", "classification", "cli", "compat", "dense", "extraction", "flow"),
    *("backbone", "fusion", "inflate", "metrics", "two_stream", "video", "video_resnet", "weights"),
}


def register_operators() -> None:
    """Registers every operator, now where torch is there, else at the end of its import."""
    if sys.modules.get("torch") is None:
        if not any(isinstance(finder, _TorchFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _TorchFinder())
    elif not _below_the_network():
        import fasti3d.i3d  # noqa: F401


def _below_the_network() -> bool:
    """Whether a module that the network may need is being imported: it cannot be used yet."""
    return any(
        name.startswith("fasti3d.")
        and name.split(".")[1] not in ABOVE_THE_NETWORK
        and getattr(getattr(module, "__spec__", None), "_initializing", False)  # None hides a module
        for name, module in list(sys.modules.items())
    )


class _TorchFinder(MetaPathFinder):
    """Finds torch once, as the others do, and registers the operators at the end of its import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        loader, execute = spec.loader, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class's own is back
            execute(module)
            # An error would leave torch half imported. It comes back where fasti3d is first used.
            with suppress(Exception):
                register_operators()

        loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
