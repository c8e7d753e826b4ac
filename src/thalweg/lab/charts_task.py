"""The charts of one task."""

from __future__ import annotations

import math
from typing import Any

from thalweg.lab import chart_rows
from thalweg.lab.chart_rows import Rows, Task
from thalweg.lab.charts import (
    CROSS,
    Chart,
    Palette,
    Range,
    Spec,
    bars,
    context,
    drawing,
    faded,
    hover,
    metric_axis,
    metric_title,
    names,
    panels,
    quantity,
    tooltip,
)

ZOOM = "Drag to move, hold Alt and turn the wheel to zoom, double-click to go back."


def task_charts(task: Task, palette: Palette) -> dict[str, Chart]:
    """The charts that there is something to draw in, by a short name."""
    results, seeds = chart_rows.standing_rows(task), chart_rows.seed_rows(task)
    curves, grid = chart_rows.curve_rows(task), chart_rows.grid_rows(task)
    trials = chart_rows.trial_rows(task)
    charts: dict[str, Chart] = {}
    if any(row["test"] is not None for row in seeds):
        charts["seeds"] = seeds_chart(task, seeds, results, palette)
    for split in ("validation", "training"):
        for axis in ("step", "seconds"):
            if any(row[split] is not None and row[axis] is not None for row in curves):
                charts[f"{split}-{axis}"] = curve_chart(task, curves, split, axis, palette)
    if any(row["validation"] is not None for row in grid):
        charts["rates"] = rates_chart(task, grid, palette)
    if trials:
        charts["trials"] = trials_chart(task, trials, palette)
    return charts | _bars(task, palette)


def seeds_chart(task: Task, seeds: Rows, results: Rows, palette: Palette) -> Chart:
    """Every seed's test metric with the median and its interval."""
    low, high = chart_rows.result_range(task) or (0.0, 1.0)
    drawn = [row for row in results if row["median"] is not None]
    lost = {row["optimizer"]: 0 for row in drawn}
    for row in seeds:
        if row["optimizer"] in lost:
            lost[row["optimizer"]] += row["status"] == "diverged"
    points = [
        row | {"shown": min(max(row["test"], low), high), "outside": not low <= row["test"] <= high}
        for row in seeds
        if row["test"] is not None
    ]
    drawn = [row | {"lost": f"✕ {lost[row['optimizer']]}" if lost[row["optimizer"]] else ""} for row in drawn]
    number = ".3%" if task["unit"] == "%" else ".5~g"
    colour = {"color": palette.colour | {"legend": None}}
    data = f"{task['name']}/results"
    tests = [row["test"] for row in points]
    x = metric_axis(task, "shown", metric_title(task, "test"), tests, (low, high))
    x["scale"]["clamp"], x["axis"]["grid"] = True, True
    if "values" not in x["axis"]:
        x["axis"]["tickCount"] = 8
    outwards = "triangle-left" if task["direction"] == "max" else "triangle-right"
    shape = {"shape": {"condition": {"test": "datum.outside", "value": outwards}, "value": "circle"}}
    spec = drawing(
        f"Final result per seed: {task['name']}",
        f"test {task['metric']} at the end of training",
        width=640,
        height=28 * len(drawn),
        data={"name": f"{task['name']}/seeds"},
        encoding={"y": names(drawn), "x": x},
        layer=[
            {
                "data": {"name": data},
                "transform": [{"filter": "isValid(datum.interval_low) && isValid(datum.interval_high)"}],
                "mark": {"type": "bar", "height": 15, "cornerRadius": 3},
                "encoding": colour
                | {"x": {"field": "interval_low", "type": "quantitative"}, "x2": {"field": "interval_high"}}
                | {"opacity": faded(0.24, 0.06)}
                | {"tooltip": tooltip(("optimizer", "optimizer", ""), ("median", "median", number),
                                      ("interval_low", "95 % from", number), ("interval_high", "to", number))},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 46, "stroke": None},
                "encoding": colour
                | {"opacity": faded(0.62, 0.08)}
                | shape
                | {"tooltip": tooltip(("optimizer", "optimizer", ""), ("seed", "seed", ""), ("test", "test", number),
                                      ("validation", "validation", number),
                                      ("steps_to_target", "steps to target", ",d"))},
            },
            {
                "data": {"name": data},
                "mark": {"type": "tick", "thickness": 2.5, "height": 20},
                "encoding": colour | {"x": {"field": "median", "type": "quantitative"}, "opacity": faded()},
            },
            {
                "data": {"name": data},
                "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11, "color": "var(--bad)"},
                "encoding": {"x": {"value": "width"}, "text": {"field": "lost"}, "opacity": faded()},
            },
        ],
    )  # fmt: skip
    notes = (
        "A dot is a seed, the upright bar the median, the shaded bar its 95 % bootstrap interval. Seeds share initial "
        "weights and data order across optimizers, so compare seed by seed: overlapping intervals do not mean a tie. "
        "A triangle at the edge lies outside the picture; ✕ counts the runs that diverged. "
        "It cannot show what another split of the data would change."
    )
    return Chart(f"{task['name']}-seeds", "Final result per seed", notes, spec,
                 {f"{task['name']}/seeds": points, data: drawn}, wide=True)  # fmt: skip


