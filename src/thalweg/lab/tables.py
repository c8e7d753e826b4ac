"""The tables that a race ends with on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from thalweg.lab import wording

Json = Mapping[str, Any]


def print_results(console: Console, summary: Json, report: Path) -> None:
    """A table for each task that was raced, one over all of them, the checks, and what they say in words."""
    raced = [task for task in summary["tasks"] if task["kind"] == "race"]
    for task in raced:
        if len(raced) > 1:
            console.print(f"{task['name']}: {task['statement']}", style="bold", markup=False, highlight=False)
        console.print(task_table(task))
        for row in task["standings"]:
            if row["status"] != "ok" and row["reason"]:
                console.print(f"{row['label']}: {row['reason']}", style="dim", markup=False, highlight=False)
        console.print()
    if summary["overall"]:
        console.print("Over all tasks", style="bold")
        console.print(overall_table(summary["overall"]))
        console.print()
    if summary["checks"]:
        console.print(check_table(summary["checks"]))
        console.print()
    for sentence in summary["warnings"]:
        console.print(f"Warning: {sentence}", style="yellow", markup=False, highlight=False)
    console.print(" ".join([summary["headline"], *summary["findings"]]), markup=False, highlight=False)
    console.print()
    console.print(f"Report: {report} ({wording.seconds(summary['wall_seconds'])})", markup=False, highlight=False)


def task_table(task: Json) -> Table:
    """One task's ranking."""
    table = _table(
        "", "optimizer", f"test\n{task['metric']}", "95 %\ninterval", "chosen", "steps to\ntarget", "time to\ntarget",
        "default\ncosts", "ms per\nstep", "bytes per\nparameter",
    )  # fmt: skip
    for row in task["standings"]:
        low, high = row["test"]["interval"] if row["test"] else (None, None)
        table.add_row(
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
        )
    return table


def overall_table(overall: Json) -> Table:
    """All tasks together."""
    table = _table(
        "", "optimizer", "steps over the\nquickest's", "95 %\ninterval", "mean\nrank", "targets\nreached", "tasks"
    )
    for rank, row in enumerate(overall["rows"], 1):
        low, high = (wording.ratio(end) for end in row["interval"])
        table.add_row(
            str(rank),
            row["label"],
            wording.ratio(row["geometric_mean"]),
            f"{low}–{high}",
            wording.number(row["mean_rank"]),
            str(row["targets_reached"]),
            str(row["tasks"]),
        )
    return table


def check_table(checks: list[Json]) -> Table:
    """Who passes which check, and why not."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("check", "optimizer", "", "why"):
        table.add_column(heading, no_wrap=heading == "optimizer")
    for check in checks:
        table.add_row(check["task"], check["label"], "passed" if check["passed"] else "failed", check["reason"] or "")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("", "optimizer", "chosen") else "right", no_wrap=True)
    return table
