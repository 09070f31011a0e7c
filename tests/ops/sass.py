"""The loops of compiled kernels, instruction by instruction: what the assembler made, without a GPU."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import triton

_NVDISASM = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+\s+)?([^;]*?)\s*;")
_BRANCH = re.compile(r"^BRA\S*\s.*?\(?(\.L_x_\d+)\)?")


def main_loop(cubin: bytes, product: str) -> list[str]:
    """The instructions of the shortest loop that has a matrix product (the start of its name).

    Waits that loop by themselves are in it as they stand.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_NVDISASM, "-c", file.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    labels: dict[str, int] = {}
    found: list[str] = []
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif instruction := _INSTRUCTION.match(line):
            found.append(instruction[1])
    loops = []
    for end, instruction in enumerate(found):
        target = _BRANCH.match(instruction)
        if target and labels.get(target[1], end + 1) <= end:
            body = found[labels[target[1]] : end + 1]
            if any(it.startswith(product) for it in body):
                loops.append(body)
    return min(loops, key=len)
