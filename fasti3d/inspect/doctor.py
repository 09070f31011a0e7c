"""What this machine will run and why: versions, the extension, paths, known problems, weights."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fasti3d import weights
from fasti3d.ops.conv3d_bn_relu import tables
from fasti3d.ops.tvl1 import has_kernel
from fasti3d.proof import guard
from fasti3d.proof.verdicts import Verdicts
from fasti3d.runtime import extension
from fasti3d.runtime.route import route as route_of
from fasti3d.version import __version__

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# What fast CPU code asks for, as Linux spells it: x86-64, then aarch64.
_CPU_FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
)


@dataclass(frozen=True)
class Extension:
    """The compiled part: ``state`` is ``loaded``, ``not built`` or ``broken``; ``remedy`` says what to do."""

    state: str
    build: dict[str, Any] | None
    error: str | None
    remedy: str | None


@dataclass(frozen=True)
class Cpu:
    """The CPU: the widest instruction sets in use, and ``features`` it says it has (Linux only)."""

    model: str
    cores: int
    threads: int
    fasti3d_isa: str | None
    torch_isa: str
    features: tuple[str, ...]


@dataclass(frozen=True)
class GpuReport:
    """One GPU that torch finds; ``memory`` in bytes."""

    device: str
    name: str
    capability: str
    memory: int


@dataclass(frozen=True)
class RouteReport:
    """The path that an I3D on ``device`` in ``dtype`` takes without gradients, and why."""

    device: str
    dtype: str
    path: str
    compute_dtype: str
    why: str


@dataclass(frozen=True)
class TunedTable:
    """A table of measured kernel configurations in use on ``device``; ``recorded``: with what, and when.

    Of the ``entries`` so many as ``over_slabs`` are convolutions that are faster over slabs.
    """

    device: str
    path: str
    entries: int
    over_slabs: int
    recorded: dict[str, str]


@dataclass(frozen=True)
class FlowPath:
    """How TV-L1 optical flow is computed on ``device``: ``compiled`` or ``reference``, and why."""

    device: str
    path: str
    why: str


@dataclass(frozen=True)
class Proof:
    """What was found of a kernel on ``device``, and when: ``kind`` is ``good``, ``wrong``, ``broken`` (it
    does not compile or launch), ``crashed`` or ``hung``. All but good ones are left to PyTorch.
    """

    device: str
    kernel: str
    kind: str
    fault: str
    date: str


@dataclass(frozen=True)
class CachedFile:
    """A file in the cache; ``size`` in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Diagnosis:
    """Everything ``fasti3d doctor`` prints. ``versions`` has None for what is not installed."""

    versions: dict[str, str | None]
    extension: Extension
    cpu: Cpu
    gpus: tuple[GpuReport, ...]
    routes: tuple[RouteReport, ...]
    tuned: tuple[TunedTable, ...]
    flow: tuple[FlowPath, ...]
    proofs: tuple[Proof, ...]
    self_check: bool
    problems: tuple[str, ...]
    home: str
    home_from: str
    cache: tuple[CachedFile, ...]

    @property
    def healthy(self) -> bool:
        """False where something is broken, not merely absent."""
        return self.extension.state != "broken"


def diagnose() -> Diagnosis:
    """Looks at this machine; changes nothing and takes no network."""
    cudnn = torch.backends.cudnn.version() if torch.version.cuda else None
    home = weights.cache_dir()
    tuned, refused = _tuned()
    return Diagnosis(
        versions={
            "fasti3d": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _installed("triton"),
            "cuda": torch.version.cuda,
            "cudnn": _dotted(cudnn),
        },
        extension=_extension(),
        cpu=_cpu(),
        gpus=_gpus(),
        routes=_routes(),
        tuned=tuned,
        flow=_flow(),
        proofs=_proofs(),
        self_check=not guard.is_off(),
        problems=(*known_problems(torch.__version__, cudnn), *refused),
        home=str(home),
        home_from="FASTI3D_HOME" if os.environ.get("FASTI3D_HOME") else "default",
        cache=_cached(home),
    )


