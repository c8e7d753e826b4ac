"""`thalweg race` and `thalweg sweep`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from thalweg.lab.console import Json, command_line, split_list, stdout
from thalweg.lab.errors import LabError, require_packages, unknown

SeedsOption = Annotated[
    int | None,
    typer.Option("--seeds", min=1, help="Seeds that configurations are chosen on; the budget's if left out."),
]
ReportSeedsOption = Annotated[
    int | None, typer.Option("--report-seeds", min=1, help="Fresh seeds that results are reported on.")
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", min=1, help="Training steps of a run; the task's own if left out.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="The race's directory; the task's name if left out.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where the directories of races are kept.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Runs at the same time, one thread each; all cores if left out.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="An Optuna storage URL; every process that is started with the same one takes part. A file in the race's "
        "directory if left out.",
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with a race, or take part in it.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over, discarding what is there.")]


def race(
    tasks: Annotated[
        str,
        typer.Argument(help="Tasks by name, separated by commas; all; or a model of your own as file.py:build_task."),
    ],
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Optimizers to race, separated by commas. Hyper-parameters follow a colon: sgd:momentum=0.9. "
            "An lr given so is where the search for the learning rate starts; a weight_decay given so is held fixed."
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(help="How much is tried: tiny, small, standard or full; docs/protocol.md says what each is.")
    ] = "small",
    search: Annotated[
        str, typer.Option(help="How learning rate and weight decay are searched: grid, tpe, halving or random.")
    ] = "grid",
    points: Annotated[
        int | None, typer.Option(min=1, help="How many learning rates each optimizer starts with.")
    ] = None,
    seeds: SeedsOption = None,
    report_seeds: ReportSeedsOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    storage: StorageOption = None,
    name: NameOption = None,
    out: OutOption = Path("runs"),
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    as_json: Json = False,
) -> None:
    """Find out which optimizer should train a model.

    Every optimizer is tuned on a few seeds and reported on fresh ones. What is chosen is chosen on validation data, the
    ranking is by test data, and the report is a single HTML file. Ctrl-C leaves a report of what is done by then.
    """
    from thalweg.lab.contenders import DEFAULT, parse_contenders
    from thalweg.lab.loading import task_names
    from thalweg.lab.protocol import budget as find_budget
    from thalweg.lab.race import Settings

    references = tuple(task_names() if tasks == "all" else split_list(tasks))
    contenders = parse_contenders(DEFAULT if optimizers is None else split_list(optimizers))
    given: dict[str, Any] = {"points": points, "tune_seeds": seeds, "report_seeds": report_seeds, "search": search}
    protocol = dataclasses.replace(find_budget(budget), **{k: v for k, v in given.items() if v is not None})
    settings = Settings(references, contenders, protocol, steps)
    _run(settings, "all" if tasks == "all" else name, name, out, workers, storage, resume, fresh, as_json)


def sweep(
    task: Annotated[str, typer.Argument(help="A task by name, or a model of your own as file.py:build_task.")],
    optimizer: Annotated[str, typer.Argument(help="The optimizer, with what is held fixed: sgd:momentum=0.9.")],
    space: Annotated[
        list[str],
        typer.Option(help="What is searched, once for each: lr=1e-4:1e-1:log, betas.0=0.8:0.99, nesterov=True,False."),
    ],
    search: Annotated[str, typer.Option(help="How it is searched: tpe, grid, halving or random.")] = "tpe",
    trials: Annotated[int, typer.Option(min=1, help="How many configurations are tried.")] = 30,
    seeds: SeedsOption = None,
    report_seeds: ReportSeedsOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    storage: StorageOption = None,
    name: NameOption = None,
    out: OutOption = Path("runs"),
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    as_json: Json = False,
) -> None:
    """Search any hyper-parameters of one optimizer, and report the best on fresh seeds."""
    from thalweg.lab.contenders import find_entry, parse_contender
    from thalweg.lab.protocol import budget
    from thalweg.lab.race import Settings
    from thalweg.lab.search import Range, Search

    contender = parse_contender(optimizer)
    ranges = tuple(Range.parse(one) for one in space)
    defaults = find_entry(contender.name).defaults
    for one in ranges:
        base, _, index = one.name.partition(".")
        if base not in defaults:
            raise unknown(f"hyper-parameter of {contender.name}", base, defaults)
        if index and not (isinstance(defaults[base], tuple) and index.isdigit() and int(index) < len(defaults[base])):
            raise LabError(f"{one.name} is no number of {contender.name}; {base} is {defaults[base]!r} by default")
    if len({one.name for one in ranges}) < len(ranges):
        raise LabError("a hyper-parameter is searched twice; give each --space once")
    given = {"tune_seeds": seeds, "report_seeds": report_seeds, "search": search}
    protocol = dataclasses.replace(budget("small"), points=0, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    settings = Settings((task,), (contender,), protocol, steps, Search(search, space=ranges, trials=trials))
    _run(settings, f"sweep-{contender.name}", name, out, workers, storage, resume, fresh, as_json)


def _run(
    settings: Any,
    fallback: str | None,
    name: str | None,
    out: Path,
    workers: int | None,
    storage: str | None,
    resume: bool,
    fresh: bool,
    as_json: bool,
) -> None:
    require_packages("numpy", "scipy", "sklearn", "optuna", "jinja2", "vl_convert")
    from thalweg.lab.progress import LiveBoard, PlainBoard
    from thalweg.lab.race import Race
    from thalweg.lab.tables import print_results

    if resume and fresh:
        raise typer.BadParameter("--resume and --fresh exclude each other.")
    if name is not None and Path(name).name != name:
        raise typer.BadParameter("--name is a single directory name; --out says where the directory goes.")
    courses = settings.courses()
    name = name or fallback or "-".join(course.task.name for course in courses)
    progress = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if progress.is_terminal:
            board: Any = LiveBoard(settings.contenders, progress)
        else:
            board = PlainBoard(progress)
        one = Race(settings, out / name, storage, board)
        one.open("resume" if resume else "fresh" if fresh else "new")
        if progress.is_terminal:
            stack.enter_context(board)
        result = one.run(workers, command_line())
    report = one.directory.path / "report.html"
    if as_json:
        print(json.dumps(result.summary, indent=2, allow_nan=False))
    else:
        print_results(stdout(), result.summary, report)
    if not result.complete:
        progress.print(
            f"Interrupted. The partial report is {report}; the same command with --resume in place of --fresh goes on.",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(130)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(race)
    app.command()(sweep)
