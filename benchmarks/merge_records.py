"""Puts records of one run into one: ``python benchmarks/merge_records.py A.json B.json --output C.json``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
# In these, or the times do not compare.
SAME = ("gpu", "tuned", "torch", "triton", "cuda", "cudnn")


def merge(records: Sequence[Record]) -> Record:
    """The first record with the rows of all.

    Raises:
        ValueError: there is none, or they are of several machines or releases.
    """
    if not records:
        raise ValueError("there is no record")
    ours = [record["machine_info"]["fasti3d"] for record in records]
    for name in SAME:
        if len(values := {machine[name] for machine in ours}) > 1:
            raise ValueError(f"the records differ in {name}: {', '.join(map(str, values))}")
    return records[0] | {"benchmarks": [row for record in records for row in record["benchmarks"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("records", type=Path, nargs="*")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        merged = merge([json.loads(path.read_text()) for path in args.records])
    except (OSError, ValueError) as error:
        sys.exit(f"no record in {args.output}: {error}")
    temporary = args.output.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(merged, indent=1))
    os.replace(temporary, args.output)


if __name__ == "__main__":
    main()
