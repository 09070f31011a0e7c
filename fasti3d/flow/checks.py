"""Checks of arguments about flow in pictures, which need no torch."""

from __future__ import annotations

import os
from pathlib import Path

from fasti3d.flow.params import PRESETS, TVL1Params

# What denseflow and TSN cut motion off at unless told otherwise, in pixels.
BOUND = 20.0


def check_bound(bound: float, name: str = "bound") -> None:
    """ValueError for a bound that nothing can be scaled by."""
    if not 0 < bound < float("inf"):
        raise ValueError(f"{name} must be above 0, in pixels, got {bound}")


def check_flow_from(
    flow_from: str | os.PathLike[str] | None, bound: float, *, flowing: bool, preset: str, params: TVL1Params
) -> None:
    """ValueError for a folder of flow to read from, or none, that does not go with the other arguments."""
    if flow_from is None:
        if bound != BOUND:
            raise ValueError(f"flow_bound is that of flow_from, which is not given: give both, got {bound}")
        return
    check_bound(bound, "flow_bound")
    if not flowing:
        raise ValueError("flow_from is given, but streams is 'rgb': choose 'flow' or 'both'")
    if preset != "readme":
        raise ValueError(f"flow_preset must be readme with flow_from, as flow is stored, got {preset!r}")
    if params != PRESETS["i3d"]:
        raise ValueError("tvl1_params are for computing flow, which flow_from spares: give one of them")
    if not Path(flow_from).is_dir():
        raise ValueError(f"flow_from must be a folder that holds a folder of flow per video, got {flow_from}")
