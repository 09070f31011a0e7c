"""fasti3d.fuse: which layers it replaces, that results stay, and what a fused network can be put through."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, fx, nn

import fasti3d
from benchmarks.residual import r2plus1d, r3d, randomise
from fasti3d.fusion.fuse import FusedConv3d
from fasti3d.runtime import gpu

NETWORKS = {"r3d": r3d, "r2plus1d": r2plus1d}
SMALL = (16, 24, 32, 48)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(module: nn.Module, x: Tensor) -> Tensor:
    """What a module gives in float64, from the weights it has."""
    with torch.no_grad():
        return copy.deepcopy(module).double()(x.double())


def run(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x)


def kinds(module: nn.Module) -> Counter[str]:
    """How many modules there are of each class without modules of its own."""
    return Counter(type(part).__name__ for part in module.modules() if not part._modules)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return randomise(NETWORKS[request.param](SMALL, 10))


@pytest.mark.isa
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_give_what_they_gave(name: str, dtype: torch.dtype) -> None:
    for seed, (shape, channels) in enumerate(
        [
            ((2, 3, 9, 33, 20), SMALL),
            ((1, 3, 16, 16, 16), (16, 32)),
            ((2, 3, 4, 17, 19), (24, 40, 17)),
            ((1, 3, 1, 8, 8), (17, 16)),
        ]
    ):
        module = randomise(NETWORKS[name](channels, 10), seed).to(dtype)
        x = random(*shape, seed=seed).to(dtype)
        fused = fasti3d.fuse(module)
        y = run(fused, x)
        assert y.dtype == dtype
        assert_close("fused_network", y, exact(module, x))
        assert torch.equal(run(fused, x.contiguous(memory_format=torch.channels_last_3d)), y)


def test_every_chain_is_fused(network: nn.Module) -> None:
    before, after = kinds(network), kinds(fasti3d.fuse(network))
    assert after["FusedConv3d"] == before["Conv3d"] >= 20
    assert after["BatchNorm3d"] == 0
    assert after["ReLU"] == 8  # those behind additions


def test_the_network_itself_is_left_alone(network: nn.Module) -> None:
    before, weights = kinds(network), {k: v.clone() for k, v in network.state_dict().items()}
    x = random(1, 3, 4, 16, 16)
    y = run(network, x)
    module = copy.deepcopy(network)
    fused = fasti3d.fuse(module)
    fused_y = run(fused, x)
    assert kinds(module) == before
    assert all(torch.equal(weights[k], v) for k, v in module.state_dict().items())
    assert torch.equal(run(module, x), y)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.zero_()
    assert torch.equal(run(fused, x), fused_y)


def test_what_a_network_is_besides_its_layers_stays(network: nn.Module) -> None:
    fused = fasti3d.fuse(network)
    assert type(fused) is type(network)
    assert type(fused.stages[1][0]) is type(network.stages[1][0])
    assert [n for n, _ in fused.named_modules()] == [n for n, _ in network.named_modules()]
    seen = []
    fused.stages[2].register_forward_hook(lambda module, args, y: seen.append(y.shape))
    run(fused, random(1, 3, 4, 16, 16))
    assert seen == [(1, 32, 1, 2, 2)]


def test_the_layout_is_changed_once(network: nn.Module) -> None:
    fused = fasti3d.fuse(network)
    given: list[bool] = []
    for part in fused.modules():
        if isinstance(part, FusedConv3d):
            part.register_forward_pre_hook(
                lambda module, args: given.append(args[0].is_contiguous(memory_format=torch.channels_last_3d))
            )
    x = random(1, 3, 4, 16, 16)
    run(fused, x)
    assert given == [False] + [True] * (len(given) - 1)


def conv(in_channels: int = 16, out_channels: int = 16, kernel: Any = 3, **arguments: Any) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, kernel, **({"padding": 1} | arguments))


class Narrowed(nn.Conv3d):
    """A layer that only chooses its arguments."""

    def __init__(self) -> None:
        super().__init__(16, 8, (1, 3, 3), padding=(0, 1, 1), bias=False)


class Scaled(nn.Conv3d):
    """A layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def bn(channels: int = 16, **arguments: Any) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(channels, **arguments)


def hooked(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, args, y: y + 1)
    return module


