"""Whether an exported file computes what the network does, and how far from it its results are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasti3d.exporting.runtimes import RUNTIMES, Run

# Of the largest value of a result. Sums of a thousand products in another order are off by 1e-6 of it in
# float32; in half precision each of 20 layers rounds to 2**-11 or 2**-8.
LIMITS = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}


class ParityError(Exception):
    """An exported file does not compute what the network does, so it was not written."""


@dataclass(frozen=True)
class Comparison:
    """One run of an exported file beside the network.

    Attributes:
        runtime: which, with its version.
        clips: what the clips show: noise, or a name of a video.
        shape: of the first clip, (N, C, T, H, W).
        error: the largest difference from the network's result, as a part of that result's largest value.
    """

    runtime: str
    clips: str
    shape: tuple[int, ...]
    error: float


@dataclass(frozen=True)
class Skipped:
    """A runtime in which the file was not run, and why."""

    runtime: str
    why: str


Case = tuple[str, tuple[Tensor, ...]]


def compare(
    data: bytes, format: str, network: Callable[..., object], cases: Iterable[Case], limit: float
) -> tuple[list[Comparison], list[Skipped]]:
    """Run a file on clips in every installed runtime of its format, beside the network.

    Args:
        data: the file.
        format: onnx, torch-export or aoti.
        network: gives a tensor or several.
        cases: what the clips show, and the clips.
        limit: the largest error allowed.

    Raises:
        ParityError: the file does not run, or an error is above the limit.
    """
    running: list[tuple[str, Run]] = []
    skipped = []
    for runtime in RUNTIMES[format]:
        version = runtime.version()
        if version is None:
            skipped.append(Skipped(runtime.name, f"not installed: {runtime.install}"))
            continue
        name = f"{runtime.name} {version}"
        try:
            running.append((name, runtime.open(data)))
        except Exception as error:  # each has its own
            raise ParityError(f"{name} cannot load the exported file: {_line(error)}") from error
    found = []
    for title, clips in cases:
        with torch.no_grad():
            result = network(*clips)
        expected = [result] if isinstance(result, Tensor) else list(result)  # type: ignore[call-overload]
        for name, run in running:
            shape = tuple(clips[0].shape)
            try:
                actual = run(clips)
            except Exception as error:
                raise ParityError(
                    f"{name} cannot run the exported file at {shape}: {_line(error)}"
                ) from error
            comparison = Comparison(name, title, shape, _error(actual, expected))
            found.append(comparison)
            if not comparison.error <= limit:  # NaN is none
                raise ParityError(
                    f"the exported file is {comparison.error:.1e} off in {name} on {title} at {shape}, more "
                    f"than {limit:g} of the largest value: it was not written"
                )
    return found, skipped


def _error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of all results; NaN if they have other shapes, or are not finite."""
    errors = []
    for mine, theirs in zip(actual, expected, strict=True):
        if mine.shape != theirs.shape:
            return float("nan")
        scale = theirs.double().abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        errors.append(float((mine.double() - theirs.double()).abs().max() / scale))
    return float("nan") if any(e != e for e in errors) else max(errors)


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
