"""TV-L1's accuracy against its time: endpoint errors on FlyingChairs, and what settings trade for what."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from benchmarks import flow_data, flow_peers
from benchmarks.conftest import PairRace
from benchmarks.flow_peers import Solver
from fasti3d.flow import PRESETS, TVL1Params, average_endpoint_error

# Per curve of the plot: the preset, and which of its fields takes which values instead of its own.
CURVES: list[tuple[str, str, tuple[float, ...]]] = [
    ("i3d", "epsilon", (0.1, 0.05, 0.02, 0.005)),
    ("i3d", "warps", (1, 2, 10)),
    ("i3d", "scale_step", (0.5, 0.6, 0.7)),
    ("i3d", "nscales", (3, 7, 10)),
    ("large-motion", "epsilon", (0.1, 0.05, 0.02, 0.005)),
]
OURS: dict[str, Solver] = {f"fasti3d {name}": flow_peers.fasti3d(params) for name, params in PRESETS.items()}
VARIED = [
    pytest.param(preset, field, value, id=f"{preset} {field} {value}")
    for preset, field, values in CURVES
    for value in values
]


@functools.lru_cache(maxsize=1)
def chairs() -> list[flow_data.Chairs]:
    pairs = flow_data.chairs()
    if not pairs:
        pytest.skip(f"no FlyingChairs in {flow_data.FOLDER / 'flow'}: set FASTI3D_TEST_DATA")
    return pairs


def measure(
    race: PairRace,
    candidate: str,
    solve: Solver,
    ours: Solver | None = None,
    *,
    pairs: list[flow_data.Chairs] | None = None,
    group: str = "TV-L1 accuracy",
    case: str = "FlyingChairs",
) -> None:
    """Mean endpoint error over all pixels of all pairs, and the time a pair."""
    pairs = chairs() if pairs is None else pairs
    flows: list[Tensor] = []

    def kept(frame0: Tensor, frame1: Tensor) -> None:
        flows.append(solve(frame0, frame1))

    height, width = pairs[0].frame0.shape
    race.benchmark.group = group
    race.benchmark.extra_info |= {
        "candidate": candidate,
        "case": f"{case}, {len(pairs)} pairs of {width}x{height}",
    }
    race(kept, [(pair.frame0, pair.frame1) for pair in pairs], ours=ours)
    if race.benchmark.stats is not None:  # else --benchmark-disable, which solves one pair only
        truths = torch.stack([pair.truth for pair in pairs])
        race.benchmark.extra_info["endpoint_error"] = average_endpoint_error(torch.stack(flows), truths)


def test_tvl1_zero_flow(pair_race: PairRace) -> None:
    measure(pair_race, "zero flow", lambda frame0, _: torch.zeros((2, *frame0.shape)))


@pytest.mark.parametrize("name", OURS)
def test_tvl1_preset(pair_race: PairRace, name: str) -> None:
    measure(pair_race, name, OURS[name])


@pytest.mark.parametrize("peer", flow_peers.PEERS)
def test_tvl1_peer_accuracy(pair_race: PairRace, peer: str) -> None:
    flow_peers.skip_without(peer)
    measure(pair_race, peer, flow_peers.PEERS[peer](), OURS["fasti3d i3d"])


@pytest.mark.parametrize("name", [*OURS, *flow_peers.PEERS])
@pytest.mark.parametrize("pixels", [5, 10, 20, 30])
def test_tvl1_shift(pair_race: PairRace, pixels: int, name: str) -> None:
    """How large a motion a solver finds at all: that of a whole image, sideways."""
    if name in flow_peers.PEERS:
        flow_peers.skip_without(name)
    solve = OURS[name] if name in OURS else flow_peers.PEERS[name]()
    pairs = [flow_data.shifted(pair.frame0, pixels) for pair in chairs()]
    measure(pair_race, name, solve, pairs=pairs, group="TV-L1 shift", case=f"by {pixels} pixels")


@pytest.mark.parametrize(("preset", "field", "value"), VARIED)
def test_tvl1_setting(pair_race: PairRace, preset: str, field: str, value: float) -> None:
    default = getattr(PRESETS[preset], field)
    pair_race.benchmark.extra_info |= {"preset": preset, "field": field, "value": value, "default": default}
    params = TVL1Params.preset(preset, **{field: value})
    measure(pair_race, f"fasti3d {preset}, {field} {value}", flow_peers.fasti3d(params))
