"""uint8 clips are taken as the same clips scaled to [-1, 1] beforehand."""

from __future__ import annotations

import warnings

import pytest
import torch
from i3d_making import SMALL, WITH_HEAD, make_i3d, ordinary
from tolerances import assert_close
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from fasti3d import I3D, inputs, network
from fasti3d.compat import hassony2
from fasti3d.compat.pytorch_i3d import InceptionI3d
from fasti3d.i3d import clip_for
from fasti3d.video import to_clip

TRUNK = tuple(network.TRUNK)
FEATURES = "Mixed_5c"


def random_bytes(n: int, c: int, t: int, h: int, w: int) -> Tensor:
    """A clip in the memory layout of decoded frames."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (n, t, h, w, c), generator=generator, dtype=torch.uint8)
    return frames.permute(0, 4, 1, 2, 3)


def scaled(x: Tensor) -> Tensor:
    """With ``to_clip``, in the same memory layout."""
    clips = torch.stack([to_clip(clip.permute(1, 2, 3, 0)) for clip in x])
    return clips.contiguous(memory_format=torch.channels_last_3d)


def test_every_output_equals_that_of_the_scaled_clip(model: I3D, runs: list[torch.dtype]) -> None:
    x = random_bytes(*WITH_HEAD)
    before = x.clone()
    with torch.no_grad():
        actual = model.forward_endpoints(x, network.OUTPUTS)
        expected = model.forward_endpoints(scaled(x), network.OUTPUTS)
    assert runs == [torch.float32] * 2
    assert list(actual) == list(network.OUTPUTS)
    assert all(torch.equal(actual[name], expected[name]) for name in network.OUTPUTS)
    assert torch.equal(x, before)


def test_layouts(model: I3D) -> None:
    x = random_bytes(2, *SMALL[1:])
    wide = torch.zeros(2, 5, 9, 40, 44, dtype=torch.uint8)
    wide[:, 1:4, :, 3:36, 2:42] = x
    with torch.no_grad():
        expected = model.forward_features(scaled(x))
        for layout in (
            x,
            x.contiguous(),
            wide[:, 1:4, :, 3:36, 2:42],
            x.transpose(1, 2).contiguous().transpose(1, 2),
        ):
            assert torch.equal(model.forward_features(layout), expected)


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(runs: list[torch.dtype], dtype: torch.dtype) -> None:
    """Scaled in float32 and not rounded before the network rounds."""
    model = make_i3d().to(dtype)
    x = random_bytes(*SMALL)
    with torch.no_grad():
        y = model.forward_features(x)
    assert y.dtype == dtype
    assert len(runs) == 1
    widened = make_i3d()
    widened.load_state_dict(model.state_dict())
    assert_close("i3d", y, ordinary(widened, scaled(x), FEATURES)[FEATURES])


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(model: I3D, runs: list[torch.dtype], dtype: torch.dtype) -> None:
    x = random_bytes(*SMALL)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        assert torch.equal(model.forward_features(x), model.forward_features(scaled(x)))
    assert len(runs) == 2


def test_float64(runs: list[torch.dtype]) -> None:
    model, x = make_i3d().double(), random_bytes(*SMALL)
    with torch.no_grad():
        y = model.forward_endpoints(x, ["Mixed_3b"])["Mixed_3b"]
        assert torch.equal(y, model.forward_endpoints(scaled(x).double(), ["Mixed_3b"])["Mixed_3b"])
    assert runs == []


def test_training(runs: list[torch.dtype]) -> None:
    x = random_bytes(2, *SMALL[1:])
    gradients = []
    for clip in (x, scaled(x)):
        model = make_i3d().train()
        model.forward_endpoints(clip, ["Mixed_3b"])["Mixed_3b"].square().mean().backward()
        gradients.append(model.Conv3d_1a_7x7.conv3d.weight.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().sum() > 0
    half = make_i3d().bfloat16().train()
    assert half.forward_endpoints(x, ["Mixed_3b"])["Mixed_3b"].dtype == torch.bfloat16
    assert runs == []


@pytest.mark.parametrize("value", [0, 1, 255])
def test_dark_clips_are_in_range(model: I3D, monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    monkeypatch.setattr(inputs, "_warned", set())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        model.forward_endpoints(torch.full(SMALL, value, dtype=torch.uint8), ["Conv3d_1a_7x7"])


def test_a_replaced_stem_gets_float32() -> None:
    model = make_i3d()
    seen: list[Tensor] = []
    stem = model.Conv3d_1a_7x7

    class Stem(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return stem(x)

    model.Conv3d_1a_7x7 = Stem()
    x = random_bytes(*SMALL)
    model.forward_endpoints(x, ["Conv3d_1a_7x7"])
    assert torch.equal(seen[0], scaled(x))


@pytest.mark.usefixtures("no_graphs")
def test_compiles_and_exports(model: I3D) -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model.forward_features(x)

    x = random_bytes(*SMALL)
    with torch.no_grad():
        expected = ordinary(model, scaled(x), FEATURES)[FEATURES]
        compiled = torch.compile(model.forward_features, fullgraph=True, backend="aot_eager")
        assert_close("i3d", compiled(x), expected)
        assert_close("i3d", torch.export.export(Features(), (x,)).module()(x), expected)


def test_without_data() -> None:
    with torch.device("meta"), torch.no_grad():
        shape = I3D(7).eval().forward_features(torch.empty(2, 3, 16, 64, 64, dtype=torch.uint8)).shape
    assert shape == (2, 1024, 2, 2, 2)
    with FakeTensorMode(), torch.no_grad():
        y = I3D(7).eval()(torch.empty(1, 3, 16, 224, 224, dtype=torch.uint8))
    assert (y.shape, y.dtype) == ((1, 7), torch.float32)


@pytest.mark.parametrize("port", [lambda: InceptionI3d(5), lambda: hassony2.I3D(5)])
def test_ports_take_them_too(port: type[I3D]) -> None:
    model, x = port().eval(), random_bytes(*SMALL)
    with torch.no_grad():
        assert torch.equal(model.forward_features(x), model.forward_features(scaled(x)))


@pytest.mark.parametrize("method", ["forward", "forward_endpoints", "extract_features"])
def test_a_subclass_s_own_methods_are_given_floats(method: str) -> None:
    x = random_bytes(*SMALL)
    own = type("Own", (I3D,), {method: lambda self, x, *names: x})
    for dtype in (torch.float32, torch.bfloat16):
        clip = clip_for(own(2).to(dtype), x)
        assert clip.dtype == dtype
        assert torch.equal(clip, scaled(x).to(dtype))
    assert clip_for(own(2).half(), scaled(x)).dtype == torch.float16


def test_what_watches_a_network_is_given_floats() -> None:
    x = random_bytes(*SMALL)
    model = make_i3d()
    hook = model.register_forward_pre_hook(lambda model, inputs: None)
    assert torch.equal(clip_for(model, x), scaled(x))
    hook.remove()
    assert clip_for(model, x) is x
    model.forward = lambda x: x
    assert torch.equal(clip_for(model, x), scaled(x))


def test_a_subclass_that_only_adds_to_the_network_is_given_bytes() -> None:
    class Named(I3D):
        def classes(self) -> int:
            return self.num_classes

    x = random_bytes(*SMALL)
    assert clip_for(Named(2), x) is x


def test_the_gpu_kernel_s_arithmetic_is_the_same_in_half_precision() -> None:
    """It multiplies where ``as_floats`` divides: every byte comes to the same."""
    x = torch.arange(256, dtype=torch.uint8)
    multiplied = (x.float() - 127.5) * torch.tensor(1 / 127.5)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(multiplied.to(dtype), inputs.as_floats(x, dtype))
    assert inputs.as_floats(x, torch.float32)[[0, 255]].tolist() == [-1.0, 1.0]
