"""Every reader of files, as a table: what it reads, from what it starts, and what it may raise.

A row more is a reader more that is tried. ``wrap`` puts mutated bytes where only a whole container lets
them through: inside an archive of right lengths and checksums.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from file_making import touch
from train.scores_making import make_scores

from fasti3d.compat.pytorch_i3d import InceptionI3d
from fasti3d.extraction import ErrorReport
from fasti3d.extraction.sources import REPORT
from fasti3d.flow import cache as flow_cache
from fasti3d.flow import read_flo, read_kitti_png, write_flo, write_kitti_png
from fasti3d.inflate import inflate
from fasti3d.metrics import saved
from fasti3d.metrics.side import Side
from fasti3d.metrics.sources import open_source
from fasti3d.ops.conv3d_bn_relu import tables
from fasti3d.ops.conv3d_bn_relu.candidates import candidates
from fasti3d.ops.conv3d_bn_relu.config import Problem
from fasti3d.ops.conv3d_slab import config as slabs
from fasti3d.ops.pooled_conv3d_slab import config as pooled_slabs
from fasti3d.train import TrainingError, TrainingRecord, read_record
from fasti3d.train.data import HMDB51, UCF101, DatasetError, Kinetics, VideoList, index_cache
from fasti3d.train.evaluation import ScoresError, read_scores
from fasti3d.train.evaluation.parts import PartsFolder, PartWriter
from fasti3d.train.evaluation.scores import save_scores
from fasti3d.train.journal import read_log
from fasti3d.train.run_folder import RunFolder
from fasti3d.train.state import Progress, load_state
from fasti3d.video import VideoError
from fasti3d.weights import WeightsError, load_partial
from fasti3d.weights.metadata import Metadata

# Enough names of a network to be known as one.
_KEYS = [f"Mixed_4{block}.b0.bn.{leaf}" for block in "bcdef" for leaf in ("weight", "bias")]


@dataclass(frozen=True)
class Loader:
    """A reader.

    Attributes:
        name: of the row.
        seed: a good file, or the part of one that is mutated, of a few KB.
        load: reads the file at a path.
        allowed: what it may raise; anything else is a failure.
        file: its name, or the end of it.
        wrap: makes the file of the seed.
        cases: how many mutations are tried.
    """

    name: str
    seed: bytes
    load: Callable[[Path], object]
    allowed: tuple[type[Exception], ...]
    file: str = "file"
    wrap: Callable[[bytes], bytes] = bytes
    cases: int = 80


def _written(write: Callable[[Any], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    def write(buffer: io.BytesIO) -> None:
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(name, data)

    return _written(write)


def _members(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _inside(archive: bytes, ending: str) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A member, and how it is put back."""
    members = _members(archive)
    (name,) = (name for name in members if name.endswith(ending))
    return members[name], lambda data: _zipped(members | {name: data})