def known_problems(torch_version: str, cudnn: int | None) -> tuple[str, ...]:
    """What is known to go wrong with half-precision conv3d in this pair; pure.

    Args:
        torch_version: e.g. ``2.9.0+cu128``.
        cudnn: as ``torch.backends.cudnn.version()`` gives it, e.g. 91002 for 9.10.2; None without cuDNN.

    Only what still runs through cuDNN is concerned: training, and the reference path.
    """
    if cudnn is None or cudnn < 90800:
        return ()
    major, minor, patch = [*torch_version.split("+")[0].split("."), "0"][:3]
    release = (int(major), int(minor))
    pair = f"torch {torch_version} with cuDNN {_dotted(cudnn)}"
    if release == (2, 9) and patch == "0":
        return (
            f"{pair}: float16 and bfloat16 conv3d bypass cuDNN, 4 to 20 times slower and with far more "
            "memory (pytorch #163581, #166122, #166643): use torch 2.10 or later with cuDNN 9.15 or later, "
            "or float32",
        )
    if cudnn >= 91500:
        return ()
    if release < (2, 9):
        return (
            f"{pair}: bfloat16 conv3d can give wrong results (pytorch #163539): use cuDNN 9.15 or later, "
            "or float32",
        )
    return (
        f"{pair}: float16 and bfloat16 conv3d bypass this cuDNN, which can be wrong, and are 4 to 20 times "
        "slower (pytorch #163539, #166643, #174051): install cuDNN 9.15 or later, or use float32",
    )


def _extension() -> Extension:
    build, error = extension.build_info(), extension.load_error()
    if error is not None:
        return Extension(
            "broken", build, error, "build it again for this torch: `make setup`, or reinstall fasti3d"
        )
    if build is not None:
        return Extension("loaded", build, None, None)
    remedy = (
        "this is fasti3d built with FASTI3D_BUILD=none, or never built; plain PyTorch runs instead, slower: "
        "`FASTI3D_BUILD=auto make setup` builds the extension"
    )
    return Extension("not built", None, None, remedy)


def _cpu() -> Cpu:
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return Cpu(
        model=info.get("model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        fasti3d_isa=extension.instruction_set(),
        torch_isa=torch.backends.cpu.get_cpu_capability(),
        features=tuple(name for name in _CPU_FEATURES if name in flags),
    )


def _cpuinfo() -> dict[str, str]:
    """The first processor of Linux's list; empty elsewhere."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _gpus() -> tuple[GpuReport, ...]:
    found = []
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        capability = f"{properties.major}.{properties.minor}"
        found.append(GpuReport(f"cuda:{i}", properties.name, capability, properties.total_memory))
    return tuple(found)


def _devices() -> list[torch.device]:
    return [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]


def _routes() -> tuple[RouteReport, ...]:
    rows = []
    for device in _devices():
        for dtype in DTYPES:
            route = route_of(device, dtype)
            rows.append(
                RouteReport(str(device), _name(dtype), route.path, _name(route.compute_dtype), route.why)
            )
    return tuple(rows)


def _tuned() -> tuple[tuple[TunedTable, ...], tuple[str, ...]]:
    """The tables in use, first those that go before others, and why others are not."""
    rows: list[TunedTable] = []
    refused: list[str] = []
    for i in range(torch.cuda.device_count()):
        found = tables.find(tables.gpu(torch.device("cuda", i)))
        for path, table in found.tables:
            counts = len(table.all_entries), sum(entry.over_slabs for entry in table.all_entries)
            rows.append(TunedTable(f"cuda:{i}", str(path), *counts, dict(table.recorded)))
        refused += found.refused
    return tuple(rows), tuple(refused)


def _flow() -> tuple[FlowPath, ...]:
    rows = []
    for device in _devices():
        if has_kernel(device):
            isa = f", for {extension.instruction_set()}" if device.type == "cpu" else ""
            rows.append(FlowPath(str(device), "compiled", f"the extension has a solver for it{isa}"))
        else:
            why = "the extension has no solver for it: plain PyTorch runs, far slower"
            rows.append(FlowPath(str(device), "reference", why))
    return tuple(rows)


def _proofs() -> tuple[Proof, ...]:
    rows = []
    for i in range(torch.cuda.device_count()):
        found = Verdicts(guard.environment(torch.device("cuda", i))).all()
        rows += [Proof(f"cuda:{i}", its.title, its.kind, its.fault, its.date) for its in found.values()]
    return tuple(rows)


def _cached(home: Path) -> tuple[CachedFile, ...]:
    files = sorted(path for path in home.rglob("*") if path.is_file() and path.suffix != ".lock")
    return tuple(CachedFile(str(path.relative_to(home)), path.stat().st_size) for path in files)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _dotted(cudnn: int | None) -> str | None:
    """91002 as 9.10.2; cuDNN 8 and before had one digit less: 8907 is 8.9.7."""
    if cudnn is None:
        return None
    major, rest = divmod(cudnn, 10000 if cudnn >= 90000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
