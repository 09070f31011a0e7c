"""The kernels that a computation would have Triton compile, compiled side by side in processes of their own.

Triton keeps what it compiled on disk: a launch after that finds it there. Whatever goes wrong in such a
process, the launch compiles what is missing itself, as it would have without.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fasti3d.proof.guard import unproved

# Fewer are compiled sooner than a process starts.
_FEW = 3
_MAX_PROCESSES = 16
# Seconds for a process to start and compile its share.
_PATIENCE = 300.0
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from fasti3d.runtime.build_worker import serve
serve()
"""


class Build(NamedTuple):
    """A kernel for a configuration: where it is, and what Triton's own code says of it, as JSON."""

    module: str
    name: str
    target: tuple[str, int, int]
    data: str


_recording = threading.local()
_lock = threading.RLock()


def prepare(work: Callable[[], object]) -> None:
    """Compiles the kernels that ``work`` launches, if many are missing, before it runs."""
    with _lock:
        try:
            found = recorded(work)
        except Exception:  # whatever it is, the work itself will say it
            return
        if sum(not is_on_disk(build) for build in found) > _FEW:
            compile_beside(found)


def recorded(work: Callable[[], object]) -> list[Build]:
    """The kernels that ``work`` launches and that this process has not compiled, which are not launched."""
    # Here and not at the top: triton is slow to import, and absent where there is no GPU.
    from triton import knobs

    found: dict[Build, None] = {}

    def note(*, fn: Any, compile: Any, **rest: Any) -> bool:
        if not is_recording():
            return bool(before(fn=fn, compile=compile, **rest)) if before else False
        kernel = fn.jit_function
        target = kernel.device_caches[compile["device"]][2]
        its = target.backend, target.arch, target.warp_size
        found[Build(kernel.module, kernel.fn.__name__, its, compile["specialization_data"])] = None
        return True

    with _lock:
        before = knobs.runtime.jit_cache_hook
        knobs.runtime.jit_cache_hook = note
        _recording.on = True
        try:
            with unproved():
                work()
        finally:
            _recording.on = False
            knobs.runtime.jit_cache_hook = before
    return list(found)


def is_recording() -> bool:
    """Whether the kernels that this thread launches are only noted: nothing can be timed then."""
    return getattr(_recording, "on", False)


def compile_beside(builds: Sequence[Build], processes: int | None = None) -> int:
    """Compiles what is not on disk, by default in a process per core; returns how many that were."""
    missing = [build for build in builds if not is_on_disk(build)]
    count = min(processes or os.cpu_count() or 1, len(missing), _MAX_PROCESSES)
    started: list[subprocess.Popen[bytes]] = []
    # Not multiprocessing, whose processes may be refused children, as those of a data loader are.
    command = [sys.executable, "-c", _START, json.dumps(sys.path)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        for first in range(count):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, **quiet)
            started.append(process)
            assert process.stdin is not None
            process.stdin.write(json.dumps(missing[first::count]).encode())
            process.stdin.close()
        for process in started:
            process.wait(_PATIENCE)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        pass
    finally:
        for process in started:
            process.kill()
            process.wait()
    return sum(map(is_on_disk, missing))


def is_on_disk(build: Build) -> bool:
    """Whether Triton would find a kernel on disk."""
    try:
        from triton._C.libtriton import get_cache_invalidating_env_vars
        from triton.compiler.compiler import get_cache_key, make_backend
        from triton.runtime.cache import get_cache_manager

        source, target, options = parsed(build)
        backend = make_backend(target)
        key = get_cache_key(
            source, backend, backend.parse_options(options), env_vars=get_cache_invalidating_env_vars()
        )
        manager = get_cache_manager(hashlib.sha256(key.encode()).hexdigest())
        return bool(manager.get_group(f"{source.name[:150]}.json"))
    except Exception:  # of a release of triton that does it otherwise
        return False


def parsed(build: Build) -> tuple[Any, Any, dict[str, Any]]:
    """What ``triton.compile`` takes: source, target and options."""
    from importlib import import_module

    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    data = json.loads(build.data)
    kernel = getattr(import_module(build.module), build.name)
    keys = (map(_tuple, data[name]) for name in ("constant_keys", "attrs_keys"))
    constants, attributes = (
        dict(zip(its, data[name], strict=True))
        for its, name in zip(keys, ("constant_vals", "attrs_vals"), strict=True)
    )
    signature = {name: _tuple(kind) for name, kind in data["signature"].items()}
    source = ASTSource(kernel, signature, {k: _tuple(v) for k, v in constants.items()}, attributes)
    return source, GPUTarget(*build.target), {name: _tuple(v) for name, v in data["options"].items()}


def _tuple(value: Any) -> Any:
    """JSON has no tuples."""
    return tuple(map(_tuple, value)) if isinstance(value, list) else value
