"""Loads the compiled operators, if they were built, and describes them.

The CUDA ones come with fasti3d, or in a package of their own, fasti3d-cuda13 for CUDA 13.

Importing this module does not fail without them: every operator then runs its reference, and
``load_error`` says why.

FASTI3D_ISA=baseline|avx2|avx512|avx512_bf16|amx lowers the instruction set in use; each includes those
before it. Most CPUs with AVX-512 have ``avx512``. ``avx512_bf16`` adds the bfloat16 dot product, without
which bfloat16 convolutions run in float32, and ``amx`` matrix tiles for them. On aarch64 it is
baseline|neon|neon_bf16, the last for CPUs with FEAT_BF16. Any other value is an
``environment.SettingError``, at import.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import fasti3d
from fasti3d.utils.environment import wrong
from fasti3d.version import __version__

_CUDA_LIBRARIES = ("_C_cuda", "_C_sm90a")
_ARM = platform.machine() in ("aarch64", "arm64")
_ISAS = ("baseline", "neon", "neon_bf16") if _ARM else ("baseline", "avx2", "avx512", "avx512_bf16", "amx")


def _load(name: str) -> tuple[ModuleType | None, str | None]:
    """The module, or why it does not load; None and None if it was not built."""
    try:
        return importlib.import_module(f"fasti3d.{name}"), None
    except ModuleNotFoundError:
        return None, None
    except (ImportError, OSError) as error:
        likely = (
            "built for another Python or another C library, or torch is older than 2.11: "
            "reinstall with `pip install --no-build-isolation --force-reinstall fasti3d`"
        )
        return None, f"fasti3d.{name} does not load ({error}); it was probably {likely}"


def _wanted_isa() -> str | None:
    """FASTI3D_ISA, which is checked without an extension too."""
    isa = os.environ.get("FASTI3D_ISA")
    if isa and isa not in _ISAS:
        raise wrong("FASTI3D_ISA", isa, f"{', '.join(map(repr, _ISAS[:-1]))} or {_ISAS[-1]!r}")
    return isa


def _load_all() -> tuple[ModuleType | None, str | None]:
    isa = _wanted_isa()
    core, error = _load("_C")
    if core is not None:
        if isa:
            core.limit_isa(isa)
        if torch.version.cuda is not None:
            errors = [_find_cuda_libraries(), *(_load(name)[1] for name in _CUDA_LIBRARIES)]
            error = next(filter(None, errors), None)
    return core, error


def _find_cuda_libraries() -> str | None:
    """Makes those of the package for torch's CUDA modules of fasti3d, if it is there; or says why not."""
    package = f"fasti3d_cuda{str(torch.version.cuda).partition('.')[0]}"
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    version = importlib.metadata.version(package)
    if version != __version__:
        name = package.replace("_", "-")
        return (
            f"{name} is of version {version} and fasti3d of {__version__}: install the same of both, "
            f"`pip install {name}=={__version__}`"
        )
    fasti3d.__path__.append(str(Path(spec.origin).parent))
    return None


def cuda_libraries() -> list[Path]:
    """The files of the CUDA operators that there are, loaded or not."""
    return sorted(path for folder in fasti3d.__path__ for path in Path(folder).glob("_C_*"))


CORE, _ERROR = _load_all()


def build_info() -> dict[str, Any] | None:
    """What the extension was compiled with and for, or None where it was not built."""
    return None if CORE is None else CORE.build_info()


def load_error() -> str | None:
    """Why a part of the extension on disk does not load; None if it loads or was not built."""
    return _ERROR


def instruction_set() -> str | None:
    """The one in use, of those that FASTI3D_ISA may name; None without the extension."""
    return None if CORE is None else CORE.isa()


def has_bf16_dot() -> bool:
    """Whether bfloat16 convolutions run on the CPU's own instructions (AVX512_BF16, aarch64's FEAT_BF16)."""
    return CORE is not None and CORE.has_bf16_dot()


def has_amx_bf16() -> bool:
    """Whether the CPU has bfloat16 matrix tiles (AMX)."""
    return CORE is not None and CORE.has_amx_bf16()