def curve_chart(task: Task, rows: Rows, split: str, axis: str, palette: Palette) -> Chart:
    """The validation metric or the training loss over steps or seconds."""
    data = f"{task['name']}/curves"
    validation = split == "validation"
    what = metric_title(task, "validation") if validation else "training loss"
    x = quantity(axis, None, axis={"tickCount": 4}, scale={"nice": False})
    values = [row[split] for row in rows]
    loss = task if validation else {**task, "direction": "min", "unit": ""}
    domain = chart_rows.late_range(task, rows) if validation else chart_rows.best_range(loss, values, 0.99)
    y = metric_axis(loss, split, None, values, domain)
    band = {"y": {**y, "field": f"{split}_low"}, "y2": {"field": f"{split}_high"}}
    own = {"color": palette.colour | {"legend": None}}
    layers = [
        context(data, x, y, palette),
        {
            "mark": {"type": "area", "clip": True},
            "encoding": {"x": x} | band | own | {"opacity": faded(0.2, 0.05)},
        },
        {
            "mark": {"type": "line", "strokeWidth": 2, "clip": True},
            "encoding": {"x": x, "y": y} | own | {"opacity": faded(1, 0.25)},
        },
        hover(
            {"x": x, "y": y},
            tooltip(("optimizer", "optimizer", ""), ("step", "step", ",d"), ("seconds", "seconds", ".3~g"),
                    (split, "median", ".5~g"), (f"{split}_low", "lowest", ".5~g"),
                    (f"{split}_high", "highest", ".5~g"), ("seeds", "seeds", ",d")),
        ),
    ]  # fmt: skip
    if validation:
        layers.insert(1, _level(task["target"]))
    layers += _outside(rows, split, domain)
    unit = "steps" if axis == "step" else "seconds"
    notes = (
        f"Across: {unit}{' of training, the median over the seeds' if axis == 'seconds' else ''}. Up: {what}. In "
        "colour the optimizer of the panel, median and range over the seeds that got so far; in grey the others; the "
        f"one in focus keeps its colour in every panel. {'The dashed line is the target. ' if validation else ''}"
        f"{ZOOM} "
    ) + (
        "Where the worst curves leave the picture, it is to keep the differences among the others visible."
        if validation
        else "A low training loss is no merit by itself: only the metric on other data is ranked."
    )
    title = "Validation while training" if validation else "Training loss"
    return panels(f"{task['name']}-{split}-{axis}", f"{title}, by {unit}", f"{task['name']}: {what} over {unit}",
                  notes, {data: rows}, layers)  # fmt: skip


