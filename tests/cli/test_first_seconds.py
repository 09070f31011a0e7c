"""What is answered at once: version, help and wrong usage, without torch and the other slow imports."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import get_args

import pytest

from fasti3d import choices
from fasti3d.extraction.settings import ExtractionSettings
from fasti3d.flow.params import PRESETS as TVL1_PRESETS
from fasti3d.metrics.limits import LAYOUTS
from fasti3d.metrics.presets import PRESETS as FVD_PRESETS
from fasti3d.runtime.devices import DTYPES

SLOW = ("torch", "numpy", "av", "matplotlib", "triton", "safetensors", "filelock", "platformdirs", "PIL")
WRONG = (
    "clasify",
    "weights fetch",
    "weights get kinetics-rgb",
    "weights verify kinetics-rgb",
    "weights convert x.pt",
    "weights inflate x.pth",
    "weights inflate x.pth -o x --mode mean",
    "classify",
    "classify {video} --colour",
    "classify {video} --window 8",
    "classify {video} --network r50",
    "classify {video} --window ten",
    "classify {video} --fps 0",
    "classify {video} --device tpu",
    "classify {video} --dtype half",
    "classify {video} --streams depth",
    "classify {video} --streams both",
    "classify {video} --flow-preset raw",
    "classify {video} --tvl1-preset i4d",
    "classify {video} --weights nothing.pt",
    "classify {video} --streams flow --flow-weights nothing.pt",
    "classify {video} --timeline x.gif",
    "dataset check",
    "dataset check --dataset ucf101",
    "dataset check --dataset ucf --root .",
    "dataset check --dataset ucf101 --root {video}",
    "dataset check --dataset ucf101 --root . --split 4",
    "dataset check --dataset hmdb51 --root . --annotations nowhere",
    "dataset check --dataset kinetics400 --root . --list {video}",
    "dataset check --dataset list --root .",
    "dataset check --dataset list --list nothing.txt",
    "dataset check --dataset folder --root . --holdout 2",
    "dataset check --dataset folder --root . --holdout 0.2 --group (",
    "demo --out x.gif",
    "evaluate",
    "evaluate {video} --dataset ucf101 --root .",
    "evaluate {video} --root . -o x.npz",
    "evaluate {video} --dataset ucf101 -o x.npz",
    "evaluate {video} --dataset ucf102 --root . -o x.npz",
    "evaluate {video} --dataset ucf101 --root . --split 4 -o x.npz",
    "evaluate {video} --dataset ucf101 --root . --subset val -o x.npz",
    "evaluate {video} --dataset ucf101 --root . --views 3x3 -o x.npz",
    "evaluate {video} --dataset ucf101 --root . -o x.csv",
    "evaluate {video} --dataset ucf101 --root . -o gone/x.npz",
    "evaluate {video} --dataset ucf101 --root . -o x.npz --workers 0",
    "evaluate {video} --dataset ucf101 --root . -o x.npz --flow-weight 2",
    "evaluate nothing.pt --dataset ucf101 --root . -o x.npz",
    "evaluate tests --dataset ucf101 --root . -o x.npz",
    "evaluate {video} {video} --dataset ucf101 --root . -o x.npz",
    "evaluate --fuse {video}",
    "evaluate --fuse {video} nothing.npz",
    "evaluate --fuse {video} {video} --flow-weight 0",
    "evaluate --fuse {video} {video} --fusion product",
    "evaluate --fuse {video} {video} --dataset ucf101",
    "export",
    "export i3d_rgb",
    "export i3d_rgb -o x.gif",
    "export i3d_rgb -o x.pt2 --onnx",
    "export i3d_rgb -o x.onnx --onnx --aoti",
    "export i3d_rgb -o nowhere/x.onnx",
    "export i3d_rgb -o {video}",
    "export i3d_rgb -o x.onnx --clip 64,224",
    "export i3d_rgb -o x.onnx --output Softmax",
    "export i3d_rgb -o x.onnx --dtype float64",
    "export i3d_rgb -o x.onnx --video nothing.mp4",
    "export i3d_rgb -o x.onnx --flow-weights {video}",
    "export nothing.pt -o x.onnx",
    "extract {video}",
    "extract {video} -o x --mode sparse",
    "extract {video} -o x --features pool",
    "extract {video} -o x --stack 8",
    "extract {video} -o x --network i3d-r50",
    "extract {video} -o x --step 0",
    "extract {video} -o x --crops 2",
    "extract {video} -o x --format h5",
    "extract {video} -o x --layout mine",
    "extract {video} -o x --layout video_features --format npz",
    "extract {video} -o x --shard 1",
    "extract nothing.mp4 -o x",
    "finetune",
    "finetune --dataset ucf101 -o x",
    "finetune --dataset ucf101 --root . --weights scratch",
    "finetune --dataset ucf101 --root . --weights nothing.pt -o x",
    "finetune --dataset ucf102 --root . --weights scratch -o x",
    "finetune --dataset ucf101 --root nowhere --weights scratch -o x",
    "finetune --dataset ucf101 --root . --weights scratch -o x --split 4",
    "finetune --dataset ucf101 --root . --weights scratch -o {video}",
    "finetune --dataset ucf101 --root . --weights scratch -o {video}/x",
    "finetune --dataset ucf101 --root . --weights scratch -o x --batch 0",
    "finetune --dataset ucf101 --root . --weights scratch -o x --steps 5 --epochs 5",
    "finetune --dataset ucf101 --root . --weights scratch -o x --lr -1",
    "finetune --dataset ucf101 --root . --weights scratch -o x --amp fp8",
    "finetune --dataset ucf101 --root . --weights scratch -o x --freeze head",
    "finetune --dataset ucf101 --root . --weights scratch -o x --freeze bn --sync-bn",
    "finetune --dataset ucf101 --root . --weights scratch -o x --stream both",
    "finetune --dataset ucf101 --root . --weights scratch -o x --max-bad many",
    "finetune --dataset ucf101 --root . --weights scratch -o x --device tpu",
    "finetune --dataset ucf101 --root . --weights scratch -o x --flow-from .",
    "finetune --dataset ucf101 --root . --weights scratch -o x --config nothing.json",
    "finetune --dataset ucf101 --root . --weights scratch -o x --validation-list y",
    "flow {video}",
    "flow {video} -o x.avi",
    "flow {video} -o x --format png",
    "flow {video} -o x --preset i4d",
    "flow {video} -o x --resize 0",
    "flow {video} -o x --cache --viz",
    "fvd a",
    "fvd a b --frames 8",
    "fvd a b --preset google",
    "fvd a b --layout THWC",
    "fvd a b --range 1,0",
    "fvd a b --bootstrap 1",
    "fvd a b --save-stats x.npy",
    "fvd a b --plot x.gif",
    "plan --shape a,b",
    "plan --dtype int8",
    "plan --network i3d-r50",
    "tune --dtype float64",
    "doctor --colour",
)


def loaded(code: str, *arguments: object) -> tuple[list[str], list[str]]:
    """What a new process prints, and which of the slow packages it has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return done.stdout.splitlines(), sorted(names.intersection(SLOW))