def patched(module: nn.Module) -> nn.Module:
    module.forward = lambda x: x - 1  # type: ignore[method-assign]
    return module


F3, FOLDED, ID = "FusedConv3d", "FoldedConv3d", "Identity"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([conv()], [F3]),
        ([conv(bias=False)], [F3]),
        ([conv(), bn()], [F3, ID]),
        ([conv(), nn.ReLU()], [F3, ID]),
        ([conv(bias=False), bn(), nn.ReLU(inplace=True)], [F3, ID, ID]),
        ([conv(), bn(affine=False), nn.ReLU()], [F3, ID, ID]),
        ([conv(), nn.SyncBatchNorm(16), nn.ReLU()], [F3, ID, ID]),
        ([conv(padding="same"), bn()], [F3, ID]),
        ([conv(kernel=(2, 4, 3), padding="same"), bn()], [F3, ID]),
        ([conv(padding="valid"), bn()], [F3, ID]),
        ([conv(stride=(1, 2, 3), padding=(2, 0, 1)), bn()], [F3, ID]),
        ([Narrowed(), bn(8), nn.ReLU()], [F3, ID, ID]),
        ([conv(), bn(), nn.Identity(), nn.ReLU()], [F3, ID, ID, "ReLU"]),
        ([conv(), nn.ReLU(), bn()], [F3, ID, "BatchNorm3d"]),
        ([conv(), bn(), bn()], [F3, ID, "BatchNorm3d"]),
        ([bn(), nn.ReLU(), conv()], ["BatchNorm3d", "ReLU", F3]),
        ([conv(), bn(), nn.LeakyReLU()], [F3, ID, "LeakyReLU"]),
        ([conv(), bn(), nn.ReLU6()], [F3, ID, "ReLU6"]),
        ([conv(), nn.Dropout3d(), bn()], [F3, "Dropout3d", "BatchNorm3d"]),
        ([conv(), bn(track_running_stats=False), nn.ReLU()], [F3, "BatchNorm3d", "ReLU"]),
        ([conv(), hooked(bn()), nn.ReLU()], [F3, "BatchNorm3d", "ReLU"]),
        ([conv(), bn(), hooked(nn.ReLU())], [F3, ID, "ReLU"]),
        ([conv(), bn(), patched(nn.ReLU())], [F3, ID, "ReLU"]),
        ([conv(), conv(groups=2)], [F3, "Conv3d"]),
        ([conv(), conv(groups=2), bn()], [F3, FOLDED, ID]),
        ([conv(groups=16, bias=False), bn(), nn.ReLU()], [FOLDED, ID, ID]),
        ([conv(), conv(groups=4), nn.ReLU(), bn()], [F3, "Conv3d", "ReLU", "BatchNorm3d"]),
        ([conv(groups=4), bn(), nn.SiLU()], [FOLDED, ID, "SiLU"]),
        ([conv(groups=4, padding="same", dilation=(1, 2, 1)), bn()], [FOLDED, ID]),
        ([conv(), conv(dilation=(1, 2, 1)), bn()], [F3, FOLDED, ID]),
        ([conv(), conv(padding_mode="reflect"), bn()], [F3, FOLDED, ID]),
        ([conv(), nn.ConvTranspose3d(16, 16, 2), bn()], [F3, "ConvTranspose3d", "BatchNorm3d"]),
        ([conv(), Scaled(16, 16, 1), bn()], [F3, "Scaled", "BatchNorm3d"]),
        ([conv(), hooked(conv()), bn()], [F3, "Conv3d", "BatchNorm3d"]),
        ([conv(), nn.utils.spectral_norm(conv()), bn()], [F3, "Conv3d", "BatchNorm3d"]),
    ],
    ids=lambda value: "-".join(p if isinstance(p, str) else type(p).__name__ for p in value),
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_what_is_replaced(parts: list[nn.Module], expected: list[str]) -> None:
    module = randomise(nn.Sequential(*parts)).eval()
    fused = fasti3d.fuse(module)
    assert [type(part).__name__ for part in fused] == expected
    x = random(2, 16, 5, 6, 7)
    assert_close("conv3d", run(fused, x), exact(module, x))


