"""A synthetic network, an empty cache and a web server for the tests of weights."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from googlenet_making import googlenet_weights
from i3d_making import narrowed
from weights_making import FileServer, Tensors

from fasti3d import reference


@pytest.fixture(autouse=True, scope="module")
def _narrow(request: pytest.FixtureRequest) -> Iterator[None]:
    """Networks have few channels, except where the published weights are read."""
    with contextlib.nullcontext() if request.module.__name__ == "test_kinetics400" else narrowed():
        yield


@pytest.fixture(scope="session")
def state_dict() -> Tensors:
    """A whole RGB network of 400 classes and few channels, with a batch norm that is not the identity."""
    torch.manual_seed(0)
    with narrowed():
        tensors = reference.I3D().state_dict()
    for key, tensor in tensors.items():
        if ".bn." in key and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5)
        elif ".bn." in key:
            tensor.fill_(7)
    return dict(tensors)


@pytest.fixture(scope="session")
def without_scale(state_dict: Tensors) -> Tensors:
    """The same as TensorFlow can express it: batch norm without a scale, and no counters."""
    return {
        key: torch.ones_like(tensor)
        if key.endswith("bn.weight")
        else torch.zeros_like(tensor)
        if key.endswith("num_batches_tracked")
        else tensor
        for key, tensor in state_dict.items()
    }


@pytest.fixture(scope="session")
def weights_2d() -> Tensors:
    """A whole GoogLeNet with torchvision's names."""
    return googlenet_weights()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = FileServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            if state.status is not None:
                self.send_error(state.status)
                return
            start = int(wanted[len("bytes=") : -1]) if wanted and state.honours_range else 0
            if start >= len(state.content) > 0:
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if state.length != "":
                self.send_header("Content-Length", state.length or str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.sends])

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{httpd.server_port}/file.pt"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FASTI3D_HOME", str(folder))
    return folder
