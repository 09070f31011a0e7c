"""A seeded campaign over all operators, instruction sets and random shapes, hostile arguments included.

    PYTHONPATH=tests:tests/ops python tests/campaign/campaign.py CASES SEED [FOLDER]

Every case is compared with its reference or with the error that it must raise. FOLDER is where the package
must have come from. ``make sanitize`` runs it under GCC's sanitizers.
"""

from __future__ import annotations

import faulthandler
import random
import sys
import traceback
from collections import Counter
from pathlib import Path

import torch
from cases import KINDS
from hostile import hostile

from fasti3d.runtime import extension

WEIGHTS = KINDS | {hostile: 16}


def instruction_sets() -> list[str]:
    """Those that the CPU has, as far as FASTI3D_ISA goes."""
    if extension.CORE is None:
        return []
    names = list(extension.CORE.build_info()["instruction_sets"])
    return names[: names.index(extension.CORE.isa()) + 1]


def run(cases: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How many cases of which kind ran with which instructions, and what went wrong."""
    count: Counter[str] = Counter()
    wrong = []
    sets, threads = instruction_sets(), torch.get_num_threads()
    try:
        for index in range(cases):
            pick = random.Random(f"{seed} {index}")
            torch.manual_seed(pick.randrange(2**32))
            (kind,) = pick.choices(list(WEIGHTS), list(WEIGHTS.values()))
            isa = pick.choice(sets) if sets else "reference"
            if extension.CORE is not None:
                extension.CORE.limit_isa(isa)
            torch.set_num_threads(pick.choice((1, 2, 3)))
            count[f"{kind.__name__} {isa}"] += 1
            try:
                kind(pick)
            except Exception:
                wrong.append(f"case {index} of seed {seed}: {kind.__name__} {isa}\n{traceback.format_exc()}")
    finally:
        torch.set_num_threads(threads)
        if extension.CORE is not None:
            extension.CORE.limit_isa(sets[-1])
    return count, wrong


def main(cases: str, seed: str, folder: str | None = None) -> int:
    faulthandler.enable()
    assert extension.CORE is not None, extension.load_error() or "the extension was not built"
    path = Path(extension.CORE.__file__)
    if folder is not None and Path(folder) not in path.parents:
        raise SystemExit(f"campaign: the extension is {path}, not from {folder}")
    count, wrong = run(int(cases), int(seed))
    print(*wrong, sep="\n")
    print(", ".join(f"{kind}: {number}" for kind, number in sorted(count.items())))
    print(f"campaign: {count.total()} cases of seed {seed}, {len(wrong)} wrong", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
