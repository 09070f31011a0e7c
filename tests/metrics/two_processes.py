"""A program in two processes that meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from waiting import PATIENCE


def results_of(program: str, meeting: Path) -> list[Any]:
    """What each process prints last, as JSON; its arguments are its rank and the file ``meeting``."""
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(folder.parents[1]), os.environ.get("PYTHONPATH", "")])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), str(meeting)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    results = []
    for worker in workers:
        out, errors = worker.communicate(timeout=PATIENCE)
        assert worker.returncode == 0, errors
        results.append(json.loads(out.splitlines()[-1]))
    return results
