"""The report's charts as plotly figures (plain dictionaries, drawn by plotly.js in the page).

Text and grid lines take their colours from the page's style sheet, so that one figure serves light and dark;
line colours are of a middle lightness that shows on both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from thalweg.lab import wording
from thalweg.lab.summary import Record, Standing
from thalweg.lab.tasks import Task

Figure = dict[str, Any]
Curves = dict[str, list[tuple[int, float, float, float]]]
"""For each contender: step, median, lowest, highest."""

PALETTE = (
    "#2f7fd6",
    "#e0702a",
    "#22a06b",
    "#b15cc6",
    "#d8455f",
    "#1a9cab",
    "#93831d",
    "#7b70e4",
    "#a96f45",
    "#cf569f",
    "#74869a",
    "#66a334",
)
GREY = "#8a94a0"
DASHES = ("solid", "dash", "dot", "dashdot")


def styles(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a dash per contender; dashes tell them apart once the colours are used up."""
    return {
        label: (PALETTE[index % len(PALETTE)], DASHES[index // len(PALETTE) % len(DASHES)])
        for index, label in enumerate(labels)
    }


def translucent(colour: str, opacity: float) -> str:
    """The colour for a band behind its line."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _layout(height: int, x: str, y: str, **more: Any) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 62, "r": 12, "t": 8, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13},
        "showlegend": False,
        "hoverlabel": {"bgcolor": "#20262d", "bordercolor": "#20262d", "font": {"color": "#f4f6f8"}},
    }
    for axis, title in (("xaxis", x), ("yaxis", y)):
        titled = {"title": {"text": title, "standoff": 8}} if title else {}
        layout[axis] = {"zeroline": False, "automargin": True} | titled | more.pop(axis, {})
    return layout | more


def _metric_axis(task: Task) -> dict[str, Any]:
    return {"tickformat": ".1~%"} if task.unit == "%" else {}


def metric_title(task: Task, split: str) -> str:
    """An axis title with the unit."""
    unit = f" ({task.unit})" if task.unit not in ("", "%") else ""
    return f"{split} {task.metric}{unit}"


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """A logarithmic axis, with whole powers of ten where there are enough of them."""
    exponents = [math.log10(value) for value in values if value > 0]
    narrow = not exponents or max(exponents) - min(exponents) < 1.2
    return {"type": "log", "tickformat": "~g", "dtick": "D1" if narrow else 1}


def seeds_chart(task: Task, rows: Sequence[Standing]) -> Figure:
    """Every seed's test metric at the best learning rate, the median as a bar."""
    colours = styles([row.label for row in rows])
    data: list[Figure] = []
    for row in (row for row in rows if row.test_low is not None):
        colour, _ = colours[row.label]
        runs = [run for run in row.runs if run.get("test")]
        common = {"type": "scatter", "mode": "markers", "name": row.label, "meta": row.label}
        data.append(
            common
            | {
                "x": [run["test"][task.metric] for run in runs],
                "y": [row.label] * len(runs),
                "text": [f"seed {run['seed']}" for run in runs],
                "hovertemplate": "%{y}, %{text}: %{x}<extra></extra>",
                "marker": {"color": translucent(colour, 0.55), "size": 10},
            }
        )
        if row.test is not None:
            bar = {"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": colour}}
            hover = {"hovertemplate": "%{y}, median: %{x}<extra></extra>"}
            data.append(common | {"x": [row.test], "y": [row.label], "marker": bar} | hover)
    return {
        "data": data,
        "layout": _layout(
            74 + 30 * len(rows),
            metric_title(task, "test"),
            "",
            xaxis=_metric_axis(task),
            yaxis={"autorange": "reversed", "type": "category", "ticklabelstandoff": 6},
        ),
    }


def _by_step(rows: Sequence[Standing], value: Callable[[Record, int], float | None]) -> Curves:
    """For each contender (step, median, low, high) over the seeds that got as far as that step."""
    curves = {}
    for row in rows:
        points: dict[int, list[float]] = {}
        for run in row.runs:
            for index, step in enumerate(run.get("curve", {}).get("step", [])):
                found = value(run, index)
                if found is not None:
                    points.setdefault(step, []).append(found)
        curves[row.label] = [(step, statistics.median(at), min(at), max(at)) for step, at in sorted(points.items())]
    return curves


def _curve_traces(
    rows: Sequence[Standing], curves: Curves, colours: dict[str, tuple[str, str]], opacity: float
) -> list[Figure]:
    bands: list[Figure] = []
    lines: list[Figure] = []
    for row in reversed(rows):  # the winner is drawn last, on top
        if not curves[row.label]:
            continue
        steps, middle, low, high = (list(column) for column in zip(*curves[row.label], strict=True))
        colour, dash = colours[row.label]
        common = {"type": "scatter", "mode": "lines", "name": row.label, "meta": row.label}
        edge = common | {"line": {"width": 0}, "hoverinfo": "skip", "x": steps}
        bands.append(edge | {"y": low})
        bands.append(edge | {"y": high, "fill": "tonexty", "fillcolor": translucent(colour, opacity)})
        lines.append(
            common
            | {"x": steps, "y": middle, "line": {"width": 2, "color": colour, "dash": dash}}
            | {"hovertemplate": f"{row.label}, step %{{x}}: %{{y:.4g}}<extra></extra>"}
        )
    return bands + lines


def training_chart(rows: Sequence[Standing]) -> Figure:
    """Training loss over steps."""
    curves = _by_step(rows, lambda run, index: run["curve"]["train_loss"][index])
    values = [value for points in curves.values() for point in points for value in point[1:]]
    scale = _log_axis(values) if values and min(values) > 0 and max(values) / min(values) > 8 else {}
    return {
        "data": _curve_traces(rows, curves, styles([row.label for row in rows]), 0.09),
        "layout": _layout(380, "step", "training loss", yaxis=scale),
    }


def validation_panels(task: Task, rows: Sequence[Standing]) -> dict[str, Figure]:
    """The validation metric over steps, one small panel per contender with all the others in grey behind it.

    Ten noisy lines in one picture cannot be told apart; in panels of one scale they can.
    """
    curves = _by_step(rows, lambda run, index: run["curve"]["validation"][index])
    axis = _metric_axis(task) | {"range": _validation_range(task, curves), "nticks": 5}
    target = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": task.target, "y1": task.target}
    layout = _layout(
        150,
        "",
        "",
        margin={"l": 44, "r": 6, "t": 6, "b": 26},
        xaxis={"range": [0, task.steps], "nticks": 4},
        yaxis=axis,
        shapes=[target | {"line": {"width": 1.2, "dash": "dot", "color": GREY}}],
    )
    grey = {
        "type": "scatter",
        "mode": "lines",
        "hoverinfo": "skip",
        "line": {"width": 1, "color": translucent(GREY, 0.35)},
    }
    context = {
        row.label: grey
        | {"x": [point[0] for point in curves[row.label]], "y": [point[1] for point in curves[row.label]]}
        for row in rows
    }
    colours = styles([row.label for row in rows])
    panels = {}
    for row in (row for row in rows if curves[row.label]):
        own = [trace | {"meta": None} for trace in _curve_traces([row], curves, colours, 0.18)]
        panels[row.label] = {"data": [*(context[one.label] for one in rows if one is not row), *own], "layout": layout}
    return panels


def _validation_range(task: Task, curves: Curves) -> list[float]:
    """From the end of the first fifth of training; the worst tenth may run out of the picture.

    One slow contender, and the first steps of all of them, would otherwise flatten every difference that matters.
    """
    late = [point[1] for points in curves.values() for point in points if point[0] >= task.steps / 5]
    if not late:
        return [task.target - 1, task.target + 1]
    late.sort()
    tenth = len(late) // 10
    low, high = (late[tenth], late[-1]) if task.direction == "max" else (late[0], late[-1 - tenth])
    low, high = min(low, task.target), max(high, task.target)
    margin = 0.06 * (high - low) or 0.1
    return [low - margin, high + margin]


def sensitivity_chart(task: Task, rows: Sequence[Standing]) -> Figure:
    """The median validation metric over the learning rate; a ring marks the rate that was chosen."""
    colours = styles([row.label for row in rows])
    data: list[Figure] = []
    rates: list[float] = []
    for row in reversed(rows):
        cells = [cell for cell in row.cells if cell.lr is not None and cell.validation is not None]
        if not cells:
            continue
        colour, dash = colours[row.label]
        rates += [cell.lr for cell in cells if cell.lr is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": row.label,
                "meta": row.label,
                "x": [cell.lr for cell in cells],
                "y": [cell.validation for cell in cells],
                "line": {"width": 2, "color": colour, "dash": dash},
                "marker": {
                    "size": [12 if cell is row.best else 6 for cell in cells],
                    "symbol": ["circle-open" if cell is row.best else "circle" for cell in cells],
                    "color": colour,
                    "line": {"width": [3 if cell is row.best else 0 for cell in cells], "color": colour},
                },
                "text": [_cell_note(task, cell.low, cell.high, cell.diverged) for cell in cells],
                "hovertemplate": f"{row.label}, lr %{{x}}: %{{y:.4g}}%{{text}}<extra></extra>",
            }
        )
    return {
        "data": data,
        "layout": _layout(
            420,
            "learning rate",
            metric_title(task, "validation"),
            xaxis=_log_axis(rates),
            yaxis=_metric_axis(task) | _sensitivity_range(task, rows),
        ),
    }


