"""Videos through the networks that zoos call I3D: which frames and pixels they see, and what is recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from resnet_making import make, randomize
from torch import nn
from typer.testing import CliRunner

import fasti3d
from fasti3d.backbone import Backbone
from fasti3d.cli import app
from fasti3d.extraction import ExtractionSettings
from fasti3d.models import load_backbone
from fasti3d.preprocessing import NORMALIZATIONS
from fasti3d.resnet.variants import VARIANTS
from fasti3d.video.read import read_sized
from fasti3d.weights import WeightsError
from fasti3d.weights.resnet_formats import NAMINGS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "extraction"))
from extraction_making import errors, moving, plain, record, write_video

pytestmark = pytest.mark.usefixtures("narrow")

ANOMALY = {"layout": "anomaly"}


class Seen(fasti3d.I3DResNet):
    """Keeps the clips that it is shown."""

    def __init__(self, variant: str) -> None:
        nn.Module.__init__(self)
        self.variant, self.depth, self.non_local = variant, 50, None
        self.table = VARIANTS[variant]
        self.weight = nn.Parameter(torch.ones(1))
        self.clips: list[torch.Tensor] = []

    def extract_features(self, x: torch.Tensor) -> torch.Tensor:
        self.clips += list(x)
        return x.mean(dim=(3, 4))


@pytest.fixture(scope="module")
def landscape(tmp_path_factory) -> Path:
    return write_video(tmp_path_factory.mktemp("wide") / "wide.mkv", moving(33, 40, 64))


@pytest.fixture(scope="module")
def saved(narrow, tmp_path_factory) -> Path:
    """Weights in the port's names, five classes."""
    path = tmp_path_factory.mktemp("weights") / "i3d_r50.pth"
    torch.save(make("caffe2-32x2").state_dict(), path)
    return path


def pixels(path: Path, size) -> torch.Tensor:
    """Frames (T, H, W, 3) in floats of 0 to 255."""
    frames = read_sized(path, size, None, fps=None, strict=True)
    return torch.stack([frame.image for frame in frames]).float()


@pytest.mark.parametrize(("frames", "snippets"), [(15, 0), (16, 1), (17, 1), (31, 1), (32, 2), (33, 2)])
def test_snippets_of_the_layout_anomaly(tmp_path, frames, snippets):
    video = write_video(tmp_path / "v.mkv", plain(range(frames)))
    done = fasti3d.extract(video, tmp_path / "out", model=Seen("caffe2-32x2"), **ANOMALY)
    if not snippets:
        assert errors(tmp_path / "out") == {
            "v": "has 15 frames, fewer than the 16 of a window, and its tail is dropped: use the layout "
            "default"
        }
        assert not (tmp_path / "out" / "v.npy").exists()
        return
    assert (done.rows, len(done.failed)) == (snippets, 0)
    found = np.load(tmp_path / "out" / "v.npy")
    assert (found.shape, found.dtype) == ((snippets, 10, 3), np.float32)
    # Each snippet begins where the one before ends.
    mean, std = NORMALIZATIONS["facebook"].mean[0], NORMALIZATIONS["facebook"].std[0]
    starts = 16 * np.arange(snippets)[:, None, None]
    assert np.allclose(found, (starts + 7.5 - mean) / std, atol=0.02)


@pytest.mark.parametrize("normalization", [None, "symmetric", "facebook"])
def test_ten_crops_in_their_order(landscape, tmp_path, normalization):
    model = Seen("caffe2-32x2")
    fasti3d.extract(landscape, tmp_path, model=model, normalization=normalization, workers=1, **ANOMALY)
    images = pixels(landscape, (256, 340))[:16]
    crops = []
    for frames in (images, images.flip(2)):
        crops += [
            *(frames[:, :224, :224], frames[:, :224, -224:], frames[:, 16:240, 58:282]),
            *(frames[:, -224:, :224], frames[:, -224:, -224:]),
        ]
    mean, std = {"symmetric": (127.5, 127.5)}.get(normalization, (114.75, 57.375))
    assert len(model.clips) == 20
    for i, crop in enumerate(crops):
        assert torch.allclose(model.clips[i], ((crop - mean) / std).permute(3, 0, 1, 2), atol=1e-5), i
    said = record(tmp_path / "wide.json")
    assert said["preprocessing"]["normalization"] == (normalization or "facebook")
    assert said["preprocessing"]["mean"] == [mean] * 3
    assert said["preprocessing"]["std"] == [std] * 3
    assert said["preprocessing"]["crops"][2:6] == [
        *("center", "bottom left", "bottom right", "top left of mirrored"),
    ]
    assert said["made"]["settings"]["normalization"] == (normalization or "facebook")
    with pytest.raises(fasti3d.extraction.ConflictError, match="normalization"):
        fasti3d.extract(landscape, tmp_path, model=model, normalization="imagenet", **ANOMALY)


