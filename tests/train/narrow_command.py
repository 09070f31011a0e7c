"""The command line with few channels and short clips: what a test starts as a process of its own."""

from __future__ import annotations

import torch
from short_clips import shortened

from fasti3d.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    with shortened():
        main()
