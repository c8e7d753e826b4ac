"""The tables that a race ends with on a terminal, and the same ones as a Markdown page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from thalweg.lab import wording

Json = Mapping[str, Any]


Cells = tuple[tuple[str, ...], list[list[str]]]
"""Headings and rows; a heading's line breaks are for the terminal."""
LEFT = ("", "optimizer", "chosen", "check", "why")


def print_results(console: Console, summary: Json, report: Path) -> None:
    """A table for each task that was raced, one over all of them, the checks, and what they say in words."""
    raced = [task for task in summary["tasks"] if task["kind"] == "race"]
    for task in raced:
        if len(raced) > 1:
            console.print(f"{task['name']}: {task['statement']}", style="bold", markup=False, highlight=False)
        console.print(_table(task_cells(task)))
        for note in _notes(task):
            console.print(note, style="dim", markup=False, highlight=False)
        console.print()
    if summary["overall"]:
        console.print("Over all tasks", style="bold")
        console.print(_table(overall_cells(summary["overall"])))
        console.print()
    if summary["checks"]:
        console.print(_table(check_cells(summary["checks"]), wrapped=True))
        console.print()
    for sentence in summary["warnings"]:
        console.print(f"Warning: {sentence}", style="yellow", markup=False, highlight=False)
    console.print(" ".join([summary["headline"], *summary["findings"]]), markup=False, highlight=False)
    console.print()
    console.print(f"Report: {report} ({wording.seconds(summary['wall_seconds'])})", markup=False, highlight=False)


def markdown(summary: Json) -> str:
    """A page with everything that a race says in tables and words, and how it was made."""
    protocol, machine = summary["protocol"], summary["machine"]
    parts = [f"# {summary['name'].capitalize()}", summary["headline"], _bullets(summary["findings"])]
    parts += [f"**{sentence}**" for sentence in summary["warnings"]]
    if summary["overall"]:
        parts += ["## Over all tasks", _grid(overall_cells(summary["overall"]))]
    for task in summary["tasks"]:
        if task["kind"] == "race":
            statement = f"{task['statement']} {task['limits']}".strip()
            target = (
                f"Target: {wording.metric(task, task['target'])} validation {task['metric']}; {task['steps']} steps."
            )
            notes = [_bullets(_notes(task))] if _notes(task) else []
            parts += [f"## {task['name']}", f"{statement} {target}", _grid(task_cells(task)), *notes]
    if summary["checks"]:
        parts += ["## Checks", _grid(check_cells(summary["checks"]))]
    parts += ["## How it was made", f"```\n{summary['command']}\n```"]
    facts = {**protocol, **machine, **summary["versions"], "workers": summary["workers"], "written": summary["written"]}
    parts.append(_bullets([f"{key.replace('_', ' ')}: {value}" for key, value in facts.items()]))
    if summary["not_run"]:
        parts += ["## Not run", _bullets(summary["not_run"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _notes(task: Json) -> list[str]:
    return [f"{row['label']}: {row['reason']}" for row in task["standings"] if row["status"] != "ok" and row["reason"]]


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"* {sentence}" for sentence in sentences)


def _grid(cells: Cells) -> str:
    headings, rows = cells
    lines = [" ".join(heading.split()) for heading in headings]
    rule = ["---" if heading in LEFT else "---:" for heading in headings]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines, rule, *escaped))


def task_cells(task: Json) -> Cells:
    """One task's ranking."""
    headings = (
        "", "optimizer", f"test\n{task['metric']}", "95 %\ninterval", "chosen", "steps to\ntarget", "time to\ntarget",
        "default\ncosts", "ms per\nstep", "bytes per\nparameter",
    )  # fmt: skip
    rows = []
    for row in task["standings"]:
        low, high = row["test"]["interval"] if row["test"] else (None, None)
        rows.append(
            [
                str(row["rank"]),
                row["label"],
                wording.result(task, row),
                wording.spread(task, low, high),
                wording.configuration(row["chosen"]),
                wording.target(row),
                wording.seconds(row["target"]["seconds"]),
                wording.regret(task, row),
                wording.number(row["step_ms"]),
                wording.number(row["bytes_per_parameter"]),
            ]
        )
    return headings, rows


def overall_cells(overall: Json) -> Cells:
    """All tasks together."""
    headings = (
        "",
        "optimizer",
        "steps over the\nquickest's",
        "95 %\ninterval",
        "mean\nrank",
        "targets\nreached",
        "tasks",
    )
    rows = []
    for rank, row in enumerate(overall["rows"], 1):
        low, high = (wording.ratio(end) for end in row["interval"])
        rows.append(
            [
                str(rank),
                row["label"],
                wording.ratio(row["geometric_mean"]),
                f"{low}–{high}",
                wording.number(row["mean_rank"]),
                str(row["targets_reached"]),
                str(row["tasks"]),
            ]
        )
    return headings, rows


def check_cells(checks: Iterable[Json]) -> Cells:
    """Who passes which check, and why not."""
    rows = [
        [check["task"], check["label"], "passed" if check["passed"] else "failed", check["reason"] or ""]
        for check in checks
    ]
    return ("check", "optimizer", "", "why"), rows


def _table(cells: Cells, wrapped: bool = False) -> Table:
    headings, rows = cells
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in LEFT else "right", no_wrap=heading == "optimizer" or not wrapped
        )
    for row in rows:
        table.add_row(*row)
    return table
