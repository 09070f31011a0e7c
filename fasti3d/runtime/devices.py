"""Devices and dtypes by the names that users give them."""

from __future__ import annotations

import torch

from fasti3d.choices import check_device, check_dtype

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` (a GPU if torch finds one, else the CPU), ``cpu``, ``cuda`` or
    ``cuda:N``.

    Raises:
        ValueError: any other name, or a GPU that torch does not find.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = str(name)
    check_device(name)
    kind, _, index = name.partition(":")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not available: torch finds {torch.cuda.device_count()} GPUs; "
            "use cpu, or see `fasti3d doctor`"
        )
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of a name: ``auto`` (float16 on a GPU, float32 on a CPU), ``float32``, ``bfloat16`` or
    ``float16``.

    Raises:
        ValueError: any other name.
    """
    # On a CPU with instructions for it bfloat16 is faster, but it changes probabilities by up to 0.03 and
    # swaps close classes, so it must be asked for.
    check_dtype(name)
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    return DTYPES[name]
