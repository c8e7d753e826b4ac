"""The report: one HTML file that needs no network and can be shown to a colleague, and its charts as PNG.

A report is made from a race's `summary.json` and nothing else, so it can be written anew at any time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from thalweg._version import __version__
from thalweg.lab import charts, report_words, wording
from thalweg.lab.chart_rows import Rows
from thalweg.lab.charts import Chart, Palette
from thalweg.lab.charts_overall import overall_charts
from thalweg.lab.charts_task import task_charts
from thalweg.lab.errors import LabError

SCHEMA = 2
CURVES = {
    "validation-step": "Validation by step",
    "validation-seconds": "Validation by second",
    "training-step": "Training by step",
    "training-seconds": "Training by second",
}


def write_report(directory: Path, summary: Mapping[str, Any]) -> Path:
    """Write ``report.html`` and ``charts/*.png`` into a race's directory, over those that are there.

    Returns the path of the page. Raises `LabError` for a summary of another schema.
    """
    page, drawn = render(summary)
    return write_page(directory, "report.html", page, drawn)


def write_page(directory: Path, name: str, page: str, drawn: Iterable[Chart]) -> Path:
    """Write a page, and its charts under ``charts/``; PNGs of charts that are no more are removed."""
    folder = directory / "charts"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    path = directory / name
    path.write_text(page, encoding="utf-8")
    for chart in drawn:
        (folder / f"{chart.name}.png").write_bytes(charts.png(chart))
    return path


def read_summary(directory: Path) -> dict[str, Any]:
    """The summary in a race's directory; `LabError` says what to do where there is none that can be read."""
    path = directory / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise LabError(f"{path} cannot be read; give the directory of a race, such as runs/digits") from None
    except ValueError as error:
        raise LabError(f"{path} is not valid JSON ({error}); run the race again with --resume") from None


def check_schema(summary: Mapping[str, Any]) -> None:
    """Refuse a summary that another version wrote."""
    found = summary.get("schema")
    if found != SCHEMA:
        raise LabError(f"the summary has schema {found!r}, this version reads {SCHEMA}; run the race again")


def render(summary: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The whole page, and the charts in it."""
    check_schema(summary)
    palette = Palette(labels_of(summary))
    tasks = [task for task in summary["tasks"] if task["kind"] == "race"]
    by_task = {task["name"]: task_charts(task, palette) for task in tasks}
    across = overall_charts(summary, palette)
    drawn = [*across.values(), *(chart for found in by_task.values() for chart in found.values())]
    protocol = summary["protocol"] | {
        "workers": summary["workers"],
        "duration": wording.seconds(summary["wall_seconds"]),
    }
    page = fill(
        "report.html.j2",
        drawn,
        palette,
        **{key: summary[key] for key in ("headline", "findings", "warnings", "not_run", "command", "complete")},
        **{key: summary[key] for key in ("name", "machine", "versions", "overall", "wall_seconds")},
        written=report_words.when(summary["written"]),
        contenders=len(palette.labels),
        title=f"{summary['name']}: {summary['headline']}",
        protocol=protocol,
        tasks=tasks,
        charts=by_task,
        curves={
            name: {words: found[kind] for kind, words in CURVES.items() if kind in found}
            for name, found in by_task.items()
        },
        across=across,
        ranks="ranks" in across,
        checks=_checks(summary),
    )
    return page, drawn


def _checks(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The checks by contender, with what each of them asks; None where none was made."""
    if not summary["checks"]:
        return None
    statements = {task["name"]: task["statement"] for task in summary["tasks"]}
    asked = dict.fromkeys(check["task"] for check in summary["checks"])
    rows: dict[str, dict[str, Any]] = {}
    for check in summary["checks"]:
        rows.setdefault(check["label"], {})[check["task"]] = check
    return {"statements": {name: statements.get(name, "") for name in asked}, "rows": dict(sorted(rows.items()))}


def fill(template: str, drawn: Iterable[Chart], palette: Palette, **values: Any) -> str:
    """Fill a template that extends ``base.html.j2``, with everything the page's script needs."""
    specs: dict[str, Any] = {}
    data: dict[str, Rows] = {}
    for chart in drawn:
        specs[chart.name] = {"spec": chart.spec, "wide": chart.wide, "rows": next(iter(chart.rows))}
        data |= chart.rows
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            version=__version__,
            styles={label: palette.style(label) for label in palette.labels},
            themes={mode: charts.theme(mode) for mode in ("light", "dark")},
            page={"charts": specs, "data": data, "config": charts.config() | {"legend": {"disable": True}}},
            vega=_vega(),
        )
    )


def labels_of(*summaries: Mapping[str, Any]) -> list[str]:
    """Every contender, in an order that no result changes, so that colours stay from one report to the next."""
    return sorted({one["label"] for summary in summaries for task in summary["tasks"] for one in task["standings"]})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("thalweg.lab"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= report_words.FILTERS
    environment.globals["words"] = wording
    return environment


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script; it ends in no tag and loads nothing."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
