"""The charts across tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.lab import chart_rows
from thalweg.lab.chart_rows import Rows, Task
from thalweg.lab.charts import (
    HEAT,
    Chart,
    Palette,
    bars,
    context,
    drawing,
    faded,
    hover,
    names,
    panels,
    quantity,
    tooltip,
)
from thalweg.lab.report_words import fixed


def overall_charts(summary: Mapping[str, Any], palette: Palette) -> dict[str, Chart]:
    """The charts that compare optimizers over all tasks; none for a race of one task."""
    raced = [task for task in summary["tasks"] if task["kind"] == "race"]
    charts: dict[str, Chart] = {}
    overall = summary["overall"]
    if overall:
        charts["profile"] = profile_chart(chart_rows.profile_rows(overall), palette)
        charts["means"] = means_chart(chart_rows.overall_rows(overall), palette)
        charts["mean-rank"] = mean_rank_chart(chart_rows.overall_rows(overall), palette)
    if len(raced) > 1:
        order = [row["label"] for row in overall["rows"]] if overall else sorted(palette.labels)
        charts["ranks"] = ranks_chart(raced, order)
    return charts


def profile_chart(rows: Rows, palette: Palette) -> Chart:
    """Dolan and More's performance profile over the steps to target."""
    data = "overall/profile"
    x = quantity("ratio", None, scale={"type": "log", "base": 2, "nice": False},
                 axis={"values": [1, 2, 4, 8, 16, 32, 64], "labelExpr": "'×' + datum.value"})  # fmt: skip
    y = quantity("share", None, ".0%", scale={"domain": [0, 1]}, axis={"values": [0, 0.5, 1]})
    at = {"x": x, "y": y}
    own = {"color": palette.colour | {"legend": None}, "opacity": faded(1, 0.25)}
    tips = tooltip(("optimizer", "optimizer", ""), ("ratio", "factor", ".3~g"), ("share", "share of tasks", ".0%"))
    return panels(
        "overall-profile",
        "Performance profile",
        "share of tasks solved within a multiple of the fewest steps of any optimizer",
        "Across: a multiple of the fewest steps to target of any optimizer. Up: the share of tasks on which the "
        "panel's optimizer arrives within it. At ×1 on the left: how often it is the quickest; far right: how often it "
        "arrives at all. Higher is better. A profile depends on who else raced, and each of its steps is one task: a "
        "small difference is one lucky task.",
        {data: rows},
        [
            context(data, x, y, palette, interpolate="step-after"),
            {"mark": {"type": "line", "strokeWidth": 2.2, "interpolate": "step-after"}, "encoding": at | own},
            hover(at, tips),
        ],
    )


def means_chart(rows: Rows, palette: Palette) -> Chart:
    """The geometric mean over tasks of the ratio of steps, with its interval."""
    rows = sorted((row for row in rows if row["geometric_mean"]), key=lambda row: row["geometric_mean"])
    tips = tooltip(
        ("optimizer", "optimizer", ""), ("geometric_mean", "geometric mean", ".3f"),
        ("interval_low", "95 % from", ".3f"), ("interval_high", "to", ".3f"), ("mean_rank", "mean rank", ".2f"),
        ("targets_reached", "targets reached", ",d"),
    )  # fmt: skip
    title = "steps to target, over the fewest (geometric mean)"
    values = [row[key] for row in rows for key in ("geometric_mean", "interval_high") if row[key] is not None]
    scale = {"type": "log", "base": 2, "nice": False, "domain": [0.97, 1.04 * max([*values, 1.5])]}
    ticks = {"values": [1, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8, 12, 16], "labelExpr": "'×' + datum.value"}
    colour = {"color": palette.colour | {"legend": None}, "tooltip": tips}
    spec = drawing(
        "Geometric mean of steps to target", title, width=420, height=22 * len(rows), data={"name": "overall/means"},
        encoding={"y": names(rows)},
        layer=[
            {"mark": {"type": "rule", "strokeWidth": 5, "strokeCap": "round"},
             "encoding": colour | {"x": quantity("interval_low", title, scale=scale, axis=ticks),
                                   "x2": {"field": "interval_high"}, "opacity": faded(0.28, 0.06)}},
            {"mark": {"type": "point", "filled": True, "size": 80},
             "encoding": colour | {"x": {"field": "geometric_mean", "type": "quantitative"}, "opacity": faded()}},
        ],
    )  # fmt: skip
    notes = (
        "An optimizer's steps to target over the fewest of any, as a geometric mean over the tasks; ×1 would be the "
        "quickest everywhere. A miss counts as the task's whole budget, which flatters whoever misses. The bar is a "
        "95 % interval from drawing tasks anew, then seeds: it covers other tasks of these kinds, and no other kinds."
    )
    return Chart("overall-means", "Geometric mean of steps to target", notes, spec, {"overall/means": rows})


