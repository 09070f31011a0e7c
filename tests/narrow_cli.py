"""The command line, where the network has few channels: what a test starts as a process of its own."""

from __future__ import annotations

from i3d_making import NARROW

from fasti3d import network
from fasti3d.cli import main

if __name__ == "__main__":
    network.TRUNK = NARROW
    network.FEATURE_CHANNELS = NARROW["Mixed_5c"].out_channels  # type: ignore[union-attr]
    main()