def rates_chart(task: Task, rows: Rows, palette: Palette) -> Chart:
    """The validation metric over the learning rate, as a multiple of the default."""
    data = f"{task['name']}/grid"
    worst = "height" if task["direction"] == "max" else 0
    medians = [row["validation"] for row in rows]
    domain = chart_rows.best_range(task, medians, 0.7)
    multiples = [row["multiple"] for row in rows if row["multiple"]] or [1.0]
    powers = range(math.floor(math.log10(min(multiples))), math.ceil(math.log10(max(multiples))) + 1)
    x = quantity(
        "multiple",
        None,
        scale={"type": "log", "nice": False, "domain": [min(multiples) / 1.35, max(multiples) * 1.35]},
        axis={"values": [10.0**power for power in powers], "labelExpr": "'×' + format(datum.value, '~g')"},
    )
    y = metric_axis(task, "validation", None, medians, domain)
    own = {"color": palette.colour | {"legend": None}}
    tips = tooltip(
        ("optimizer", "optimizer", ""), ("lr", "learning rate", ".3~g"), ("weight_decay", "weight decay", ".3~g"),
        ("searched", "searched", ""), ("validation", "validation", ".5~g"), ("lowest", "lowest", ".5~g"),
        ("highest", "highest", ".5~g"), ("diverged", "diverged", ",d"),
    )  # fmt: skip
    at = {"x": x, "y": y}
    layers = [
        context(data, x, y, palette, "datum.own_decay && isValid(datum.multiple)"),
        _only("isValid(datum.multiple) && !isValid(datum.searched)",
              {"type": "line", "strokeWidth": 1.2, "strokeDash": [3, 2], "clip": True},
              at | own | {"detail": {"field": "weight_decay"}, "opacity": faded(0.6, 0.1)}),
        _only("datum.own_decay && isValid(datum.multiple)", {"type": "line", "strokeWidth": 2.2, "clip": True},
              at | own | {"opacity": faded(1, 0.25)}),
        _only("!isValid(datum.multiple)", {"type": "rule", "strokeWidth": 2.2, "clip": True},
              {"y": y, "tooltip": tips} | own),
        _only("isValid(datum.validation)", {"type": "point", "filled": True, "size": 26, "clip": True},
              at | own | {"tooltip": tips, "opacity": faded(1, 0.25)}),
        _only("datum.chosen", {"type": "point", "filled": False, "size": 110, "strokeWidth": 1.8, "clip": True},
              at | own | {"opacity": faded(1, 0.25)}),
        _only("!isValid(datum.validation) && datum.diverged > 0",
              {"type": "point", "shape": CROSS, "size": 36, "strokeWidth": 1.6, "color": "var(--bad)",
               "yOffset": -5 if worst else 5},
              {"x": x, "y": {"value": worst}, "tooltip": tips}),
    ]  # fmt: skip
    layers += _outside(rows, "validation", domain)
    notes = (
        "Across: the learning rate as a multiple of the optimizer's default. "
        f"Up: {metric_title(task, 'validation')}, the median over the tuning seeds. Solid: the chosen weight decay; "
        "dashed: the others tried; the ring is what was chosen; ✕ diverged. A wide flat top forgives a careless rate. "
        f"An optimizer without a learning rate is a level line. {ZOOM} It cannot show rates between those tried."
    )
    return panels(f"{task['name']}-rates", "Sensitivity to the learning rate",
                  f"{task['name']}: {metric_title(task, 'validation')} over multiples of the default rate",
                  notes, {data: rows}, layers)  # fmt: skip


def trials_chart(task: Task, rows: Rows, palette: Palette) -> Chart:
    """The expected best of k trials."""
    x = {"field": "trials", "type": "ordinal", "title": "trials (k)", "axis": {"labelAngle": 0}}
    values = [row["expected"] for row in rows]
    domain = chart_rows.best_range(task, values, 1.0)
    y = metric_axis(task, "expected", metric_title(task, "expected best validation"), values, domain)
    notes = (
        "The best validation result to expect after trying k settings drawn at random from the optimizer's grid. "
        f"{'Higher' if task['direction'] == 'max' else 'Lower'} on the left means that little tuning is needed. It "
        "depends on the grid: one centred on a good default looks easier than it would elsewhere."
    )
    data = f"{task['name']}/trials"
    tips = tooltip(("optimizer", "optimizer", ""), ("trials", "trials", ",d"), ("expected", "expected best", ".5~g"))
    title = "Best after k trials"
    spec = drawing(
        title, f"{task['name']}: expected best validation {task['metric']}", width=420, height=260, data={"name": data},
        encoding={"x": x, "y": y},
        layer=[
            {"mark": {"type": "line", "strokeWidth": 2},
             "encoding": {"color": palette.colour, "strokeDash": palette.dash, "opacity": faded(0.95)}},
            {"mark": {"type": "point", "filled": True, "size": 34},
             "encoding": {"color": palette.colour, "opacity": faded(), "tooltip": tips}},
        ],
    )  # fmt: skip
    return Chart(f"{task['name']}-trials", title, notes, spec, {data: rows})