def x3d_block(channels: int = 16, inner: int = 36) -> nn.Sequential:
    """As in X3D: 1x1x1, 3x3x3 of single channels, Swish, 1x1x1; after Feichtenhofer (CVPR 2020)."""
    return nn.Sequential(
        conv(channels, inner, 1, padding=0, bias=False),
        bn(inner),
        nn.ReLU(inplace=True),
        conv(inner, inner, groups=inner, bias=False),
        bn(inner),
        nn.SiLU(),
        conv(inner, channels, 1, padding=0, bias=False),
        bn(channels),
    )


def csn_block(channels: int = 32, inner: int = 8, stride: int = 2) -> nn.Sequential:
    """As in ir-CSN: 1x1x1, 3x3x3 of single channels, 1x1x1; after Tran et al. (ICCV 2019)."""
    return nn.Sequential(
        *(conv(channels, inner, 1, padding=0, bias=False), bn(inner), nn.ReLU()),
        *(conv(inner, inner, groups=inner, stride=stride, bias=False), bn(inner), nn.ReLU()),
        *(conv(inner, channels, 1, padding=0, bias=False), bn(channels), nn.ReLU()),
    )


@pytest.mark.isa
@pytest.mark.usefixtures("no_graphs")
@pytest.mark.parametrize(("block", "channels"), [(x3d_block, 16), (csn_block, 32)])
def test_no_batch_norm_is_left_behind_channelwise_convolutions(
    block: Callable[[], nn.Sequential], channels: int
) -> None:
    module = randomise(block())
    fused = fasti3d.fuse(module)
    counts = kinds(fused)
    assert (counts["BatchNorm3d"], counts["Conv3d"], counts[F3], counts[FOLDED]) == (0, 0, 2, 1)
    assert not list(fused.parameters())
    x = random(2, channels, 4, 9, 8)
    assert_close("conv3d", run(fused, x), exact(module, x))
    for dtype in (torch.bfloat16, torch.float16):
        half, clip = copy.deepcopy(module).to(dtype), x.to(dtype)
        assert_close("conv3d_block", run(fasti3d.fuse(half), clip), exact(half, clip))
        with torch.autocast("cpu", dtype):
            y = run(fused, x)
            assert torch.equal(run(torch.compile(fused, fullgraph=True, backend="eager"), x), y)
        assert_close("conv3d_block", y, exact(module, x))
    assert torch.equal(run(torch.export.export(fused, (x,)).module(), x), run(fused, x))
    assert torch.equal(run(pickle.loads(pickle.dumps(fused)), x), run(fused, x))
    gradients = []
    for network, clip in ((fused, x.clone()), (copy.deepcopy(module).double(), x.double())):
        network(clip.requires_grad_()).square().sum().backward()
        gradients.append(clip.grad)
    assert_close("conv3d_gradient", *gradients)


def test_parametrized_weights_are_left_alone() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), bn(), conv())
    fused = fasti3d.fuse(randomise(module))
    assert [type(part).__name__ for part in fused] == ["ParametrizedConv3d", "BatchNorm3d", F3]
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


class Wired(nn.Module):
    """Two convolutions, a batch norm and a ReLU, called as ``wire`` says."""

    def __init__(self, wire: Callable[[Any, Tensor], Tensor], **others: nn.Module) -> None:
        super().__init__()
        self.wire = wire
        self.conv, self.conv2 = conv(), conv()
        self.bn, self.relu = bn(), nn.ReLU()
        for name, module in others.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.wire(self, x)


def branch_on_size(m: Any, x: Tensor) -> Tensor:
    return m.relu(m.bn(m.conv(x))) if x.shape[2] > 2 else x


ABSENT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a function": lambda m, x: F.relu(m.bn(m.conv(x))),
    "relu used twice": lambda m, x: m.relu(m.conv2(m.relu(m.bn(m.conv(x))))),
    "relu behind an addition": lambda m, x: m.relu(m.bn(m.conv(x)) + x),
    "relu at two places": lambda m, x: m.relu(m.bn(m.conv(x))) + m.relu(x),
}
NEITHER: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "result read twice": lambda m, x: m.relu(m.bn(y := m.conv(x))) + y,
    "result read by an index": lambda m, x: m.relu(m.bn(m.conv(x)[:, :, 1:])),
    "convolution called twice": lambda m, x: m.relu(m.bn(m.conv(m.conv(x)))),
    "batch norm called twice": lambda m, x: m.relu(m.bn(m.conv(m.bn(x)))),
    "batch norm of two": lambda m, x: m.relu(m.bn(m.conv(x))) + m.bn(m.conv2(x)),
    "another reads the batch norm": lambda m, x: m.relu(m.bn(m.conv(x))) * m.bn.weight[0],
    "concatenation": lambda m, x: m.relu(m.bn(torch.cat([m.conv(x), m.conv2(x)], dim=3))),
}


