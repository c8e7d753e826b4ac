"""The report: one HTML file that needs no network and can be shown to a colleague."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import thalweg
from thalweg.lab import charts, wording
from thalweg.lab.summary import Standing
from thalweg.lab.tasks import Task

if TYPE_CHECKING:
    from thalweg.lab.race import Result


def render(result: Result) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    task, rows, summary = result.task, result.rows, result.summary
    panels = charts.validation_panels(task, rows)
    environment = Environment(
        loader=PackageLoader("thalweg.lab"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["words"] = wording
    return environment.get_template("report.html.j2").render(
        task=task,
        rows=rows,
        summary=summary,
        styles=charts.styles([row.label for row in rows]),
        figures=_figures(task, rows) | {f"panel-{label}": figure for label, figure in panels.items()},
        panels=panels,
        caveats=caveats(result),
        failures=[record for record in result.records if record["status"] == "failed"],
        configuration=json.dumps(summary["configuration"], indent=2),
        plotly=get_plotlyjs(),
    )


def _figures(task: Task, rows: Sequence[Standing]) -> dict[str, Any]:
    """The charts that there is something to draw in."""
    if not any(row.runs for row in rows):
        return {}
    figures = {
        "seeds": charts.seeds_chart(task, rows),
        "training": charts.training_chart(rows),
        "sensitivity": charts.sensitivity_chart(task, rows),
        "time": charts.bar_chart(rows, "milliseconds per optimizer step", lambda row: row.step_ms),
        "memory": charts.bar_chart(rows, "state bytes per parameter", lambda row: row.bytes_per_parameter),
    }
    return {name: figure for name, figure in figures.items() if figure["data"]}


def caveats(result: Result) -> list[str]:
    """What the race does not show, in full sentences."""
    task, rows, summary = result.task, result.rows, result.summary
    seeds = summary["configuration"]["seeds"]
    sentences = []
    if not summary["complete"]:
        runs = summary["runs"]
        made = runs["finished"] + runs["diverged"] + runs["failed"]
        sentences.append(
            f"The race was interrupted after {made} of {runs['planned']} planned runs; learning rates were "
            "chosen from what had been tried by then."
        )
    sentences += [
        f"{wording.count(seeds, 'seed')} and a fixed split: a lead is called “within the seed spread” where the leader "
        "is not ahead on every seed. That describes these runs; it is no test of significance.",
        "Only the learning rate was tuned, at the same number of points for every optimizer; weight decay, momenta "
        "and everything else kept the values shown. One that needs more tuning than that is at a disadvantage.",
        "The learning rate was constant, without warm-up or decay. Most optimizers gain from a decay towards the end; "
        "schedule-free ones are built to do without.",
        f"This is one model trained for {task.steps} steps. Other models and longer training can order the optimizers "
        "differently.",
        f"Times were taken with {wording.count(summary['workers'], 'worker')} side by side, one thread each. On a CPU "
        "they are processor time; the workers still share caches and memory with each other.",
    ]
    sizes = [record["parameters"] for record in result.records if "parameters" in record]
    if sizes and max(sizes) < 1_000_000:
        sentences.append(
            f"With {max(sizes):,} parameters, the time of a step is mostly the fixed cost of its calls; "
            "on a large model the cost per parameter decides."
        )
    for row in rows:
        if row.edge:
            sentences.append(
                f"The best learning rate found for {row.label}, {wording.rate(row.best.lr if row.best else None)}, "
                f"is the {row.edge} one tried; a better one may lie beyond."
            )
    alone = [row.label for row in rows if row.contender.lr is None]
    if alone:
        sentences.append(f"No learning rate was searched for {wording.listing(alone)}, which finds its own.")
    absent = sorted(set(thalweg.list_optimizers()) - {row.contender.name for row in rows})
    if absent:
        sentences.append(f"Not raced: {wording.listing(absent)}.")
    return sentences