def _sensitivity_range(task: Task, rows: Sequence[Standing]) -> dict[str, Any]:
    """Without the worst quarter of all points, unless that would hide somebody's best."""
    values = sorted(cell.validation for row in rows for cell in row.cells if cell.validation is not None)
    best = [row.best.validation for row in rows if row.best and row.best.validation is not None]
    if not best:
        return {}
    quarter = len(values) // 4
    if task.direction == "max":
        low, high = min(values[quarter], *best), values[-1]
    else:
        low, high = values[0], max(values[-1 - quarter], *best)
    margin = 0.08 * (high - low) or 0.1
    return {"range": [low - margin, high + margin]}


def _cell_note(task: Task, low: float | None, high: float | None, diverged: int) -> str:
    spread = f" ({wording.spread(task, low, high)})"
    return spread + (f", {wording.count(diverged, 'run')} diverged" if diverged else "")


def bar_chart(rows: Sequence[Standing], title: str, value: Callable[[Standing], float | None]) -> Figure:
    """One bar per contender in the order of the ranking, the number written at its end."""
    colours = styles([row.label for row in rows])
    values = [value(row) or 0.0 for row in rows]
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "y": [row.label for row in rows],
                "x": values,
                "text": [wording.number(value(row)) for row in rows],
                "textposition": "outside",
                "cliponaxis": False,
                "marker": {"color": [colours[row.label][0] for row in rows]},
                "hovertemplate": "%{y}: %{text}<extra></extra>",
            }
        ],
        "layout": _layout(
            74 + 28 * len(rows),
            title,
            "",
            bargap=0.35,
            xaxis={"range": [0, 1.18 * max(values, default=0.0) or 1], "rangemode": "tozero"},
            yaxis={"autorange": "reversed", "type": "category", "ticklabelstandoff": 6},
        ),
    }