@pytest.mark.parametrize("name", [*ABSENT, *NEITHER])
def test_what_is_not_a_chain_is_not_taken_for_one(name: str) -> None:
    module = randomise(Wired((ABSENT | NEITHER)[name]))
    fused = fasti3d.fuse(module)
    assert type(fused.conv) is FusedConv3d
    assert type(fused.relu) is nn.ReLU
    assert type(fused.bn) is (nn.BatchNorm3d if name in NEITHER else nn.Identity)
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_weights_that_something_else_reads_stay() -> None:
    module = randomise(Wired(lambda m, x: m.bn(m.conv(x)) + F.conv3d(m.conv2(x), m.conv.weight, padding=1)))
    fused = fasti3d.fuse(module)
    assert (type(fused.conv), type(fused.conv2), type(fused.bn)) == (nn.Conv3d, FusedConv3d, nn.BatchNorm3d)
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_modules_under_two_names_and_in_plain_lists() -> None:
    class Aliased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.again = conv()
            self.parts = [self.first, bn(), nn.ReLU()]
            for i, part in enumerate(self.parts[1:]):
                setattr(self, f"part{i}", part)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts:
                x = part(x)
            return x

    module = randomise(Aliased())
    fused = fasti3d.fuse(module)
    assert [type(part).__name__ for part in fused.parts] == [F3, ID, ID]
    assert fused.again is fused.first is fused.parts[0]
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_a_forward_that_branches_is_named_and_its_parts_are_fused() -> None:
    module = randomise(Wired(branch_on_size, chain=nn.Sequential(conv(), bn(), nn.ReLU())))
    with pytest.warns(UserWarning, match=r"cannot be traced.*it \(Wired: .*control flow"):
        fused = fasti3d.fuse(module)
    assert (type(fused.conv), type(fused.bn)) == (FusedConv3d, nn.BatchNorm3d)
    assert [type(part).__name__ for part in fused.chain] == [F3, ID, ID]
    for frames in (2, 3):
        x = random(1, 16, frames, 4, 5)
        assert_close("conv3d", run(fused, x), exact(module, x))


def test_a_part_that_branches_leaves_the_rest_fused() -> None:
    inner = Wired(lambda m, x: m.bn(m.conv(x)) if x.sum() else m.conv2(x))
    module = randomise(Wired(lambda m, x: m.relu(m.bn(m.conv(m.inner(x)))), inner=inner))
    with pytest.warns(UserWarning, match=r": inner \(Wired: "):
        fused = fasti3d.fuse(module)
    assert [type(getattr(fused, n)).__name__ for n in ("conv", "bn", "relu")] == [F3, ID, ID]
    assert [type(getattr(fused.inner, n)).__name__ for n in ("conv", "bn")] == [F3, "BatchNorm3d"]
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_a_part_called_from_two_places_is_traced_once() -> None:
    inner = Wired(lambda m, x: m.chain(x) if x.sum() else x, chain=nn.Sequential(conv(), bn()))
    middle = Wired(lambda m, x: m.inner(x) if x.sum() else x, inner=inner)
    module = randomise(Wired(lambda m, x: m.middle(m.inner(m.middle(x))), inner=inner, middle=middle))
    with pytest.warns(UserWarning, match=r"inner \(Wired: .*middle \(Wired: |middle .*inner \(Wired: "):
        fused = fasti3d.fuse(module)
    assert fused.inner is fused.middle.inner
    assert [type(part).__name__ for part in fused.inner.chain] == [F3, ID]
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_what_a_part_that_branches_may_use_as_well_stays() -> None:
    inner = Wired(lambda m, x: m.bn(m.conv2(x)) if x.sum() else x)
    module = randomise(Wired(lambda m, x: m.inner.bn(m.conv(m.inner(x))), inner=inner))
    with pytest.warns(UserWarning, match="inner"):
        fused = fasti3d.fuse(module)
    assert (type(fused.conv), type(fused.inner.bn)) == (FusedConv3d, nn.BatchNorm3d)
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_hooks_of_containers_see_no_trace_and_keep_working() -> None:
    seen: list[Any] = []
    inner = nn.Sequential(conv(), bn(), nn.ReLU(), conv())
    inner.register_forward_hook(lambda module, args, y: seen.append(y) or -y)
    module = randomise(nn.Sequential(inner, bn(), nn.ReLU()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = fasti3d.fuse(module)
    assert seen == []
    assert [type(part).__name__ for part in fused[0]] == [F3, ID, ID, F3]
    assert [type(part).__name__ for part in fused[1:]] == ["BatchNorm3d", "ReLU"]
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))
    assert [type(y) for y in seen] == [Tensor, Tensor]