@pytest.mark.parametrize("turned", [False, True])
def test_three_crops_along_the_longer_side(tmp_path, turned):
    frames = moving(5, 40, 64)
    video = write_video(
        tmp_path / "v.mkv", [np.ascontiguousarray(f.swapaxes(0, 1)) if turned else f for f in frames]
    )
    model = Seen("mmaction2-32x2")
    fasti3d.extract(video, tmp_path / "out", model=model, crops=3, workers=1)
    image = pixels(video, 256)[0]
    mean, std = (torch.tensor(v) for v in NORMALIZATIONS["imagenet"])
    longer = 0 if turned else 1
    assert image.shape[longer] == 410
    for clip, start in zip(model.clips, (0, 77, 154), strict=True):
        expected = ((image.narrow(longer, start, 256) - mean) / std).permute(2, 0, 1)
        assert torch.allclose(clip[:, 0], expected, atol=1e-5)
    assert record(tmp_path / "out" / "v.json")["preprocessing"]["crop"] == 256


@pytest.mark.parametrize(
    ("variant", "fps", "seen"),
    [
        ("pytorchvideo-8x8", 30, [0, 8, 16, 24, 32, 40, 48, 56]),
        ("caffe2-32x2", 25, list(range(0, 64, 2))),
    ],
)
def test_frames_and_their_step(tmp_path, variant, fps, seen):
    """At the rates that the networks were trained on, where every frame is one of the video's."""
    video = write_video(tmp_path / "v.mkv", plain(range(130)), rate=fps)
    model = Seen(variant)
    done = fasti3d.extract(video, tmp_path / "out", model=model, tail="drop", workers=1)
    assert done.rows == 2
    mean, std = (v[0] for v in NORMALIZATIONS["facebook"])
    levels = (model.clips[0].mean(dim=(0, 2, 3)) * std + mean).round().int().tolist()
    assert levels == seen
    assert model.clips[1][0, 0].mean() * std + mean == pytest.approx(64, abs=0.5)
    said = record(tmp_path / "out" / "v.json")
    assert said["rows"]["end_frame"] == [64, 128]
    assert said["preprocessing"]["name"] == variant
    assert (said["preprocessing"]["frames"], said["preprocessing"]["step"]) == (
        VARIANTS[variant].preprocessing.frames,
        VARIANTS[variant].preprocessing.step,
    )
    # A tail that is kept repeats the last frame of the clip.
    fasti3d.extract(video, tmp_path / "pad", model=model, workers=1)
    assert record(tmp_path / "pad" / "v.json")["rows"]["end_frame"] == [64, 128, 130]
    assert model.clips[-1].shape[1] == len(seen)


def test_bytes_are_normalized_as_floats_are(landscape, saved, tmp_path):
    """The network normalizes bytes itself; a class of its own is given floats."""
    model = load_backbone(saved, Backbone("i3d-r50", "caffe2-32x2"), device="cpu", dtype="float32")
    other = type("Other", (fasti3d.I3DResNet,), {})("caffe2-32x2", num_classes=5).eval()
    other.load_state_dict(model.state_dict())
    options = {"stack": 8, "step": 33, "interval": 1, "fps": None, "tail": "drop"}
    for name, network in {"bytes": model, "floats": other}.items():
        fasti3d.extract(landscape, tmp_path / name, model=network, **options)
    fasti3d.extract(landscape, tmp_path / "wrong", model=model, normalization="symmetric", **options)
    bytes_, floats, wrong = (
        np.load(tmp_path / name / "wide_rgb.npy") for name in ("bytes", "floats", "wrong")
    )
    assert bytes_.shape == (1, 160)
    assert np.abs(bytes_ - floats).max() < 2e-5 * np.abs(floats).max()
    assert np.abs(bytes_ - wrong).max() > 1e-2 * np.abs(floats).max()


def test_the_implementation_that_named_weights_decides_their_normalization(tmp_path):
    theirs = {ours: its for its, ours in next(n for n in NAMINGS if n.name == "mmaction2").keys().items()}
    state = make("slow-8x8").state_dict()
    path = tmp_path / "slowonly.pth"
    torch.save({theirs[key]: tensor for key, tensor in state.items() if key in theirs}, path)
    model = load_backbone(path, Backbone("slow-r50"), device="cpu")
    assert model.table.preprocessing.name == "mmaction2-8x8"
    model.save_pretrained(tmp_path / "net")
    again = fasti3d.I3DResNet.from_pretrained(tmp_path / "net")
    assert again.table.preprocessing.normalization == "imagenet"
    assert (
        load_backbone(_saved(make("slow-8x8"), tmp_path), Backbone("slow-r50")).table.preprocessing.fps == 30
    )


