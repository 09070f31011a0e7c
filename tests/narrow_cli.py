"""The command line, where the network has few channels: what a test starts as a process of its own."""

from __future__ import annotations

from i3d_making import narrowed

from fasti3d.cli import main

if __name__ == "__main__":
    with narrowed():
        main()