def mean_rank_chart(rows: Rows, palette: Palette) -> Chart:
    """The rank by the final test metric, averaged over the tasks."""
    rows = sorted(rows, key=lambda row: row["mean_rank"] or float("inf"))
    notes = (
        "The rank by the median test metric at the end of training, averaged over the tasks; shorter is better. Ranks "
        "count a narrow lead as much as a wide one, and depend on who else raced."
    )
    title = "Mean rank by final metric"
    bars_of = [
        {key: row[key] for key in ("optimizer", "mean_rank")} | {"text": fixed(row["mean_rank"], 1)} for row in rows
    ]
    return bars("overall-mean-rank", title, "1 would be first on every task", notes, bars_of,
                "mean_rank", "mean rank over the tasks", palette)  # fmt: skip


def ranks_chart(tasks: Sequence[Task], order: Sequence[str]) -> Chart:
    """Optimizer by task: the rank of the final test metric."""
    rows = sorted(chart_rows.rank_rows(tasks), key=lambda row: order.index(row["optimizer"]))
    bins = len(HEAT["light"])
    dark = "isValid(datum.place) && datum.place <= 0.42"
    spec = drawing(
        "Rank by task", "rank of the final test metric; 1 is best", width=560, height=24 * len(order),
        data={"name": "overall/ranks"},
        encoding={
            "y": names(rows),
            "x": {"field": "task", "type": "nominal", "sort": [task["name"] for task in tasks], "title": None,
                  "axis": {"orient": "top", "labelAngle": -35, "labelLimit": 110, "domain": False, "ticks": False,
                           "labelColor": "var(--ink)", "grid": False}},
        },
        layer=[
            {"mark": {"type": "rect", "cornerRadius": 2, "stroke": "var(--paper)", "strokeWidth": 2},
             "encoding": {
                 "color": {
                     "condition": {"test": "isValid(datum.place)", "field": "place", "type": "quantitative",
                                   "legend": None, "scale": {"type": "quantize", "domain": [0, 1],
                                             "range": [f"var(--heat-{number})" for number in range(bins)]}},
                     "value": "var(--panel)"},
                 "opacity": faded(1, 0.25),
                 "tooltip": tooltip(("optimizer", "optimizer", ""), ("task", "task", ""), ("rank", "rank", ",d"),
                                    ("of", "of", ",d"), ("median", "median test metric", ".5~g"),
                                    ("metric", "metric", ""), ("status", "status", ""))}},
            {"mark": {"type": "text", "fontSize": 11.5},
             "encoding": {"text": {"field": "text"}, "opacity": faded(1, 0.25),
                          "color": {"condition": {"test": dark, "value": "var(--paper)"}, "value": "var(--ink)"}}},
        ],
    )  # fmt: skip
    notes = (
        "The rank of every optimizer on every task by the median test metric; – where it has no result (diverged, "
        "refused or not run: hover for which). Strongest is best. Ranks hide distances: first and fourth may be within "
        "the spread of the seeds."
    )
    return Chart("overall-ranks", "Rank by task", notes, spec, {"overall/ranks": rows}, wide=True)