def _bars(task: Task, palette: Palette) -> dict[str, Chart]:
    """What tuning, a step and its memory cost, a chart each: its field, title, axis and notes."""
    unit = chart_rows.regret_unit(task)
    kinds: dict[str, tuple[str, str, str, str]] = {
        "target": (
            "steps_to_target", "Steps to the target", "training steps, median",
            "Steps until the validation metric first reaches the task's target, the median over the report seeds; in "
            "brackets the seeds that reached it, where not all did. The target is one point of a curve: another can "
            "order the optimizers differently.",
        ),
        "regret": (
            "regret", "Regret of the default", f"validation lost ({unit})" if unit else "validation lost",
            "How much validation performance the default learning rate and weight decay give away against the best "
            "setting found; ×3 is three times the best loss. – means that the default diverged or was not tried. It "
            "says nothing about other hyper-parameters.",
        ),
        "share": (
            "share_within", "Share of the grid within 2 % of the best", "share of the grid",
            "How much of the grid is nearly as good as its best point: within two points of an accuracy, two per cent "
            "of a loss. A large share means that the choice hardly matters. It depends on the grid's extent.",
        ),
        "time": (
            "step_ms", "Time of an optimizer step", "milliseconds a step",
            "Median time of the optimizer's own step, without forward and backward. On a model this small it is mostly "
            "the fixed cost of calls; on a large one the words moved per parameter decide.",
        ),
        "memory": (
            "bytes_per_parameter", "Memory of the optimizer's state", "bytes a parameter",
            "Bytes of optimizer state for each parameter of the model; weights and gradients come on top. Factored "
            "states depend on the shapes of the parameters.",
        ),
    }  # fmt: skip
    costs = chart_rows.cost_rows(task)
    charts = {}
    for kind, (field, title, axis, notes) in kinds.items():
        rows = [{"optimizer": row["optimizer"], field: row[field], "text": row[f"{field}_words"]} for row in costs]
        if any(row[field] is not None for row in rows):
            name = f"{task['name']}-{kind}"
            charts[kind] = bars(name, title, f"{task['name']}: {axis}", notes, rows, field, axis, palette)
    return charts


def _outside(rows: Rows, field: str, domain: Range | None) -> list[Spec]:
    """A word for every panel that would be empty because its optimizer never comes into the picture."""
    low, high = domain or (0.0, 1.0)
    seen = {row["optimizer"] for row in rows if row[field] is not None and low <= row[field] <= high}
    hidden = dict.fromkeys(row["optimizer"] for row in rows if row["optimizer"] not in seen)
    mark = {"type": "text", "text": "outside the picture", "align": "left", "color": "var(--muted)", "fontSize": 11.5}
    once = [{"filter": {"field": "optimizer", "oneOf": list(hidden)}}, {"sample": 1}]
    return [{"transform": once, "mark": mark, "encoding": {"x": {"value": 6}, "y": {"value": 52}}}] if hidden else []


def _only(test: str, mark: Spec, encoding: dict[str, Any]) -> Spec:
    return {"transform": [{"filter": test}], "mark": mark, "encoding": encoding}


def _level(value: float) -> Spec:
    """A dashed line across every panel."""
    mark = {"type": "rule", "strokeDash": [3, 3], "color": "var(--muted)", "strokeWidth": 1}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {"y": {"datum": value, "type": "quantitative"}}}