def _saved(model: nn.Module, folder: Path) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "i3d-50"}, "network must be one of i3d, i3d-r50, .*, got 'i3d-50'"),
        ({"network": "i3d-r50"}, "variant of i3d-r50 must be one of caffe2-32x2, .*, got None"),
        ({"network": "i3d-r50", "variant": "caffe-32x2"}, "variant must be one of .*, got 'caffe-32x2'"),
        ({"network": "slow-r50", "variant": "c2d-8x8"}, "variant of slow-r50 is 'slow-8x8', got 'c2d-8x8'"),
        (
            {"network": "r3d-18", "variant": "c2d-8x8"},
            "variant is of i3d-r50 and i3d-r101, got 'c2d-8x8' for r3d",
        ),
        (
            {"network": "i3d-r50", "variant": "caffe2-32x2", "non_local": "gaussian"},
            "caffe2-32x2 has no gaussian non-local blocks",
        ),
        (
            {
                "network": "i3d-r50",
                "variant": "caffe2-32x2",
                "non_local": "embedded_gaussian",
                "mode": "dense",
            },
            "mode must be windows for .*embedded_gaussian, got 'dense': .* read all frames of a clip at once",
        ),
        ({"network": "r3d-18", "mode": "dense"}, "mode must be windows for r3d-18, got 'dense'"),
        ({"network": "r3d-18", "streams": "both"}, "streams must be rgb for r3d-18, .*, got 'both'"),
        ({"network": "r3d-18", "layout": "video_features"}, "layout must be default or anomaly for r3d-18"),
        ({"network": "slow-r50", "stack": 7}, "stack must be at least 8 frames, .*, got 7"),
        (
            {"network": "slow-r50", "features": "Mixed_5c"},
            "features must be one of pooled, .*, res5, .*'Mixed_5c'",
        ),
        (
            {"network": "slow-r50", "normalization": "caffe"},
            "normalization must be one of symmetric, .*, got 'caffe'",
        ),
        ({"normalization": "facebook"}, "normalization of i3d is 'symmetric', got 'facebook'"),
        ({"interval": 0}, "interval must be at least 1 frame, got 0"),
        ({"interval": 2, "mode": "dense"}, "interval must be 1 for .*, got 2"),
        ({"crops": 4}, "crops must be one of 1, 3, 5, 10, got 4"),
        ({"fps": "fast"}, "fps must be a number, None or 'auto', got 'fast'"),
        ({"layout": "anomaly", "crops": 5}, "crops must be 10 for the layout anomaly, .*, got 5"),
        ({"layout": "anomaly", "stack": 32}, "stack must be 16 for the layout anomaly, .*, got 32"),
        (
            {"layout": "anomaly", "format": "npz"},
            "format must be 'npy' for the layout anomaly, .*, got 'npz'",
        ),
    ],
)
def test_settings_that_do_not_go_together(options, words):
    with pytest.raises(ValueError, match=words):
        ExtractionSettings(**options)


def test_weights_that_contradict_what_is_asked(saved, tmp_path):
    c2d = _saved(make("c2d-8x8"), tmp_path)
    with pytest.raises(WeightsError, match=r"'pytorchvideo-8x8' where they are of .*'c2d-8x8'"):
        load_backbone(c2d, Backbone("i3d-r50", "pytorchvideo-8x8"), device="cpu")
    gaussian = _saved(make("mmaction2-32x2", "gaussian"), tmp_path)
    with pytest.raises(WeightsError, match="non_local='embedded_gaussian' where they fit 'gaussian'"):
        load_backbone(gaussian, Backbone("i3d-r50", "mmaction2-32x2", "embedded_gaussian"), device="cpu")
    with pytest.raises(WeightsError, match=r"have depth 50, but network is 'i3d-r101': use 'i3d-r50'"):
        load_backbone(saved, Backbone("i3d-r101", "caffe2-32x2"), device="cpu")
    state = torch.load(saved, weights_only=True)
    torch.save({key: t for key, t in state.items() if "running" not in key}, tmp_path / "affine.pth")
    with pytest.raises(WeightsError, match="no running statistics"):
        load_backbone(tmp_path / "affine.pth", Backbone("i3d-r50", "caffe2-32x2"), device="cpu")
    with pytest.raises(
        ValueError, match="model is a network 'i3d-r50 c2d-8x8', but network is 'i3d-r50 caffe2-8x8'"
    ):
        fasti3d.extract(
            write_video(tmp_path / "v.mkv", plain(range(9))),
            tmp_path / "out",
            model=Seen("c2d-8x8"),
            network="i3d-r50",
            variant="caffe2-8x8",
        )