def test_a_container_whose_forward_was_replaced_is_not_followed() -> None:
    module = randomise(nn.Sequential(conv(), bn(), nn.ReLU(), conv(), bn()))
    module.forward = lambda x: module[2](module[0](x))  # type: ignore[method-assign]
    x = random(1, 16, 3, 4, 5)
    expected = run(module, x)
    with pytest.warns(UserWarning, match="its forward is not that of its class"):
        fused = fasti3d.fuse(module)
    assert [type(part).__name__ for part in fused] == [F3, "BatchNorm3d", "ReLU", F3, "BatchNorm3d"]
    assert torch.equal(run(fused, x), expected)  # the lambda still means the network that was given


def test_parts_without_batch_norms_that_branch_are_not_worth_a_warning() -> None:
    head = Wired(lambda m, x: x if x.sum() else -x)
    del head.bn
    module = randomise(Wired(lambda m, x: m.head(m.relu(m.bn(m.conv(x)))), head=head))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused = fasti3d.fuse(module)
    assert type(fused.bn) is nn.Identity


def test_lists_of_maps_go_through() -> None:
    class Pathways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.paths = nn.ModuleList(nn.Sequential(conv(), bn(), nn.ReLU()) for _ in range(2))

        def forward(self, x: list[Tensor]) -> list[Tensor]:
            return [path(x[i]) for i, path in enumerate(self.paths)]

    module = randomise(Pathways())
    fused = fasti3d.fuse(module)
    assert kinds(fused) == {F3: 2, ID: 4}
    x = [random(1, 16, frames, 4, 5) for frames in (2, 4)]
    with torch.no_grad():
        for mine, clip, path in zip(fused(x), x, module.paths, strict=True):
            assert_close("conv3d", mine, exact(path, clip))


def test_tracing_leaves_nothing_behind() -> None:
    def wire(m: Any, x: Tensor) -> Tensor:
        m.kept = m.conv(x)
        m.calls.add_(1)
        return m.relu(m.bn(m.kept))

    module = randomise(Wired(wire))
    module.register_buffer("calls", torch.zeros(()))
    fused = fasti3d.fuse(module)
    assert not hasattr(module, "kept")
    assert not hasattr(fused, "kept")
    assert not any(isinstance(value, fx.Proxy) for value in vars(fused).values())
    assert module.calls == 0


