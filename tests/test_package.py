"""The front door: what importing fasti3d gives, needs and costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fasti3d
from fasti3d.runtime import extension

# Imported only when something needs them.
HEAVY = ("av", "matplotlib", "typer", "rich", "safetensors", "platformdirs", "filelock", "triton")


def in_new_process(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, check=False
    )


def printed(code: str, **env: str) -> object:
    done = in_new_process(code, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_public_names() -> None:
    assert fasti3d.__all__ == [
        "I3D",
        "Classification",
        "Extraction",
        "FrechetVideoDistance",
        "I3DResNet",
        "TVL1Params",
        "TwoStreamI3D",
        "__version__",
        "classify",
        "compat",
        "create_model",
        "dense",
        "export",
        "exporting",
        "extract",
        "extraction",
        "flow",
        "fuse",
        "fvd",
        "inflate",
        "list_models",
        "ops",
        "plan",
        "reference",
        "tvl1",
        "tvl1_video",
        "video",
        "weights",
    ]
    assert set(fasti3d.__all__) <= set(dir(fasti3d))
    for name in fasti3d.__all__:
        assert getattr(fasti3d, name) is not None
    assert fasti3d.ops.__all__ == [
        *("average_head", "conv3d_bn_relu", "depthwise_conv3d", "max_pool3d", "max_pool3d_same"),
    ]
    assert issubclass(fasti3d.I3D, fasti3d.reference.I3D)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'fasti3d' has no attribute 'nothing'"):
        _ = fasti3d.nothing
    assert not hasattr(fasti3d, "VideoError")


def test_star_import() -> None:
    names: dict[str, object] = {}
    exec("from fasti3d import *", names)
    assert set(fasti3d.__all__) <= set(names)


def test_importing_loads_nothing_heavy_and_needs_no_network() -> None:
    code = f"""
import json, socket, sys
import torch
already = set(sys.modules)
def refuse(*args, **kwargs): raise OSError("importing must not use the network")
socket.socket.connect = socket.getaddrinfo = refuse
import fasti3d
model = fasti3d.I3D(2).eval()
with torch.no_grad():
    model.forward_endpoints(torch.zeros(1, 3, 2, 8, 8) - 0.5, ["Conv3d_1a_7x7"])
loaded = {{name.partition(".")[0] for name in set(sys.modules) - already}}
print(json.dumps(sorted(loaded.intersection({HEAVY!r}))))
"""
    assert printed(code, CUDA_VISIBLE_DEVICES="") == []


def test_metrics_and_streams_in_memory_need_no_decoder_and_no_file_formats() -> None:
    code = f"""
import json, sys
import torch
already = set(sys.modules)
import fasti3d
lazy = [f"fasti3d.{{name}}" for name in ("video", "weights", "compat", "classification")]
fasti3d.FrechetVideoDistance, fasti3d.TwoStreamI3D, fasti3d.TVL1Params
loaded = {{name.partition(".")[0] for name in set(sys.modules) - already}}
heavy = sorted(loaded.intersection({HEAVY!r}))
fasti3d.video, fasti3d.weights, fasti3d.compat, fasti3d.classify
print(json.dumps([heavy, [name for name in lazy if name not in sys.modules]]))
"""
    assert printed(code) == [[], []]


@pytest.mark.parametrize(
    "order",
    [
        "import fasti3d; import torch",
        "from fasti3d.video import VideoError; import torch",
        "import fasti3d.runtime.gpu; fasti3d.weights.registry; fasti3d.I3D; import torch",
    ],
)
def test_the_operators_are_there_with_torch(order: str) -> None:
    names = ("planned", "max_pool3d_same", "conv3d_bn_relu", "average_head", "tvl1", "pooled_conv3d_triton_")
    code = f"""
import json
{order}
print(json.dumps([hasattr(torch.ops.fasti3d, name) for name in {names}]))
"""
    assert printed(code) == [True] * len(names)


def test_the_network_imports_nothing_above_it() -> None:
    code = """