def call(*arguments: object) -> SimpleNamespace:
    runner = CliRunner(env={"COLUMNS": "400", "NO_COLOR": "1"})
    done = runner.invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return SimpleNamespace(code=done.exit_code, out=done.stdout, err=done.stderr)


RESNET = ("--network", "i3d-r50", "--variant", "caffe2-32x2")


def test_commands(landscape, saved, tmp_path):
    options = (*RESNET, "--weights", saved, "--device", "cpu")
    arguments = (
        "extract",
        landscape,
        "-o",
        tmp_path,
        *options,
        "--layout",
        "anomaly",
        "--normalization",
        "symmetric",
    )
    first = call(*arguments)
    assert (first.code, first.err) == (0, "")
    assert np.load(tmp_path / "wide.npy").shape == (2, 10, 160)
    again = call(*arguments).out
    assert "1 done already" in again
    assert (
        "i3d-r50 caffe2-32x2, prepared as anomaly: 16 frames at the video's rate, crops of 224x224" in again
    )
    done = call("classify", landscape, *options, "--json")
    assert (done.code, done.err) == (0, "")
    said = json.loads(done.out)
    assert said["network"] == "i3d-r50 caffe2-32x2"
    assert said["preprocessing"]["normalization"] == "facebook"
    model = load_backbone(saved, Backbone("i3d-r50", "caffe2-32x2"), device="cpu", dtype="float32")
    images = torch.stack([f.image for f in read_sized(landscape, 256, 224, fps=None, strict=True)])
    with torch.no_grad():
        logits = model(images[::2].permute(3, 0, 1, 2)[None])[0]
    assert said["top"][0]["index"] == logits.argmax()
    assert said["top"][0]["logit"] == pytest.approx(logits.max().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--variant", "caffe2-32x2"), "needs --network i3d-r50 or i3d-r101"),
        (("--network", "i3d-r50"), "i3d-r50 must be one of caffe2-32x2"),
        (("--network", "r50"), "must be one of i3d, i3d-r50"),
        (
            RESNET,
            "kinetics400-rgb is of i3d, not of i3d-r50 caffe2-32x2: give a file's path or caffe2-i3d-r50",
        ),
        (
            (*RESNET, "--weights", "mmaction2-i3d-r50"),
            "mmaction2-i3d-r50 is of i3d-r50 mmaction2-32x2, not of",
        ),
    ],
)
def test_wrong_options(landscape, tmp_path, arguments, words):
    for verb in (("extract", landscape, "-o", tmp_path), ("classify", landscape)):
        done = call(*verb, *arguments)
        assert done.code == 2
        assert words in done.err


def test_plan_takes_names():
    done = call("plan", *RESNET, "--shape", "1,3,16,64,64", "--json", "--device", "cpu")
    assert done.code == 0
    assert json.loads(done.out)["flop"] > 0
    assert "res5" in {step["name"] for step in json.loads(done.out)["steps"]}


def test_torchvision_networks_extract(tmp_path, landscape, monkeypatch):
    from fasti3d.video_resnet import reference

    monkeypatch.setattr(reference, "_WIDTHS", (8, 8, 8, 16))
    model = reference.VideoResNet("r2plus1d-18", 5)
    randomize(model)
    path = _saved(model.eval(), tmp_path)
    network = load_backbone(path, Backbone("r2plus1d-18"), device="cpu", dtype="float32")
    done = fasti3d.extract(landscape, tmp_path / "out", model=network, fps=None)
    found = np.load(tmp_path / "out" / "wide_rgb.npy")
    assert (done.rows, found.shape) == (3, (3, 16))
    images = pixels(landscape, (128, 171))[:16, 8:120, 29:141]
    mean, std = (torch.tensor(v) for v in NORMALIZATIONS["torchvision"])
    with torch.no_grad():
        expected = model.outputs(((images - mean) / std).permute(3, 0, 1, 2)[None])[1][0].numpy()
    assert np.abs(found[0] - expected).max() < 1e-5 * np.abs(expected).max()
    said = record(tmp_path / "out" / "wide.json")
    assert said["made"]["settings"]["network"] == "r2plus1d-18"
    assert said["preprocessing"]["resize"] == [128, 171]
