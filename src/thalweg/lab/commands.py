"""The command line's commands. `thalweg.cli` loads this module, and says what to install where it cannot."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from thalweg.lab import commands_gallery, commands_peers, commands_race, commands_report
from thalweg.lab.console import Json, RepeatsOption, SetOption, ThreadsOption, split_list, stdout
from thalweg.lab.errors import check_device, unknown

app = typer.Typer(
    name="thalweg",
    help="Deep-learning optimizers for PyTorch, and a fair race between them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)
bench = typer.Typer(help="Measure what an optimizer costs.", no_args_is_help=True)
app.add_typer(bench, name="bench")

for topic in (commands_race, commands_report, commands_gallery):
    topic.register(app)
commands_peers.register(app, bench)


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List the optimizers."""
    import thalweg

    entries = [thalweg.get(name) for name in thalweg.list_optimizers()]
    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "title": entry.title,
            "state_bytes_per_parameter": entry.recipe.state_bytes(),
            "words_per_element": entry.recipe.words(),
            "source": entry.source,
        }
        for entry in entries
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("B/par", justify="right")
    table.add_column("words", justify="right")
    table.add_column("what it is")
    for row in rows:
        table.add_row(
            row["name"], f"{row['state_bytes_per_parameter']:.2g}", f"{row['words_per_element']:g}", row["title"]
        )
    stdout().print(table)
    stdout().print("B/par: bytes of float32 state per parameter. words: moved per element and step.", style="dim")


@app.command("schedules")
def schedules_command(as_json: Json = False) -> None:
    """List the learning-rate schedules."""
    from thalweg.schedules import formula, list_schedules

    rows = [{"name": name, "formula": formula(name)} for name in list_schedules()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("name", "what it is, at step k", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(row["name"], Text(row["formula"]))
    stdout().print(table)


@app.command("techniques")
def techniques_command(as_json: Json = False) -> None:
    """List the techniques, which switch on for any optimizer that they are defined for."""
    import thalweg
    from thalweg import techniques

    total = len(thalweg.list_optimizers())
    rows: list[dict[str, Any]] = []
    for name in thalweg.list_techniques():
        entry = techniques.get(name)
        admitting = techniques.admitting(name)
        rows.append(
            {
                "name": name,
                "title": entry.title,
                "place": entry.slot.place,
                "needs": entry.needs,
                "source": entry.source,
                "optimizers": len(admitting),
                "admitting": admitting,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("name", no_wrap=True, style="bold")
    table.add_column("place", no_wrap=True)
    table.add_column("fits", justify="right", no_wrap=True)
    table.add_column("what it is; what it needs")
    table.add_column("source")
    for row in rows:
        needs = f"\nneeds {row['needs']}" if row["needs"] else ""
        table.add_row(row["name"], row["place"], str(row["optimizers"]), escape(row["title"] + needs), row["source"])
    stdout().print(table)
    stdout().print(
        f"fits: how many of the {total} optimizers can be built with it. place: where in the update rule it stands.",
        style="dim",
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An optimizer's name, as listed by `thalweg list`.")],
    as_json: Json = False,
) -> None:
    """Show an optimizer: what it does, its equations, its arguments, its memory and where it comes from."""
    from thalweg.lab.contenders import find_entry
    from thalweg.lab.show import description, picture

    found = description(find_entry(name))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        stdout().print(picture(found))


@bench.command("step")
def bench_step(
    optimizers: Annotated[
        str, typer.Option(help="Optimizers to measure, separated by commas, or all; adamw:state=int8 sets an option.")
    ] = "all",
    set_name: SetOption = "gpt2-small",
    repeats: RepeatsOption = 30,
    threads: ThreadsOption = 2,
    engine: Annotated[
        str, typer.Option(help="The engine that runs the step; auto leaves the choice to thalweg.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Where the parameters are: cpu, cuda, cuda:1, ...")] = "cpu",
    cold: Annotated[bool, typer.Option("--cold", help="Take each first step with an empty compiler cache.")] = False,
    checks: Annotated[
        bool, typer.Option("--checks", help="Also count graphs when numbers change, gradients miss, tensors multiply.")
    ] = False,
    beside: Annotated[str | None, typer.Option(help="One more optimizer of ours to pair every one with.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the optimizer step beside torch's fused AdamW, in the same run.

    Each optimizer is told when it is done; Ctrl-C ends the run with the table of those so far.
    """
    import thalweg
    from thalweg.lab.bench import render, run_step_benchmark
    from thalweg.lab.contenders import parse_contenders
    from thalweg.lab.parameter_sets import PARAMETER_SETS

    names = thalweg.list_optimizers() if optimizers == "all" else split_list(optimizers)
    parse_contenders([*names, *([beside] if beside else [])])  # a mistake is better told now than by every process
    if set_name not in PARAMETER_SETS:
        raise unknown("parameter set", set_name, PARAMETER_SETS)
    check_device(device)
    console = Console(stderr=True)
    with console.status("starting") as status:
        result = run_step_benchmark(
            names,
            set_name,
            repeats,
            threads,
            engine,
            device=device,
            cold=cold,
            checks=checks,
            beside=beside,
            progress=status.update,
            told=console.print,
        )
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        stdout().print(render(result))
