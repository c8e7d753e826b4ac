"""The command line's commands. `thalweg.cli` loads this module, and says what to install where it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from thalweg.lab import wording
from thalweg.lab.errors import require_packages, unknown

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

Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, and nothing else.")]


def split_list(text: str) -> list[str]:
    """Split at commas, except inside brackets: ``adam:betas=(0.9,0.99),sgd`` names two."""
    return [part.strip() for part in re.split(r",(?![^([]*[)\]])", text) if part.strip()]


def stdout() -> Console:
    """Where results go; lines are not squeezed to 80 columns when they go to a file."""
    return Console(width=None if sys.stdout.isatty() else 120)


@app.command()
def race(
    task: Annotated[str, typer.Argument(help="digits, chars, or a model of your own as file.py:build_task.")],
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Optimizers to race, separated by commas. Hyper-parameters follow a colon: sgd:momentum=0.9. "
            "An lr given so is where the search for the learning rate starts."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How often each learning rate is tried.")] = 5,
    points: Annotated[int, typer.Option(min=1, help="How many learning rates each optimizer starts with.")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of a run; the task's own if left out.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The race's directory; the task's name if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Where the directories of races are kept.")] = Path("runs"),
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at the same time, one thread each; all cores if left out.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a race that was interrupted.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, discarding what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Find out which optimizer should train a model.

    Every optimizer is tried at several learning rates and seeds. The best rate is chosen on validation data, the
    ranking is by test data, and the report is a single HTML file. Ctrl-C leaves a report of what is done by then.
    """
    require_packages("numpy", "jinja2", "plotly")
    from thalweg.lab.contenders import DEFAULT, parse_contenders
    from thalweg.lab.loading import load_task
    from thalweg.lab.machine import cores
    from thalweg.lab.progress import LiveBoard, PlainBoard
    from thalweg.lab.race import Race, Settings

    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other.")
    if name is not None and Path(name).name != name:
        raise typer.BadParameter("--name is a single directory name; --out says where the directory goes.")
    loaded = load_task(task, steps)
    contenders = parse_contenders(DEFAULT if optimizers is None else split_list(optimizers))
    settings = Settings(task, contenders, seeds=seeds, points=points, steps=steps)
    progress = Console(stderr=True)
    one = Race(settings, loaded, out / (name or loaded.name))
    one.open("resume" if resume else "fresh" if fresh else "new")
    with contextlib.ExitStack() as stack:
        if progress.is_terminal:
            one.board = stack.enter_context(LiveBoard(one.task, contenders, progress))
        else:
            one.board = PlainBoard(one.task, progress)
        result = one.run(workers or cores(), command_line())
    report = one.directory.path / "report.html"
    if as_json:
        print(json.dumps(result.summary, indent=2, allow_nan=False))
    else:
        print_ranking(stdout(), result, report)
    if not result.complete:
        progress.print(
            f"Interrupted. The partial report is {report}; the same command with --resume in place of --fresh goes on.",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130)


def command_line() -> str:
    """The command as it was typed, for the report."""
    return shlex.join([os.path.basename(sys.argv[0]).replace("cli.py", "thalweg"), *sys.argv[1:]])


def print_ranking(console: Console, result: Any, report: Path) -> None:
    """The ranking at the end of a race."""
    task, summary = result.task, result.summary
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("optimizer", no_wrap=True)
    for heading in (
        f"test\n{task.metric}",
        "over\nseeds",
        "learning\nrate",
        "steps to\ntarget",
        "time to\ntarget",
        "ms per\nstep",
        "bytes per\nparameter",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            str(row.rank),
            row.label,
            wording.result(task, row),
            wording.spread(task, row.test_low, row.test_high),
            wording.rate(row.best.lr) if row.best else "–",
            wording.target(task, row),
            wording.seconds(row.target_seconds),
            wording.number(row.step_ms),
            wording.number(row.bytes_per_parameter),
        )
    console.print(table)
    console.print()
    console.print(" ".join([summary["headline"], *summary["findings"]]), highlight=False, markup=False)
    console.print()
    console.print(f"Report: {report} ({wording.seconds(summary['wall_seconds'])})", highlight=False, markup=False)


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


@app.command("memory")
def memory_command(
    name: Annotated[str, typer.Argument(help="An optimizer's name, as listed by `thalweg list`.")],
    shape: Annotated[str, typer.Option(help="The shape of a parameter, as 512x1024; factored state depends on it.")] = (
        "512x1024"
    ),
    as_json: Json = False,
) -> None:
    """Show what training with an optimizer holds in memory, in bytes per parameter, in each precision."""
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
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("bytes per parameter", no_wrap=False)
    for heading in ("weights", "gradients", "master", "state", "total"):
        table.add_column(heading, justify="right")
    for p, (label, total) in zip(PRECISIONS, totals, strict=True):
        cells = (p.weights, p.gradients, p.master, state * p.state_item / 4, total)
        table.add_row(label, *(f"{n:.4g}" if n else "-" for n in cells))
    stdout().print(table)
    stdout().print(f"{entry.name} on a parameter of {shape}; activations are not counted.", style="dim")


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
    optimizers: Annotated[str, typer.Option(help="Optimizers to measure, separated by commas, or all.")] = "all",
    set_name: Annotated[
        str, typer.Option("--set", help="Parameter shapes: gpt2-small, resnet50 or tiny.")
    ] = "gpt2-small",
    repeats: Annotated[int, typer.Option(min=1, help="How many pairs of steps are timed.")] = 30,
    threads: Annotated[int, typer.Option(min=1, help="How many threads torch may use.")] = 2,
    engine: Annotated[
        str, typer.Option(help="The engine that runs the step; auto leaves the choice to thalweg.")
    ] = "auto",
    cold: Annotated[bool, typer.Option("--cold", help="Take each first step with an empty compiler cache.")] = False,
    checks: Annotated[
        bool, typer.Option("--checks", help="Also count graphs when numbers change, gradients miss, tensors multiply.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the optimizer step beside torch's fused AdamW, in the same run."""
    import thalweg
    from thalweg.lab.bench import render, run_step_benchmark
    from thalweg.lab.contenders import find_entry
    from thalweg.lab.parameter_sets import PARAMETER_SETS

    names = (
        thalweg.list_optimizers() if optimizers == "all" else [find_entry(one).name for one in split_list(optimizers)]
    )
    if set_name not in PARAMETER_SETS:
        raise unknown("parameter set", set_name, PARAMETER_SETS)
    console = Console(stderr=True)
    with console.status("starting") as status:
        result = run_step_benchmark(
            names, set_name, repeats, threads, engine, cold=cold, checks=checks, progress=status.update
        )
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        stdout().print(render(result))
