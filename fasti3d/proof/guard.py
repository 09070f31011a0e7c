"""Decides whether an operator may launch a kernel, and runs PyTorch's own computation otherwise."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import threading
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fasti3d.proof.subject import Subject
from fasti3d.proof.verdicts import Environment, Verdict, Verdicts
from fasti3d.proof.worker import Worker, WorkerError
from fasti3d.runtime import extension
from fasti3d.version import __version__

# Operators whose kernels Triton does not compile at their first launch.
_COMPILED_AHEAD = ("tvl1", "conv3d_slab", "pooled_conv3d_slab")
_TRITON = Subject.of("triton", "Triton")
_PACKAGE = Path(__file__).parent.parent


class SelfCheckWarning(RuntimeWarning):
    """A kernel is not used on this GPU, since it is not correct there."""


def is_off() -> bool:
    """Whether the user turned proofs off."""
    return os.environ.get("FASTI3D_SELF_CHECK") == "0"


def concerns(device: torch.device) -> bool:
    """Whether kernels on this device are proved first."""
    return device.type == "cuda" and not is_off()


class Guard:
    """The verdicts on the kernels of one device. Threads may share it."""

    def __init__(self, device: torch.device, environment: Environment) -> None:
        self.device = device
        self.verdicts = Verdicts(environment)
        self._lock = threading.RLock()
        self._known: dict[Hashable, tuple[bool, Subject]] = {}
        self._worker: Worker | None = None
        self._alone = False
        self._warned = False
        # Why Triton runs no kernel in this process.
        self.triton_fault: str | None = None

    def allows(self, key: Hashable, subject: Callable[[], Subject]) -> bool:
        """Whether a kernel may be launched; ``subject`` is called at the first use of ``key``."""
        known = self._known.get(key)
        if known is None:
            with self._lock:
                known = self._known.get(key) or self._find(key, subject())
        return known[0]

    def condemn(self, key: Hashable, error: BaseException) -> None:
        """Record that an allowed kernel does not run after all."""
        _, subject = self._known[key]
        with self._lock:
            self._known[key] = False, subject
            self._judge(subject, Verdict.on(subject, "broken", one_line(error)))

    def prove(self, subject: Subject) -> Verdict | None:
        """Prove a subject again; None if that is not possible now."""
        with self._lock:
            kind, fault = self._ask(subject)
            if kind == "unsure":
                return None
            verdict = Verdict.on(subject, kind, fault)  # type: ignore[arg-type]
            self._judge(subject, verdict)
            return verdict

    def _find(self, key: Hashable, subject: Subject) -> tuple[bool, Subject]:
        if self.triton_fault and subject.operator not in _COMPILED_AHEAD:
            return False, subject
        verdict = self.verdicts.get(subject)
        if verdict is None:
            verdict = self.prove(subject)
            if verdict is None:
                return False, subject  # for this once
        elif verdict.kind != "good":
            self._warn(verdict)
        self._known[key] = verdict.kind == "good", subject
        return self._known[key]

    def _judge(self, subject: Subject, verdict: Verdict) -> None:
        self.verdicts.add(subject, verdict)
        if verdict.kind != "good":
            self._warn(verdict)
        if verdict.kind == "broken" and not self.triton_fault and subject.operator not in _COMPILED_AHEAD:
            # Does one kernel fail, or all, for lack of a compiler or of support for the architecture?
            kind, fault = self._ask(_TRITON)
            if kind not in ("good", "unsure"):
                self.triton_fault = fault
                self.verdicts.add(_TRITON, Verdict.on(_TRITON, kind, fault))  # type: ignore[arg-type]

    def _warn(self, verdict: Verdict) -> None:
        """Warn once per process: if one kernel fails, many do, for one reason."""
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"{verdict.title} is not used on this GPU ({verdict.kind}: {verdict.fault}): PyTorch's own runs "
            f"in its place, slower. Please report this, with what `fasti3d doctor` lists: "
            f"{self.verdicts.environment}",
            SelfCheckWarning,
            stacklevel=2,
        )

    def _ask(self, subject: Subject) -> tuple[str, str]:
        if not self._alone:
            try:
                if self._worker is None or not self._worker.alive:
                    self._worker = Worker(str(self.device))
                return self._worker.ask(subject)
            except WorkerError:
                self._alone = True
        return self._ask_here(subject)

    def _ask_here(self, subject: Subject) -> tuple[str, str]:
        """Prove in this process, if no other one can be started, or the GPU takes only one."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "unsure", ""
        # Imported here, since it imports the operators, which import this module.
        from fasti3d.proving import prove

        return prove(subject, self.device)