def test_help_of_every_verb_and_wrong_usage_import_nothing_slow() -> None:
    code = """
import json, sys
import typer.main
from typer.testing import CliRunner
from fasti3d.cli import app
def verbs(command, *path):
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, *path, name)
calls = [[*path, "--help"] for path in verbs(typer.main.get_command(app))]
calls += [["--version"], ["weights", "list"]]
wrong = [call.format(video=sys.executable).split() for call in json.loads(sys.argv[1])]
ends = {" ".join(call): CliRunner().invoke(app, call).exit_code for call in calls + wrong}
print(json.dumps([len(calls), [call for call in map(" ".join, calls) if ends[call] != 0]]))
print(json.dumps([call for call in map(" ".join, wrong) if ends[call] != 2]))
"""
    (right, wrong), slow = loaded(code, json.dumps(WRONG))
    assert json.loads(right)[0] > 12
    assert json.loads(right)[1] == []
    assert json.loads(wrong) == []
    assert slow == []


@pytest.mark.parametrize(
    "start", ["import runpy; runpy.run_module('fasti3d', run_name='__main__')", "main()"]
)
def test_the_command_starts_without_torch(start: str) -> None:
    code = f"""
import runpy, sys
from fasti3d.cli import main
sys.argv = ["fasti3d", "--version"]
try:
    {start}
except SystemExit as end:
    assert not end.code
"""
    said, slow = loaded(code)
    assert said[0].startswith("fasti3d ")
    assert slow == []


def test_the_names_to_choose_from_are_those_that_there_are() -> None:
    assert get_args(choices.TVL1Preset) == tuple(TVL1_PRESETS)
    assert get_args(choices.FVDPreset) == tuple(FVD_PRESETS)
    assert get_args(choices.ClipLayout) == tuple(LAYOUTS)
    assert get_args(choices.Dtype) == tuple(DTYPES)
    for name, kind in {"mode": choices.Mode, "tail": choices.Tail, "format": choices.Format}.items():
        for value in get_args(kind):
            assert getattr(ExtractionSettings(**{name: value}), name) == value