def test_an_i3d_is_left_to_fuse_itself() -> None:
    class Tower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.adapt = nn.Sequential(conv(4, 3), bn(3))
            self.i3d = fasti3d.I3D(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.i3d(self.adapt(x))

    tower = Tower().eval()
    fused = fasti3d.fuse(tower)
    assert [type(part).__name__ for part in fused.adapt] == [F3, ID]
    assert kinds(fused.i3d) == kinds(tower.i3d)
    with pytest.raises(ValueError, match=r"module \(I3D\) holds no .*I3D fuses itself"):
        fasti3d.fuse(tower.i3d)


def test_gradients_reach_the_input_and_no_weight() -> None:
    module = randomise(nn.Sequential(conv(stride=2), bn(), nn.ReLU(), conv(), bn())).requires_grad_()
    fused = fasti3d.fuse(module)
    assert not any(p.requires_grad for p in fused.parameters())
    assert all(p.requires_grad for p in module.parameters())
    x, grad = random(2, 16, 5, 6, 7).requires_grad_(), random(2, 16, 3, 3, 4, seed=1)
    y = fused(x)
    assert_close("conv3d", y.detach(), exact(module, x.detach()))
    y.backward(grad)
    wide = x.detach().double().requires_grad_()
    copy.deepcopy(module).double()(wide).backward(grad.double())
    assert_close("conv3d_gradient", x.grad, wide.grad)
    assert not fused(x.detach()).requires_grad


def chain(seed: int = 0) -> nn.Module:
    return randomise(nn.Sequential(conv(), bn(), nn.ReLU()), seed)


def test_state_dicts_go_between_fused_networks_only() -> None:
    first, second = fasti3d.fuse(chain(0)), fasti3d.fuse(chain(1))
    x = random(1, 16, 3, 4, 5)
    expected = run(first, x)
    assert not torch.equal(run(second, x), expected)
    assert list(first.state_dict()) == ["0.folded_weight", "0.folded_bias"]
    second.load_state_dict(first.state_dict())
    assert torch.equal(run(second, x), expected)
    with pytest.raises(RuntimeError, match=r"(?s)Missing key.*folded_weight.*Unexpected key.*0\.weight"):
        first.load_state_dict(chain(1).state_dict())


def test_changes_of_the_fused_weights_are_followed() -> None:
    fused = fasti3d.fuse(chain())
    x = random(1, 16, 3, 4, 5)
    before = run(fused, x)
    fused[0].folded_weight.zero_()
    assert torch.equal(run(fused, x), F.relu(fused[0].folded_bias)[:, None, None, None].expand(before.shape))
    fused[0].folded_bias = torch.ones(16)
    assert (run(fused, x) == 1).all()


@pytest.mark.usefixtures("no_graphs")
def test_values_that_are_not_finite_spread_no_further_than_in_torch() -> None:
    module = chain()
    fused, x = fasti3d.fuse(module), random(1, 16, 9, 6, 7)
    x[0, 2, 4, 3, 3] = float("nan")
    expected = run(module, x).isnan()
    assert 0 < expected.sum() < expected.numel() / 4
    for network in (fused, torch.compile(fused, fullgraph=True, backend="eager")):
        assert torch.equal(run(network, x).isnan(), expected)


def test_what_a_graph_packs_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a GPU captures, nothing is computed yet that others could read."""
    monkeypatch.setattr(gpu, "synchronize_unless_capturing", lambda device: False)
    fused = fasti3d.fuse(chain())
    x = random(1, 16, 3, 4, 5)
    captured = run(fused, x)
    assert fused[0]._packed._kept is None
    monkeypatch.undo()
    assert torch.equal(run(fused, x), captured)
    assert fused[0]._packed._kept is not None


@pytest.mark.isa
def test_casts_and_moves() -> None:
    module = chain()
    fused = fasti3d.fuse(module)
    x = random(1, 16, 3, 4, 5)
    expected = run(fused, x)
    for dtype in (torch.bfloat16, torch.float16):
        assert_close("conv3d", run(copy.deepcopy(fused).to(dtype), x.to(dtype)), expected)
    assert run(copy.deepcopy(fused).to("meta"), x.to("meta")).shape == expected.shape
    assert torch.equal(run(fused.to(memory_format=torch.channels_last_3d), x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        y = run(fused, x)
    assert y.dtype == torch.bfloat16
    assert_close("conv3d", y, expected)


def test_copies_and_pickles_pack_their_own() -> None:
    fused = fasti3d.fuse(chain())
    x = random(1, 16, 3, 4, 5)
    empty = len(pickle.dumps(fused))
    expected = run(fused, x)
    assert len(pickle.dumps(fused)) == empty
    buffer = io.BytesIO()
    torch.save(fused, buffer)
    buffer.seek(0)
    others = [
        copy.copy(fused[0]),
        copy.deepcopy(fused),
        pickle.loads(pickle.dumps(fused)),
        torch.load(buffer, weights_only=False),
    ]
    for other in others:
        assert torch.equal(run(other, x), expected)
    others[1][0].folded_weight.zero_()
    assert torch.equal(run(fused, x), expected)


def test_inference_mode() -> None:
    x = random(1, 16, 3, 4, 5)
    expected = run(fasti3d.fuse(chain()), x)
    with torch.inference_mode():
        fused = fasti3d.fuse(chain())
        assert torch.equal(fused(x), expected)
        assert torch.equal(fused.to(torch.float64).to(torch.float32)(x), expected)
    assert torch.equal(run(fused, x), expected)
    x.requires_grad_()
    plain = fasti3d.fuse(chain())
    with torch.inference_mode():
        assert torch.equal(plain(x), expected)
    plain(x).sum().backward()
    assert x.grad is not None


@pytest.mark.isa
@pytest.mark.usefixtures("no_graphs")
def test_compile_and_export() -> None:
    network = randomise(r3d((16, 24), 10))
    fused = fasti3d.fuse(network)
    x = random(1, 3, 4, 16, 16)
    expected = run(fused, x)
    compiled = torch.compile(fused, backend="eager", fullgraph=True)
    assert torch.equal(run(compiled, x), expected)
    exported = torch.export.export(fused, (x,))
    calls = Counter(node.target for node in exported.graph.nodes)
    assert calls[torch.ops.fasti3d.conv3d_bn_relu.default] == kinds(fused)[F3]
    assert not calls[torch.ops.aten.conv3d.default]
    assert torch.equal(run(exported.module(), x), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(run(compiled, x), run(fused, x))
    fused.stem[0].folded_bias.add_(1)
    for module in (compiled, exported.module()):
        assert torch.equal(run(module, x), run(fused, x))
    assert not torch.equal(run(fused, x), expected)


def test_threads_share_a_fused_network(network: nn.Module) -> None:
    fused = fasti3d.fuse(network)
    clips = [random(1, 3, 4, 16, 16 + i, seed=i) for i in range(4)]
    expected = [run(copy.deepcopy(fused), x) for x in clips]
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda i: torch.equal(run(fused, clips[i % 4]), expected[i % 4]), range(24)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 3, 4, 4, 4), r"x must be \(N, 16, T, H, W\), got .*\(1, 3, 4, 4, 4\)"),
        (torch.zeros(16, 4, 4, 4), r"x must be \(N, 16, T, H, W\), got .*\(16, 4, 4, 4\)"),
        (torch.zeros(1, 16, 4, 4, 4).bfloat16(), "x is torch.bfloat16 but the weights are torch.float32"),
        (torch.zeros(1, 16, 4, 4, 4, device="meta"), "x is on meta, but the weights on cpu"),
        (torch.zeros(1, 16, 4, 4, 2), r"x of .*\(4, 4, 2\) .*must fill the kernel of \(3, 3, 3\)"),
    ],
)
def test_clips_that_do_not_fit(x: Tensor, message: str) -> None:
    fused = fasti3d.fuse(nn.Sequential(conv(padding=(1, 1, 0))).eval())
    with pytest.raises(ValueError, match=message):
        fused(x)


def test_empty_batches() -> None:
    assert run(fasti3d.fuse(chain()), torch.zeros(0, 16, 3, 4, 5)).shape == (0, 16, 3, 4, 5)
    factored = nn.Sequential(nn.Conv3d(16, 8, (1, 3, 3))).eval()
    assert run(fasti3d.fuse(factored), torch.zeros(0, 16, 3, 4, 5)).shape == (0, 8, 3, 2, 3)


def test_modules_that_cannot_be_fused() -> None:
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got function"):
        fasti3d.fuse(lambda x: x)  # type: ignore[arg-type]
    module = chain()
    module[1].train()
    with pytest.raises(ValueError, match=r"eval mode, but 1 \(BatchNorm3d\) .*module\.eval\(\)"):
        fasti3d.fuse(module)
    with pytest.raises(ValueError, match=r"eval mode, but it \(Sequential\)"):
        fasti3d.fuse(chain().train())
    for nothing in (
        nn.ReLU(),
        nn.Sequential(nn.Linear(2, 2)),
        nn.Sequential(conv(groups=4)),
        conv().double(),
    ):
        with pytest.raises(ValueError, match=rf"module \({type(nothing).__name__}\) holds no nn\.Conv3d"):
            fasti3d.fuse(nothing.eval())


def test_a_convolution_by_itself() -> None:
    module = conv().eval()
    fused = fasti3d.fuse(module)
    assert repr(fused) == (
        "FusedConv3d(16, 16, kernel_size=(3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1), relu=False)"
    )
    x = random(1, 16, 3, 4, 5)
    assert_close("conv3d", run(fused, x), exact(module, x))


def test_the_name_is_the_function_however_it_is_imported() -> None:
    import fasti3d.fusion.fuse

    assert fasti3d.fuse is fasti3d.fusion.fuse.fuse