_guards: dict[torch.device, Guard] = {}
_guards_lock = threading.Lock()


def guard_of(device: torch.device) -> Guard:
    """Return the guard of a CUDA device; without an index, of the current one."""
    device = _with_index(device)
    found = _guards.get(device)
    if found is None:
        with _guards_lock:
            found = _guards.setdefault(device, Guard(device, environment(device)))
    return found


def triton_fault(device: torch.device) -> str | None:
    """Why Triton runs no kernel on a CUDA device, as far as is known by now."""
    found = _guards.get(_with_index(device)) if _guards and not is_off() else None
    return found.triton_fault if found else None


def _with_index(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


_collecting = threading.local()


@contextmanager
def collected() -> Iterator[dict[str, Subject]]:
    """Collect the subjects of the kernels that this thread would launch, by key; PyTorch runs instead."""
    found: dict[str, Subject] = {}
    _collecting.found = found
    try:
        yield found
    finally:
        del _collecting.found


@contextmanager
def unproved() -> Iterator[None]:
    """Let this thread run kernels without a proof, where none is really launched."""
    _collecting.unproved = True
    try:
        yield
    finally:
        del _collecting.unproved


def guarded(
    device: torch.device,
    key: Hashable,
    subject: Callable[[], Subject],
    kernel: Callable[[], Any],
    plain: Callable[[], Any],
    *,
    compiles: bool = True,
) -> Any:
    """Run ``kernel`` if it is proved, else ``plain``, which is PyTorch's own computation.

    Args:
        device: of the kernel.
        key: identifies the subject, and is faster to make.
        subject: describes what to prove.
        kernel, plain: the two computations.
        compiles: whether the kernel may have to be compiled; errors of other kernels are raised.
    """
    if (found := getattr(_collecting, "found", None)) is not None:
        its_subject = subject()
        found[its_subject.key] = its_subject
        return plain()
    if not concerns(device) or getattr(_collecting, "unproved", False):
        return kernel()
    its = guard_of(device)
    if its.allows(key, subject):
        try:
            return kernel()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler, a linker, a launch
            if not compiles:
                raise
            its.condemn(key, error)
    return plain()


def environment(device: torch.device) -> Environment:
    """The environment that verdicts on a CUDA device are valid for."""
    its = torch.cuda.get_device_properties(device)
    return Environment(
        its.name, f"{its.major}.{its.minor}", _driver(), torch.__version__, _triton(), __version__, _kernels()
    )


def _driver() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text().split("Module")[1].split()[0]
    except (OSError, IndexError):
        return f"for CUDA {getattr(torch._C, '_cuda_getDriverVersion', int)()}"


def _triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"


@cache
def _kernels() -> str:
    """What the kernels are made of: their sources in Python, and the libraries that nvcc made."""
    digest = hashlib.sha256()
    for path in sorted((_PACKAGE / "ops").rglob("*.py")):
        digest.update(path.read_bytes())
    for path in extension.cuda_libraries():
        made = path.stat()  # to read them takes longer
        digest.update(f"{path.name} {made.st_size} {made.st_mtime_ns}".encode())
    return digest.hexdigest()[:12]


def one_line(error: BaseException) -> str:
    """An error on one line; those of compilers have many."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}"