import json, sys
import fasti3d.i3d
from fasti3d.registration import ABOVE_THE_NETWORK
names = [name for name in sys.modules if name.startswith("fasti3d.")]
above = [name for name in names if name.split(".")[1] in ABOVE_THE_NETWORK]
# What needs no torch is never in the middle of its import.
print(json.dumps([name for name in above if {"torch", "Tensor"}.intersection(vars(sys.modules[name]))]))
"""
    assert printed(code) == []


def test_importing_waits_for_nothing_and_works_where_there_is_no_torch() -> None:
    code = """
import json, sys
sys.modules["torch"] = None
import fasti3d
lazy = ("video", "weights", "compat", "classification")
early = [name for name in lazy if f"fasti3d.{name}" in sys.modules]
print(json.dumps([fasti3d.__version__, "I3D" in dir(fasti3d), early]))
"""
    assert printed(code) == [fasti3d.__version__, True, []]


def test_works_without_the_extension() -> None:
    code = """
import json, sys
sys.modules["fasti3d._C"] = None
import torch, fasti3d
from fasti3d.runtime import extension
from fasti3d.ops.fingerprint import fingerprint
x = torch.randn(1, 3, 4, 5, 6)
results = []
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    wide = torch.empty(1, 8, 4, 5, 6, dtype=dtype, memory_format=torch.channels_last_3d)
    out = wide[:, 2:7]
    y = fasti3d.ops.conv3d_bn_relu(x.to(dtype), torch.ones(5, 3, 3, 3, 3), torch.ones(5), out=out)
    layers = torch.nn.Sequential(torch.nn.Conv3d(3, 5, 3), torch.nn.BatchNorm3d(5)).eval().to(dtype)
    difference = fasti3d.fuse(layers)(x.to(dtype)) - layers(x.to(dtype))
    results += [difference.abs().max() < 0.02]
    pooled = fasti3d.ops.max_pool3d_same(x.to(dtype), (3, 3, 3), (2, 2, 2))
    results += [y is out, pooled.shape == (1, 3, 2, 3, 3)]
x.requires_grad_()
fasti3d.ops.max_pool3d_same(x, (3, 3, 3), (2, 2, 2)).sum().backward()
torch.library.opcheck(torch.ops.fasti3d.max_pool3d_same.default, (x, [3, 3, 3], [2, 2, 2]))
t = torch.ones(100)
before = fingerprint([t])
t[3] = 2
results += [x.grad.sum() == 54, fingerprint([t]) != before]
results += [extension.build_info() is None, extension.load_error() is None]
results += [extension.instruction_set() is None]
results += [not extension.has_bf16_dot(), not extension.has_amx_bf16()]
print(json.dumps([bool(r) for r in results]))
"""
    assert set(printed(code)) == {True}


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_an_extension_that_does_not_load_is_explained() -> None:
    code = """
import importlib, json
real = importlib.import_module
def broken(name, *args):
    if name == "fasti3d._C":
        raise ImportError("undefined symbol: aoti_torch_something")
    return real(name, *args)
importlib.import_module = broken
import torch, fasti3d
from fasti3d.runtime import extension
from fasti3d.runtime.route import route
path = route(torch.device("cpu"), torch.float32).path
print(json.dumps([extension.build_info() is None, extension.load_error(), path]))
"""
    absent, error, path = printed(code)
    assert absent
    assert "undefined symbol: aoti_torch_something" in error
    assert "reinstall" in error
    assert path == "reference"


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_build_info() -> None:
    info = extension.build_info()
    assert info["version"] == fasti3d.__version__
    assert info["torch"].split(".")[:2] == torch.__version__.split(".")[:2]
    assert "baseline" in info["instruction_sets"]
    assert extension.load_error() is None
    assert extension.instruction_set() in info["instruction_sets"]


@pytest.mark.skipif(extension.CORE is None, reason="the extension was not built")
def test_the_instruction_set_can_be_lowered() -> None:
    code = (
        "import json; from fasti3d.runtime import extension; print(json.dumps(extension.instruction_set()))"
    )
    assert printed(code, FASTI3D_ISA="baseline") == "baseline"


def test_version_is_a_version_and_the_one_to_cite() -> None:
    assert [part.isdigit() for part in fasti3d.__version__.split(".")[:2]] == [True, True]
    citation = Path(__file__).resolve().parent.parent / "CITATION.cff"
    if citation.exists():
        assert f"\nversion: {fasti3d.__version__}\n" in citation.read_text()
