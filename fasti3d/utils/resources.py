"""Tell a machine that ran out of memory, descriptors or disk from a file that is damaged."""

from __future__ import annotations

import errno
import os

# Memory, descriptors of a process and of the system, disk, and a user's share of it.
_EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT)

# The messages of torch, cuBLAS, cuDNN and Python's threads in a plain RuntimeError.
_MESSAGES = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "can't start new thread",
    *map(os.strerror, _EXHAUSTED),
)


def is_resource_error(error: BaseException) -> bool:
    """Return whether memory, file descriptors, threads or disk space ran out, which no file causes.

    True for MemoryError, for an OSError (PyAV's included) whose errno says so, for torch's out-of-memory
    errors on any device, and for an error raised from one of these or while it was handled.

    Example:
        >>> is_resource_error(MemoryError()), is_resource_error(ValueError("cut off"))
        (True, False)
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if _is_exhaustion(current):
            return True
        waiting += [current.__cause__, current.__context__]
    return False


def _is_exhaustion(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno in _EXHAUSTED
    # Our own classes quote names of files, which may contain anything.
    plain = type(error).__module__.partition(".")[0] in ("builtins", "torch")
    return plain and isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
