"""Stores the verdict on each subject for this GPU, driver and releases, beside the weights' cache."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fasti3d.proof.subject import Subject
from fasti3d.utils.cache_dir import cache_dir
from fasti3d.utils.files import write_atomically

# ``broken``: it does not compile or launch, but may in another process.
Kind = Literal["good", "wrong", "broken", "crashed", "hung"]


class Verdict(NamedTuple):
    """The verdict on a subject, with its date; ``fault`` is empty if it is good."""

    title: str
    kind: Kind
    fault: str
    date: str

    @staticmethod
    def on(subject: Subject, kind: Kind, fault: str = "") -> Verdict:
        return Verdict(subject.title, kind, fault, date.today().isoformat())


class Environment(NamedTuple):
    """The environment of a verdict. ``kernels`` is a digest of the operators' source."""

    gpu: str
    capability: str
    driver: str
    torch: str
    triton: str
    fasti3d: str
    kernels: str

    @property
    def file_name(self) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return f"{name}-{hashlib.sha256(json.dumps(self).encode()).hexdigest()[:12]}.json"

    def __str__(self) -> str:
        return (
            f"{self.gpu}, compute capability {self.capability}, driver {self.driver}, torch {self.torch}, "
            f"triton {self.triton}, fasti3d {self.fasti3d}"
        )


class Verdicts:
    """The verdicts of one environment, shared by threads and processes.

    If the cache cannot be written, they last as long as the process.
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._lock = threading.Lock()
        self._found: dict[str, Verdict] = dict(self._read())
        # A kernel that does not build in one process may in the next: its verdict is shown, and tried again.
        self._stale = {key for key, verdict in self._found.items() if verdict.kind == "broken"}

    @property
    def path(self) -> Path | None:
        """The file; None if the user's folders are unknown."""
        try:
            return cache_dir() / "proofs" / self.environment.file_name
        except (ImportError, RuntimeError):
            return None

    def get(self, subject: Subject) -> Verdict | None:
        """Return the verdict on a subject, if there is one."""
        return None if subject.key in self._stale else self._found.get(subject.key)

    def all(self) -> Mapping[str, Verdict]:
        """Return all verdicts by the subjects' keys."""
        with self._lock:
            return dict(self._found)

    def add(self, subject: Subject, verdict: Verdict) -> None:
        """Add a verdict, and write it to the file if possible."""
        with self._lock:
            self._found[subject.key] = verdict
            self._stale.discard(subject.key)
            path = self.path
            if path is None:
                return
            # Other processes write the file too.
            self._found = {**self._read(), **self._found}
            data = {
                "environment": self.environment._asdict(),
                "verdicts": {key: verdict._asdict() for key, verdict in sorted(self._found.items())},
            }
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, json.dumps(data, indent=1).encode())
            except OSError:
                pass

    def _read(self) -> dict[str, Verdict]:
        path = self.path
        try:
            data: Any = json.loads(path.read_bytes()) if path is not None else {}
            if data.get("environment") != self.environment._asdict():
                return {}
            return {key: Verdict(**one) for key, one in data["verdicts"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}