def _safetensors_header(whole: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    end = 8 + int.from_bytes(whole[:8], "little")
    return whole[8:end], lambda header: struct.pack("<Q", len(header)) + header + whole[end:]


def _png_chunks(png: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
    """The chunks without their lengths and checksums, which are made anew."""
    chunks, at = [], 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        chunks.append(png[at + 4 : at + 8 + size])
        at += 12 + size
    lengths = [len(chunk) for chunk in chunks]

    def wrap(data: bytes) -> bytes:
        out, at = png[:8], 0
        for length in lengths:
            chunk = data[at : at + length].ljust(4, b"\0")
            out += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
            at += length
        return out

    return b"".join(chunks), wrap


def _weights_loaders() -> list[Loader]:
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.rand(4, generator=generator) for key in _KEYS}
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    checkpoint = {"state_dict": tensors, "epoch": 3, "args": Path("x"), "history": [0.1] * 20}
    modern = _written(lambda file: torch.save(checkpoint, file))
    legacy = _written(lambda file: torch.save(checkpoint, file, _use_new_zipfile_serialization=False))
    script = _zipped(
        {name.replace("archive/", "m/"): data for name, data in _members(modern).items()}
        | {"m/code/x.py": b""}
    )
    npz = _written(lambda file: np.savez(file, **arrays))
    deflated = _written(lambda file: np.savez_compressed(file, **arrays))
    member, put_back = _inside(npz, f"{_KEYS[0]}.npy")
    data_pkl, repacked = _inside(modern, "data.pkl")
    script_pkl, script_repacked = _inside(script, "data.pkl")
    safe = safetensors.torch.save(tensors, {"fasti3d": json.dumps({"format": "hassony2"})})
    header, with_header = _safetensors_header(safe)
    rows = {
        "torch": (modern, bytes),
        "torch, inside": (data_pkl, repacked),
        "torch before 1.6": (legacy, bytes),
        "TorchScript": (script, bytes),
        "TorchScript, inside": (script_pkl, script_repacked),
        "npz": (npz, bytes),
        "npz, deflated": (deflated, bytes),
        "npz, inside": (member, put_back),
        "safetensors": (safe, bytes),
        "safetensors, its header": (header, with_header),
        "pickle of arrays": (pickle.dumps(arrays, 4), bytes),
        "pickle of arrays, protocol 5": (pickle.dumps(arrays, 5), bytes),
    }
    return [
        Loader(f"weights: {name}", seed, load_partial, (WeightsError,), wrap=wrap)
        for name, (seed, wrap) in rows.items()
    ]


def _inflation_loaders() -> list[Loader]:
    """Of a network that ends so early that its weights are small."""
    model = InceptionI3d(final_endpoint="Conv3d_2b_1x1", in_channels=3)
    units = {"Conv2d_1a_7x7": (7, 7, 3, 64), "Conv2d_2b_1x1": (1, 1, 64, 64)}
    arrays = {
        f"{unit}/{leaf}": np.ones(shape if leaf == "weights" else 64, np.float32)
        for unit, shape in units.items()
        for leaf in (
            "weights",
            *(f"BatchNorm/{x}" for x in ("gamma", "beta", "moving_mean", "moving_variance")),
        )
    }
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    modern = _written(lambda file: torch.save({"model": tensors}, file))
    data_pkl, repacked = _inside(modern, "data.pkl")
    header, with_header = _safetensors_header(safetensors.torch.save(tensors))
    rows = {
        "npz, deflated": (_written(lambda file: np.savez_compressed(file, **arrays)), bytes),
        "torch, inside": (data_pkl, repacked),
        "safetensors, its header": (header, with_header),
    }
    return [
        Loader(f"inflation: {name}", seed, lambda path: inflate(path, model), (WeightsError,), wrap=wrap)
        for name, (seed, wrap) in rows.items()
    ]


def _clips(path: Path) -> int:
    return sum(1 for _ in open_source(path).clips(9, None, 0))  # type: ignore[union-attr]


def _fvd_loaders() -> list[Loader]:
    clips = np.random.default_rng(0).integers(0, 255, (2, 9, 4, 4, 3), np.uint8)
    npy = _written(lambda file: np.save(file, clips))
    npz = _written(lambda file: np.savez_compressed(file, clips))
    member, put_back = _inside(npz, ".npy")
    side = Side.of(torch.rand(5, 4, dtype=torch.float64), (8, 8), keep=True)
    state = side.state()
    notes = {
        "preset": "tf",
        "weights": "0" * 64,
        "frames": 9,
        "kind": "uint8",
        "count": 5,
        "sizes": state["sizes"],
    }
    text = json.dumps(notes)

    def write(data: bytes) -> bytes:
        arrays = {name: state[name].numpy() for name in ("mean", "scatter", "features")}
        return _written(lambda file: np.savez(file, fasti3d_fvd=np.array(data.decode("latin-1")), **arrays))

    statistics = write(text.encode())
    mean, mean_put_back = _inside(statistics, "mean.npy")
    allowed = (ValueError, OSError)
    return [
        Loader("fvd: npy", npy, _clips, allowed, "clips.npy"),
        Loader("fvd: npz", npz, _clips, allowed, "clips.npz"),
        Loader("fvd: npz, inside", member, _clips, allowed, "clips.npz", put_back),
        Loader("fvd: statistics", statistics, saved.read, allowed, "clips.npz"),
        Loader("fvd: statistics, notes", text.encode(), saved.read, allowed, "clips.npz", write),
        Loader("fvd: statistics, an array", mean, saved.read, allowed, "clips.npz", mean_put_back),
    ]


def _flow_loaders() -> list[Loader]:
    flow = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        write_flo(Path(folder, "seed.flo"), flow)
        write_kitti_png(Path(folder, "seed.png"), flow)
        flo, png = (Path(folder, name).read_bytes() for name in ("seed.flo", "seed.png"))
    chunks, put_back = _png_chunks(png)
    allowed = (ValueError, OSError)
    return [
        Loader("flow: flo", flo, read_flo, allowed),
        Loader("flow: KITTI", png, read_kitti_png, allowed),
        Loader("flow: KITTI, inside", chunks, read_kitti_png, allowed, wrap=put_back),
        *_flow_cache_loaders(torch.from_numpy(flow)),
    ]


def _flow_cache_loaders(flow: torch.Tensor) -> list[Loader]:
    packed = [flow_cache.pack(flow)] * 3
    settings = {"fps": 25.0, "resize": 256, "video": "v.avi"}
    whole = _written(lambda file: flow_cache.write(file, 5, 6, settings, [*map(len, packed)], packed))
    end = 12 + int.from_bytes(whole[8:12], "little")

    def with_header(header: bytes) -> bytes:
        return whole[:8] + struct.pack("<I", len(header)) + header + whole[end:]

    def read(path: Path) -> object:
        cache = flow_cache.FlowCache(path)
        return cache.read(0, min(len(cache), 3))

    return [
        Loader("flow: cache", whole, read, (VideoError,)),
        Loader("flow: cache, its header", whole[12:end], read, (VideoError,), wrap=with_header),
    ]


def _report(path: Path) -> object:
    assert path.name == REPORT
    return ErrorReport(path.parent).read()


def _record_loaders() -> list[Loader]:
    gpu = tables.Gpu("NVIDIA H200", (9, 0), 132)
    problem = Problem(8, 64, 192, (32, 56, 56), (3, 3, 3), (1, 1, 1), *gpu[1:])
    tile = slabs.Config(208, 1, 2, True, (1, 7, 28), 2, 2, 8)
    entry = tables.Entry(candidates(problem)[1], 1e-4, 2e-4, tables.Slab(tile, 9e-5))
    recorded = {"torch": "2", "triton": "3", "date": "", "dtype": "float16"}
    pooled_tile = pooled_slabs.Config(200, 2, True, (4, 7, 7), 4, 3)
    pooled = {pooled_slabs.Problem(8, 192, 32, (32, 28, 28), 132): tables.Pooled(pooled_tile, 5e-5, 1e-4)}
    table = tables.Table(gpu, recorded, {problem: entry}, pooled)
    lines = [json.dumps({"video": f"{i}.mp4", "path": "p", "reason": "r", "digest": "0"}) for i in range(9)]
    return [
        Loader(
            "records: tuned configurations",
            table.dumps().encode(),
            lambda path: tables.read(path, gpu),
            (tables.TableError,),
        ),
        Loader("records: errors.jsonl", "\n".join(lines).encode(), _report, (), REPORT),
    ]


def _dataset_loaders() -> list[Loader]:
    """Lists, beside videos that are never opened; and what the index keeps."""
    names = [f"Hammering/v_Hammering_g{i:02}_c01.avi" for i in range(1, 9)]
    clips = [f"-id{i}" for i in range(8)]
    home = tempfile.TemporaryDirectory(prefix="fasti3d-lists-")  # which goes with the loaders
    folder = Path(home.name)
    for name in (*names, *(f"air_drumming/{clip}_000000_000010.mp4" for clip in clips)):
        touch(folder, name)
    touch(folder, *(f"kick/a[{i}]#.avi" for i in range(8)))

    def ucf101(path: Path) -> object:
        others = {"classInd.txt": "1 Hammering\r\n", "trainlist01.txt": f"{names[0]} 1\r\n"}
        for name, text in others.items():
            if name != path.name:
                path.with_name(name).write_text(text)
        return UCF101(folder, annotations=path.parent)

    def kinetics(path: Path) -> object:
        return Kinetics(home.name, annotations=path)

    def hmdb51(path: Path) -> object:
        return HMDB51(folder, annotations=path.parent)

    def class_names(path: Path) -> object:
        lines = "".join(f"{name} {i}\n" for i, name in enumerate(names[:4]))
        (path.parent / "l.txt").write_text(lines)
        return VideoList(path.parent / "l.txt", folder, classes=path)

    known = {
        "frames": 9,
        "fps": 25.0,
        "duration": 0.36,
        "width": 64,
        "height": 48,
        "problem": None,
        "origin": 0.0,
    }
    index = {"version": 1, "videos": {f"/v/{i}.avi": [100, 10**18, known] for i in range(6)}}
    rows = [f'"air drumming",{clip},0.0,10.0,train' for clip in clips]
    csv = "\n".join(["label,youtube_id,time_start,time_end,split", *rows])
    lines = {
        "UCF-101, classes": ("classInd.txt", "1 Hammering\r\n", ucf101),
        "UCF-101": ("trainlist01.txt", "".join(f"{name} 1\r\n" for name in names), ucf101),
        "HMDB-51": ("kick_test_split1.txt", "".join(f"a[{i}]#.avi 1 \n" for i in range(8)), hmdb51),
        "Kinetics": ("train.csv", csv, kinetics),
        "a list": (
            "l.txt",
            "".join(f"{name}, {i}\n" for i, name in enumerate(names)),
            lambda path: VideoList(path, folder),
        ),
        "class names": ("names.txt", "a\nb\nc\nd e\n", class_names),
    }
    return [
        *(
            Loader(f"data set: {name}", text.encode(), load, (DatasetError,), file)
            for name, (file, text, load) in lines.items()
        ),
        Loader("data set: index", json.dumps(index).encode(), index_cache.read, (), "x.json"),
    ]


def _scores_loaders() -> list[Loader]:
    scores = make_scores([[1, 2], [3, 4], [5, 6]], [0, -1, 1], missing=("gone",))
    with tempfile.TemporaryDirectory() as folder:
        save_scores(Path(folder, "x.npz"), scores)
        data = Path(folder, "x.npz").read_bytes()
    header, put_back = _inside(data, "fasti3d_scores.npy")
    with tempfile.TemporaryDirectory() as folder:
        with PartWriter(Path(folder, "rank00000.part")) as writer:
            for key, rows in zip(scores.keys, scores.logits, strict=True):
                writer.add(key, {"bytes": 7}, rows, "")
        parts = Path(folder, "rank00000.part").read_bytes()
    return [
        Loader("scores", data, read_scores, (ScoresError,), "x.npz"),
        Loader("scores, header", header, read_scores, (ScoresError,), "x.npz", put_back),
        Loader(
            "scores, parts", parts, lambda path: list(PartsFolder(path.parent).parts()), (), "rank00000.part"
        ),
    ]


def _training_loaders() -> list[Loader]:
    """The files of a run: its config, its log, its checkpoint, and the record in its weights."""
    tensors = {"logits.conv3d.bias": torch.zeros(2)}
    record = TrainingRecord("ucf101", "train", 1, "rgb", ("a", "b"))
    noted = Metadata("pytorch-i3d", "here", "0" * 64, record.classes, record.as_json())
    state = {"format": 1, "progress": vars(Progress(step=3)), "model": tensors}
    log = b"step,loss,validation_accuracy\n1,0.5,\n1,,0.25\n"
    config = json.dumps({"command": {"batch": 6}, "settings": {"lr": 0.1}}).encode()
    return [
        Loader(
            "run: config",
            config,
            lambda path: RunFolder(path.parent).read_config(),
            (TrainingError,),
            "config.json",
        ),
        Loader("run: log", log, read_log, (), "log.csv"),
        Loader(
            "run: checkpoint",
            _written(lambda file: torch.save(state, file)),
            lambda path: load_state(RunFolder(path.parent)),
            (TrainingError,),
            "last.pt",
        ),
        Loader("run: record", safetensors.torch.save(tensors, noted.encoded()), read_record, (WeightsError,)),
    ]


@cache
def loaders() -> list[Loader]:
    """All of them."""
    return [
        *_weights_loaders(),
        *_inflation_loaders(),
        *_fvd_loaders(),
        *_flow_loaders(),
        *_record_loaders(),
        *_dataset_loaders(),
        *_scores_loaders(),
        *_training_loaders(),
    ]
