"""The one list of an extraction's parameters: what it defaults to, refuses, records and overrides."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
from extraction_making import Shown, plain, record, write_video

import fasti3d
from fasti3d.cli import app
from fasti3d.extraction import ExtractionSettings, find_sources
from fasti3d.extraction.job import take_shard
from fasti3d.flow import TVL1Params

NAMES = [field.name for field in fields(ExtractionSettings)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "a.mkv", plain([9 * i for i in range(25)]))


def test_records_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """As 0.1 wrote them: outputs made by it are finished, and not made again."""
    plainly = {
        "streams": "rgb",
        "mode": "windows",
        "features": "pooled",
        "stack": 64,
        "step": 64,
        "fps": 25.0,
        "crops": 1,
        "flip": False,
        "tail": "pad",
        "partial": False,
        "format": "npy",
        "layout": "default",
        "device": "cpu",
        "dtype": "float32",
    }
    placed: dict[str, Any] = {"device": "cpu", "dtype": "float32"}

    def found(**options: Any) -> dict[str, Any]:
        return ExtractionSettings(**placed, **options).as_json()

    assert found() == plainly
    assert found(workers=3, retry_errors=True, overwrite=True, shard=(1, 2), ray="auto") == plainly
    assert found(stack=10) == plainly | {"stack": 10, "step": 10}
    assert found(crops=10) == found(crops=5, flip=True) == plainly | {"crops": 5, "flip": True}
    assert found(layout="video_features") == plainly | {
        "layout": "video_features",
        "tail": "drop",
        "frames": "pillow",
    }
    dense = {name: value for name, value in plainly.items() if name not in ("stack", "step", "tail")}
    assert found(mode="dense") == dense | {"mode": "dense"}
    flow = plainly | {"streams": "flow", "flow_preset": "readme"}
    assert found(streams="flow") == flow | {"tvl1": asdict(TVL1Params())}
    assert found(streams="flow", flow_from=tmp_path, flow_bound=15) == flow | {"flow_bound": 15.0}


def test_keywords_override_settings(clip: Path, tmp_path: Path) -> None:
    given = ExtractionSettings(stack=10, crops=10, format="npz", shard=(2, 2))

    def recorded(name: str, settings: ExtractionSettings | None, **options: Any) -> dict[str, Any]:
        fasti3d.extract(clip, tmp_path / name, model=Shown(), settings=settings, **options)
        path = tmp_path / name / "a.json"
        return record(path)["made"]["settings"] if path.exists() else {}

    assert recorded("none", given) == {}  # the second of two parts of one video
    kept = recorded("kept", given, shard=None)
    assert (kept["stack"], kept["step"], kept["crops"], kept["flip"], kept["format"]) == (
        10,
        10,
        5,
        True,
        "npz",
    )
    changed = recorded("changed", given, shard=None, stack=12, crops=1, format="npy")
    assert (changed["stack"], changed["step"], changed["crops"], changed["flip"]) == (12, 12, 1, False)
    assert recorded("reset", given, shard=None, stack=None)["stack"] == 64
    assert recorded("both", ExtractionSettings(**changed | {"device": "auto"})) == changed
    assert recorded("alone", None, stack=12) == changed
    with pytest.raises(ValueError, match=r"stack is of windows, and mode dense has none: .*, got 10"):
        recorded("dense", given, mode="dense")


def test_what_is_no_setting_is_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'stak': its settings are str.*stack"):
        fasti3d.extract(clip, tmp_path / "out", model=Shown(), stak=10)
    with pytest.raises(TypeError, match=r"settings must be an ExtractionSettings, got dict: give its fields"):
        fasti3d.extract(clip, tmp_path / "out", model=Shown(), settings={"stack": 10})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_settings_stay_as_they_are() -> None:
    settings = ExtractionSettings(stack=10, flow_bound=20.0)
    with pytest.raises(FrozenInstanceError):
        settings.stack = 12  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_every_parameter_is_documented_offered_and_an_option() -> None:
    """The list stands once: what shows it to people is made from it, or has all of it."""
    documentation = inspect.getdoc(ExtractionSettings) or ""
    assert [name for name in NAMES if name not in documentation] == []
    parameters = inspect.signature(fasti3d.extract).parameters
    assert list(parameters) == ["sources", "out", "model", "flow_model", "settings", "progress", *NAMES]
    for field in fields(ExtractionSettings):
        assert parameters[field.name].default == field.default
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {parameter.name: parameter.default for parameter in commands["extract"].params}
    told = {"format": "file_format", "tvl1_params": "tvl1_preset"}
    assert [name for name in NAMES if told.get(name, name) not in options] == []
    for field in fields(ExtractionSettings):
        if field.name not in ("network", "tvl1_params"):
            assert options[told.get(field.name, field.name)] == field.default, field.name


def test_a_shard_is_every_nth_video(tmp_path: Path) -> None:
    for i in range(5):
        (tmp_path / f"{i}.mp4").touch()
    videos = find_sources([tmp_path])
    assert [[int(video.name) for video in take_shard(videos, i, 3)] for i in (1, 2, 3)] == [
        [0, 3],
        [1, 4],
        [2],
    ]
