"""Usual calling code of cv2.optflow's users, with only the import line changed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fasti3d import compat
from fasti3d.compat import DualTVL1OpticalFlow
from fasti3d.compat import dual_tvl1 as optflow
from fasti3d.flow import TVL1Params, tvl1

ACCESSORS = {
    "Tau": 0.2,
    "Lambda": 0.1,
    "Theta": 0.25,
    "ScalesNumber": 3,
    "WarpingsNumber": 2,
    "Epsilon": 0.05,
    "InnerIterations": 6,
    "OuterIterations": 2,
    "ScaleStep": 0.7,
    "Gamma": 0.1,
    "MedianFiltering": 3,
    "UseInitialFlow": True,
}
PARAMS = TVL1Params(
    tau=0.2, lambda_=0.1, theta=0.25, nscales=3, warps=2, epsilon=0.05, inner_iterations=6,
    outer_iterations=2, scale_step=0.7, gamma=0.1, median_filtering=3,
)  # fmt: skip


def frames() -> tuple[np.ndarray, np.ndarray]:
    """Two grey images (40, 56), the second moved to the right by one and a half pixels."""
    x, y = np.arange(56), np.arange(40)[:, None]

    def texture(x: np.ndarray) -> np.ndarray:
        waves = np.sin(0.5 * x + 0.3 * y) + np.sin(0.9 * y - 0.2 * x) + np.cos(0.31 * x)
        return (waves * 40 + 128).astype(np.uint8)

    return texture(x), texture(x - 1.5)


@pytest.fixture(scope="module")
def theirs() -> ModuleType:
    cv2 = pytest.importorskip("cv2")
    if not hasattr(cv2, "optflow"):
        pytest.skip("this OpenCV was built without its contributed modules")
    return cv2.optflow


def test_calling_code_of_opencv() -> None:
    prev, following = frames()
    solver = optflow.DualTVL1OpticalFlow_create()
    solver.setScalesNumber(2)
    flow = solver.calc(prev, following, None)
    assert isinstance(flow, np.ndarray)
    assert flow.shape == (40, 56, 2)
    assert flow.dtype == np.float32
    assert flow.flags.c_contiguous
    assert abs(flow[8:-8, 8:-8, 0].mean() - 1.5) < 0.1
    assert abs(flow[8:-8, 8:-8, 1].mean()) < 0.1
    solver.collectGarbage()
    assert np.array_equal(solver.calc(prev, following, None), flow)
    again = optflow.DualTVL1OpticalFlow.create(nscales=2).calc(prev, following, None)
    assert np.array_equal(again, flow)


def test_names_and_order_of_arguments_are_opencvs(theirs: ModuleType) -> None:
    documented = theirs.DualTVL1OpticalFlow_create.__doc__.split("->")[0]
    names = re.findall(r"\w+", documented.split("(", 1)[1])
    assert list(inspect.signature(optflow.DualTVL1OpticalFlow_create).parameters) == names
    accessors = {name for name in dir(theirs.DualTVL1OpticalFlow) if re.match("[gs]et[A-Z]", name)}
    assert accessors - {"getDefaultName"} == {
        f"{verb}{name}" for name in ACCESSORS for verb in ("get", "set")
    }


def test_nothing_of_opencvs_is_missing(theirs: ModuleType) -> None:
    public = {name for name in dir(theirs.DualTVL1OpticalFlow_create()) if not name.startswith("_")}
    assert {"getDefaultName", "clear", "empty", "save", "read", "write", "calc"} <= public
    ours = optflow.DualTVL1OpticalFlow_create()
    assert public <= set(dir(ours))
    for name in public - {"create"}:
        documented = getattr(theirs.DualTVL1OpticalFlow, name).__doc__.split("->")[0]
        arguments = re.findall(r"\w+", documented.split("(", 1)[1])
        assert list(inspect.signature(getattr(ours, name)).parameters)[: len(arguments)] == arguments
    factories = {name for name in dir(theirs) if "DualTVL1" in name}
    assert factories <= set(dir(optflow))
    assert factories <= set(compat.__all__)


def test_what_opencvs_algorithms_answer(theirs: ModuleType) -> None:
    solver = optflow.createOptFlow_DualTVL1()
    assert solver.getDefaultName() == theirs.createOptFlow_DualTVL1().getDefaultName()
    solver.setTau(0.1)
    assert solver.empty() is theirs.createOptFlow_DualTVL1().empty()
    assert solver.clear() is None
    assert solver.getTau() == 0.1


@pytest.mark.parametrize("suffix", ["yml", "yaml", "json", "xml"])
def test_saved_parameters_are_read_by_opencv(theirs: ModuleType, suffix: str, tmp_path: Path) -> None:
    import cv2

    path = tmp_path / f"tvl1.{suffix}"
    DualTVL1OpticalFlow.create(*ACCESSORS.values()).save(path)
    again = optflow.createOptFlow_DualTVL1()
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    again.read(file.root())
    file.release()
    assert [getattr(again, f"get{name}")() for name in ACCESSORS] == list(ACCESSORS.values())
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    again.write(file, "flow")
    file.release()
    third = optflow.createOptFlow_DualTVL1()
    file.open(str(path), cv2.FILE_STORAGE_READ)
    third.read(file.getNode("flow"))
    file.release()
    assert [getattr(third, f"get{name}")() for name in ACCESSORS] == list(ACCESSORS.values())
    with pytest.raises(OSError, match="nowhere"):
        again.save(tmp_path / "nowhere" / path.name)


def test_setters_take_what_opencvs_take(theirs: ModuleType) -> None:
    for solver in (theirs.createOptFlow_DualTVL1(), optflow.createOptFlow_DualTVL1()):
        for name, value in (("WarpingsNumber", 3.5), ("Tau", "fast")):
            with pytest.raises(TypeError, match="val"):
                getattr(solver, f"set{name}")(value)
        for name, value, kept in (
            ("Tau", 1, 1.0),
            ("UseInitialFlow", 1, True),
            ("ScalesNumber", np.int64(3), 3),
        ):
            getattr(solver, f"set{name}")(value)
            assert getattr(solver, f"get{name}")() == kept
            assert type(getattr(solver, f"get{name}")()) is type(kept)


def test_defaults_are_opencvs(theirs: ModuleType) -> None:
    for ours in (optflow.createOptFlow_DualTVL1(), optflow.DualTVL1OpticalFlow_create()):
        for name in ACCESSORS:
            assert getattr(ours, f"get{name}")() == getattr(theirs.createOptFlow_DualTVL1(), f"get{name}")()


def test_accessors_reach_the_solver() -> None:
    solver = optflow.createOptFlow_DualTVL1()
    for name, value in ACCESSORS.items():
        assert getattr(solver, f"get{name}")() != value
        assert getattr(solver, f"set{name}")(value) is None
    for name, value in ACCESSORS.items():
        assert getattr(solver, f"get{name}")() == value
    created = DualTVL1OpticalFlow.create(*ACCESSORS.values())
    prev, following = frames()
    start = np.full((40, 56, 2), 0.7, np.float32)
    wanted = tvl1(prev, following, params=PARAMS, initial_flow=start.transpose(2, 0, 1)).transpose(1, 2, 0)
    for made in (solver, created):
        assert np.array_equal(made.calc(prev, following, start.copy()), wanted)
    assert optflow.createOptFlow_DualTVL1().getTau() == 0.25


@pytest.mark.parametrize("use_initial_flow", [False, True])
def test_same_flow_as_opencv(theirs: ModuleType, use_initial_flow: bool) -> None:
    arguments: dict[str, Any] = {
        "nscales": 1, "warps": 1, "epsilon": 0, "innnerIterations": 10, "outerIterations": 2,
        "useInitialFlow": use_initial_flow,
    }  # fmt: skip
    prev, following = frames()
    start = np.full((40, 56, 2), 0.5, np.float32)
    wanted = theirs.DualTVL1OpticalFlow_create(**arguments).calc(prev, following, start.copy())
    ours = optflow.DualTVL1OpticalFlow_create(**arguments).calc(prev, following, start)
    assert np.abs(ours - wanted).max() <= 1e-3
    assert np.abs(ours).max() > 1


@pytest.mark.parametrize("start", [False, True], ids=["from zero", "from a flow"])
@pytest.mark.parametrize(
    "changed",
    [
        {"medianFiltering": -1},
        {"warps": 0},
        {"warps": -2},
        {"innnerIterations": 0},
        {"innnerIterations": -3},
        {"outerIterations": 0},
        {"epsilon": -0.01},
        {"gamma": -0.5},
        {"tau": 0},
        {"lambda_": 0},
        {"scaleStep": 1.0, "nscales": 2},
    ],
    ids=str,
)
def test_limits_of_parameters_are_opencvs(theirs: ModuleType, changed: dict[str, Any], start: bool) -> None:
    arguments: dict[str, Any] = {
        "nscales": 2, "warps": 1, "epsilon": 0, "innnerIterations": 5, "outerIterations": 2,
        "useInitialFlow": start,
    } | changed  # fmt: skip
    prev, following = frames()
    flow = np.stack(np.meshgrid(np.linspace(0.5, 1, 56), np.linspace(-0.5, 0, 40)), axis=2).astype(np.float32)
    wanted = theirs.DualTVL1OpticalFlow_create(**arguments).calc(prev, following, flow.copy())
    ours = optflow.DualTVL1OpticalFlow_create(**arguments).calc(prev, following, flow.copy())
    assert np.abs(ours - wanted).max() <= 2e-3
    still = min(arguments["warps"], arguments["innnerIterations"], arguments["outerIterations"]) < 1
    assert (np.abs(wanted).max() > 0.1) == (start or not (still or "lambda_" in changed))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, -20.0), (1 / 255, 0.0), (1e-4, 0.0)])
def test_floats_of_any_range_as_in_opencv(theirs: ModuleType, scale: float, shift: float) -> None:
    prev, following = (frame.astype(np.float32) * np.float32(scale) + np.float32(shift) for frame in frames())
    arguments: dict[str, Any] = {
        "nscales": 1, "warps": 1, "epsilon": 0, "innnerIterations": 2, "outerIterations": 1,
    }  # fmt: skip
    wanted = theirs.DualTVL1OpticalFlow_create(**arguments).calc(prev, following, None)
    ours = optflow.DualTVL1OpticalFlow_create(**arguments).calc(prev, following, None)
    # An image of this range moves flow by up to lambda * theta * gradient each iteration.
    assert np.abs(ours - wanted).max() <= 1e-3 * max(1, np.abs(wanted).max())
    assert np.abs(wanted).max() > 0.01


def test_umats_in_and_out(theirs: ModuleType) -> None:
    from cv2 import UMat

    prev, following = frames()
    for solver in (
        theirs.DualTVL1OpticalFlow_create(nscales=1, warps=1),
        DualTVL1OpticalFlow.create(nscales=1, warps=1),
    ):
        wanted = solver.calc(prev, following, None)
        for first, second in ((UMat(prev), UMat(following)), (UMat(prev), following)):
            result = solver.calc(first, second, None)
            assert isinstance(result, UMat)
            assert np.array_equal(result.get(), wanted)
        out = UMat(np.zeros((40, 56, 2), np.float32))
        result = solver.calc(prev, following, out)
        assert isinstance(result, UMat)
        assert np.array_equal(out.get(), wanted)
        assert np.array_equal(result.get(), wanted)
        solver.setUseInitialFlow(True)
        start = np.full((40, 56, 2), 0.5, np.float32)
        wanted = solver.calc(prev, following, start.copy())
        assert np.array_equal(solver.calc(UMat(prev), UMat(following), UMat(start)).get(), wanted)


def test_flow_is_written_into_where_it_fits() -> None:
    prev, following = frames()
    solver = DualTVL1OpticalFlow.create(nscales=1, warps=1)
    wanted = solver.calc(prev, following, None)
    flow = np.zeros((40, 56, 2), np.float32)
    assert solver.calc(prev, following, flow) is flow
    assert np.array_equal(flow, wanted)
    for other in (np.zeros((40, 56, 2)), np.zeros((5, 56, 2), np.float32)):
        result = solver.calc(prev, following, other)
        assert np.array_equal(result, wanted)
        assert not np.shares_memory(result, other)
        assert not other.any()


def test_images_as_opencv_takes_them() -> None:
    prev, following = frames()
    solver = DualTVL1OpticalFlow.create(nscales=1, warps=1)
    wanted = solver.calc(prev, following, None)
    assert np.array_equal(solver.calc(prev[..., None], following[..., None], None), wanted)
    floats = solver.calc(prev.astype(np.float32) / 255, following.astype(np.float32) / 255, None)
    assert np.abs(floats - wanted).mean() < 1e-3


def test_a_small_image_does_not_change_the_solver() -> None:
    solver = optflow.createOptFlow_DualTVL1()
    solver.calc(np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8), None)
    assert solver.getScalesNumber() == 5


def test_wrong_values_are_errors_of_calc() -> None:
    prev, following = frames()
    solver = optflow.createOptFlow_DualTVL1()
    solver.setTau(-1)
    assert solver.getTau() == -1
    with pytest.raises(ValueError, match="tau must be above 0, got -1"):
        solver.calc(prev, following, None)
    solver.setTau(0.25)
    solver.setUseInitialFlow(True)
    for flow, got in ((None, "None"), (np.zeros((40, 56, 2)), r"float64 \(40, 56, 2\)")):
        with pytest.raises(
            ValueError, match=rf"flow must be float32 \(40, 56, 2\) to start from, got {got}: "
        ):
            solver.calc(prev, following, flow)


@pytest.mark.parametrize(
    ("second", "error", "message"),
    [
        (
            np.zeros((40, 56, 3), np.uint8),
            ValueError,
            r"I1 must be a grayscale image .* got shape",
        ),
        (np.zeros((40, 50), np.uint8), ValueError, r"one shape, got \(40, 56\) and \(40, 50\)"),
        (np.zeros((40, 56), np.float32), ValueError, "one dtype, got uint8 and float32"),
        (np.zeros((40, 56), np.int16), ValueError, "got int16"),
        ([[0]], TypeError, "I1 must be a NumPy array or a cv2.UMat, got list"),
    ],
)
def test_wrong_images(second: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optflow.createOptFlow_DualTVL1().calc(frames()[0], second, None)
