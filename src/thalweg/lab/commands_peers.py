"""The commands ``thalweg bench peers`` and ``thalweg memory``."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from thalweg.lab.console import Json, RepeatsOption, SetOption, ThreadsOption, split_list, stdout
from thalweg.lab.errors import unknown


def register(app: typer.Typer, bench: typer.Typer) -> None:
    """Add the commands."""
    app.command("memory")(memory_command)
    bench.command("peers")(bench_peers)


def bench_peers(
    optimizers: Annotated[
        str | None,
        typer.Option(help="Optimizers to measure, separated by commas; all that a library shares if left out."),
    ] = None,
    libraries: Annotated[
        str | None, typer.Option("--with", help="Libraries, separated by commas; all that are known if left out.")
    ] = None,
    set_name: SetOption = "gpt2-small",
    repeats: RepeatsOption = 10,
    threads: ThreadsOption = 2,
    engine: Annotated[
        str, typer.Option(help="The engine that runs our step; auto leaves the choice to thalweg.")
    ] = "auto",
    cold: Annotated[bool, typer.Option("--cold", help="Take first steps with an empty compiler cache.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the optimizer step beside the same optimizers of other libraries, those that are installed.

    Each pair is told when it is done; Ctrl-C ends the run with the table of those so far.
    """
    from thalweg.lab.bench_peers import render, run_peer_benchmark
    from thalweg.lab.contenders import find_entry
    from thalweg.lab.parameter_sets import PARAMETER_SETS

    if set_name not in PARAMETER_SETS:
        raise unknown("parameter set", set_name, PARAMETER_SETS)
    names = None if optimizers is None else [find_entry(one).name for one in split_list(optimizers)]
    chosen = None if libraries is None else split_list(libraries)
    console = Console(stderr=True)
    with console.status("starting") as status:
        result = run_peer_benchmark(
            names, chosen, set_name, repeats, threads, engine, cold=cold, progress=status.update, told=console.print
        )
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        stdout().print(render(result))


def memory_command(
    first: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL] NAME",
            help="NAME: an optimizer, as listed by `thalweg list`. MODEL: file.py:function that returns a "
            "torch.nn.Module, or gpt2-small, resnet50 or tiny.",
        ),
    ],
    second: Annotated[str | None, typer.Argument(metavar="", show_default=False)] = None,
    shape: Annotated[
        str | None, typer.Option(help="Without a MODEL: the shape of a parameter; 512x1024 if left out.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="With a MODEL: how state is stored: float32, bfloat16, int8 or int4.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what training with an optimizer holds in memory, in each precision; of a MODEL, before it is trained."""
    if second is None:
        if state is not None:
            raise typer.BadParameter("is for a model: thalweg memory MODEL NAME --state int8", param_hint="--state")
        _of_a_shape(first, shape or "512x1024", as_json)
    else:
        if shape is not None:
            raise typer.BadParameter("a model has shapes of its own", param_hint="--shape")
        _of_a_model(first, second, state or "float32", as_json)


def _of_a_shape(name: str, shape: str, as_json: bool) -> None:
    from thalweg.accounting import PRECISIONS, precision_table, state_bytes
    from thalweg.lab.contenders import find_entry

    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise typer.BadParameter(f"{shape!r} is not a shape such as 512x1024", param_hint="--shape")
    sizes = tuple(map(int, shape.split("x")))
    entry = find_entry(name)
    state = state_bytes(entry.name, sizes)
    totals = precision_table(entry.name, sizes)
    if as_json:
        print(json.dumps({"name": entry.name, "state": state, "totals": dict(totals)}, indent=2))
        return
    rows = [
        (label, p.weights, p.gradients, p.master, state * p.state_item / 4, total)
        for p, (label, total) in zip(PRECISIONS, totals, strict=True)
    ]
    stdout().print(_precision_table("bytes per parameter", rows, lambda n: f"{n:.4g}"))
    stdout().print(f"{entry.name} on a parameter of {shape}; activations are not counted.", style="dim")


def _of_a_model(model: str, name: str, state: str, as_json: bool) -> None:
    from dataclasses import asdict

    from thalweg.lab.estimate import estimate, precision_rows

    held = estimate(model, name, state)
    precisions = precision_rows(held) if state == "float32" else []
    if as_json:
        found = {"model": model, "name": name, "state_stored_as": state, **asdict(held), "total": held.total}
        print(json.dumps({**found, "precisions": precisions}, indent=2))
        return
    stdout().print(str(held), highlight=False)
    if precisions:
        rows = [tuple(row.values()) for row in precisions]
        stdout().print()
        stdout().print(_precision_table("MB", rows, lambda n: f"{n / 1e6:,.2f}"))
    stdout().print(
        f"{name} on {model}: {held.parameters:,} parameters, state stored as {state}; activations are not counted.",
        style="dim",
    )


def _precision_table(unit: str, rows: list[tuple[Any, ...]], text: Any) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(unit, no_wrap=False)
    for heading in ("weights", "gradients", "master", "state", "total"):
        table.add_column(heading, justify="right")
    for label, *numbers in rows:
        table.add_row(label, *(text(n) if n else "-" for n in numbers))
    return table
