"""``fasti3d doctor``: what this machine will run, and why."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fasti3d.cli import output
from fasti3d.cli.network import METAVAR, to_network
from fasti3d.cli.options import Json

if TYPE_CHECKING:
    from fasti3d.inspect.doctor import Diagnosis


def doctor(
    as_json: Json = False,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="First run each GPU kernel of the network once, and compare it with PyTorch's own.",
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar=METAVAR,
            help="Say instead which parts of a model run fused, and why others do not: a function that "
            "returns it, as my_networks:make_detector.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Say what this machine will run and why: versions, the extension, paths, known problems, weights.

    Exit code 1 means that something is broken, for example an extension that does not load.
    """
    if model is not None:
        _print_model(model, as_json)
        return
    from fasti3d.inspect.doctor import diagnose

    if prove:
        _prove()
    diagnosis = diagnose()
    if as_json:
        print(json.dumps({**asdict(diagnosis), "healthy": diagnosis.healthy}))
    else:
        _print(diagnosis)
    raise typer.Exit(not diagnosis.healthy)


def _print_model(model: str, as_json: bool) -> None:
    network = to_network(model, "--model")
    from fasti3d.inspect.model_report import report_model

    parts = report_model(network)
    if as_json:
        print(json.dumps([asdict(part) for part in parts]))
        return
    if not parts:
        output.out.print("It holds no fasti3d.I3D, and nothing that fasti3d.fuse planned.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("part", "class", "runs", "why"):
        table.add_column(column, style="", no_wrap=column != "why")
    for part in parts:
        table.add_row(Text(part.path or "(the model)"), part.kind, part.runs, Text(part.why))
    output.out.print(table)


def _print(diagnosis: Diagnosis) -> None:
    _section("Versions")
    _pairs({name: version or "none" for name, version in diagnosis.versions.items()})

    extension = diagnosis.extension
    _section("Extension")
    _pairs(
        {"state": extension.state}
        | {key: _plain(value) for key, value in (extension.build or {}).items()}
        | ({"error": extension.error} if extension.error else {})
        | ({"what to do": extension.remedy} if extension.remedy else {})
    )

    cpu = diagnosis.cpu
    _section("Processors")
    _pairs(
        {
            "CPU": f"{cpu.model}, {cpu.cores} cores, {cpu.threads} threads",
            "in use": f"{cpu.fasti3d_isa or 'nothing'} by fasti3d, {cpu.torch_isa} by torch",
        }
        | ({"CPU has": " ".join(cpu.features)} if cpu.features else {})
        | {
            g.device: f"{g.name}, compute capability {g.capability}, {_size(g.memory)}"
            for g in diagnosis.gpus
        }
        | ({} if diagnosis.gpus else {"GPU": "none found"})
    )

    _section("Paths")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("device", "dtype", "path", "computes in", "why"):
        table.add_column(column, style="", no_wrap=column != "why")
    for route in diagnosis.routes:
        table.add_row(route.device, route.dtype, route.path, route.compute_dtype, Text(route.why))
    output.out.print(table)

    if diagnosis.gpus:
        _section("Tuned configurations")
        none = "none, configurations are estimated: fasti3d tune measures them"
        found: dict[str, list[str]] = {g.device: [] for g in diagnosis.gpus}
        for it in diagnosis.tuned:
            recorded = ", ".join(f"{name} {value}" for name, value in it.recorded.items())
            found[it.device].append(
                f"{it.path}: {it.entries} convolutions, {it.over_slabs} over slabs, {recorded}"
            )
        _pairs({device: "\n".join(lines) or none for device, lines in found.items()})

    if diagnosis.gpus:
        _section("Proofs of kernels")
        _print_proofs(diagnosis)

    _section("Optical flow")
    _pairs({flow.device: f"{flow.path}: {flow.why}" for flow in diagnosis.flow})

    _section("Known problems")
    for problem in diagnosis.problems or ("none with this torch and cuDNN",):
        output.out.print(Text(problem))

    _section("Cache")
    why = "set by FASTI3D_HOME" if diagnosis.home_from == "FASTI3D_HOME" else "FASTI3D_HOME moves it"
    where = f"{diagnosis.home} ({why})"
    output.out.print(Text(output.printable(where)), soft_wrap=True)
    _pairs(
        {file.path: _size(file.size) for file in diagnosis.cache}
        or {"empty": "fasti3d weights get kinetics400-rgb"}
    )


def _prove() -> None:
    """On every GPU."""
    import torch

    from fasti3d.inspect.prove import prove_all
    from fasti3d.proof.guard import SelfCheckWarning

    if not torch.cuda.device_count():
        output.fail("there is no GPU to prove kernels on: torch finds none")
    with warnings.catch_warnings():
        # The list that follows has them.
        warnings.simplefilter("ignore", SelfCheckWarning)
        for index in range(torch.cuda.device_count()):
            with output.progress_bar(f"proving on cuda:{index}") as advance:
                for _ in prove_all(torch.device("cuda", index), advance):
                    pass


def _print_proofs(diagnosis: Diagnosis) -> None:
    if not diagnosis.self_check:
        output.out.print(Text("turned off by FASTI3D_SELF_CHECK=0: kernels run unproved"))
    lines: dict[str, list[str]] = {gpu.device: [] for gpu in diagnosis.gpus}
    for proof in diagnosis.proofs:
        fault = f" ({proof.fault}): PyTorch's own runs in its place" if proof.fault else ""
        lines[proof.device].append(f"{proof.kind}: {proof.kernel}{fault}")
    none = "none yet: each kernel is proved when it is first used, or all by fasti3d doctor --prove"
    _pairs({device: "\n".join(sorted(its)) or none for device, its in lines.items()})


def _section(title: str) -> None:
    output.out.print(Text(f"\n{title}", style="bold"))


def _pairs(pairs: dict[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(output.printable(name)), Text(output.printable(value)))
    output.out.print(table)


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
