"""Whether a wheel holds what it should: all of the package and nothing else, and its metadata.

python wheels/check.py WHEEL...
"""

from __future__ import annotations

import re
import runpy
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = runpy.run_path(str(ROOT / "fasti3d" / "version.py"))["__version__"]
CUDA_LIBRARIES = {"fasti3d_cuda13/_C_cuda.abi3.so", "fasti3d_cuda13/_C_sm90a.abi3.so"}
# More bytes than a wheel has any reason for: debug information or somebody's library is in it.
MAX_BYTES = {"fasti3d": 4 << 20, "fasti3d_cuda13": 40 << 20}


class WrongWheel(SystemExit):
    """What is wrong with a wheel."""


def need(ok: bool, wheel: Path, fault: str) -> None:
    if not ok:
        raise WrongWheel(f"{wheel.name}: {fault}")


def look_into(wheel: Path, package: str, files: set[str], requires: tuple[str, ...]) -> str:
    """Checks names and metadata, and gives the tags of its file name."""
    name, _, tags = wheel.stem.partition(f"-{VERSION}-")
    need(name == package and bool(tags), wheel, f"is not of {package} {VERSION}")
    info = f"{package}-{VERSION}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = message_from_bytes(archive.read(info + "METADATA"))
    held = {name for name in names if not name.startswith(info)}
    need(files <= held, wheel, f"lacks {sorted(files - held)}")
    need(held <= files, wheel, f"has {sorted(held - files)} besides")
    need(any(name.endswith("/LICENSE") for name in names - held), wheel, "has no LICENSE")
    need(metadata["Version"] == VERSION, wheel, f"its metadata is of version {metadata['Version']}")
    need(metadata["Requires-Python"] == ">=3.10", wheel, f"wants Python {metadata['Requires-Python']}")
    needed = " ".join(metadata.get_all("Requires-Dist", []))
    for requirement in requires:
        need(requirement in needed, wheel, f"does not require {requirement}")
    size = wheel.stat().st_size
    need(size < MAX_BYTES[package], wheel, f"takes {size} bytes")
    print(f"{wheel.name}: {size / 1e6:.1f} MB, {len(held)} files")
    return tags


def package_files() -> set[str]:
    """Those of fasti3d in the tree, but for what was compiled there."""
    wanted = (".py", ".json", ".txt", "py.typed")
    found = (ROOT / "fasti3d").rglob("*")
    return {path.relative_to(ROOT).as_posix() for path in found if path.name.endswith(wanted)}


def pure(wheel: Path) -> None:
    """A wheel of a machine without a compiler."""
    tags = look_into(wheel, "fasti3d", package_files(), ("torch<3,>=2.11",))
    need(tags == "py3-none-any", wheel, "is tagged for a platform, but holds nothing that is compiled")


def cpu(wheel: Path) -> None:
    """fasti3d with the CPU kernels."""
    tags = look_into(wheel, "fasti3d", package_files() | {"fasti3d/_C.abi3.so"}, ("torch<3,>=2.11",))
    need(is_portable(tags), wheel, "is not for every Python from 3.10 on and glibc from 2.28 on")


def cuda(wheel: Path) -> None:
    """The CUDA kernels alone."""
    files = CUDA_LIBRARIES | {"fasti3d_cuda13/__init__.py"}
    tags = look_into(wheel, "fasti3d_cuda13", files, (f"fasti3d=={VERSION}",))
    need(is_portable(tags), wheel, "is not for every Python from 3.10 on and glibc from 2.28 on")


def is_portable(tags: str) -> bool:
    found = re.match(r"cp310-abi3-manylinux_2_(\d+)_(x86_64|aarch64)\b", tags)
    return found is not None and int(found[1]) <= 28


def main(*wheels: str) -> None:
    for wheel in map(Path, wheels):
        if wheel.name.startswith("fasti3d_cuda13"):
            cuda(wheel)
        else:
            (pure if wheel.name.endswith("any.whl") else cpu)(wheel)


if __name__ == "__main__":
    main(*sys.argv[1:])
