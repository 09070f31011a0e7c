"""Torch's own formats of exported programs: its archive, and a compiled package."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import torch
from torch.export import ExportedProgram


def to_archive(program: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """Return the file of ``torch.export.save``, with metadata as extra files, KEY.json."""
    file = io.BytesIO()
    extra = {f"{key}.json": text for key, text in metadata.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files=extra)
    return file.getvalue()


def to_package(program: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """Return the package that AOTInductor compiles of a program.

    Raises:
        OSError: the compiler fails.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch._inductor.aoti_compile_and_package(
                program, package_path=file, inductor_configs={"aot_inductor.metadata": dict(metadata)}
            )
        except torch._inductor.exc.CppCompileError as error:
            line = next(iter(str(error).strip().splitlines()), "")
            raise OSError(f"the C++ compiler fails on what AOTInductor writes: {line}") from error
    return file.getvalue()
