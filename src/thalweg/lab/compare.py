"""Two races side by side: what changed between them, and by how much the results differ.

Where both races ran an optimizer with the same seed on the same task, the two runs started from the same weights and
saw the same batches; their difference is taken seed by seed, with a bootstrap interval of the median difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from thalweg.lab import report, report_words, wording
from thalweg.lab.chart_rows import Row, Rows, Task, metric_factor
from thalweg.lab.charts import Chart, Palette, drawing, faded, names, quantity, tooltip
from thalweg.lab.statistics import bootstrap_interval

#: What of a task must agree for its results to be comparable.
SAME = ("metric", "direction", "unit", "split", "steps")


def write_comparison(directory: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> Path:
    """Write ``comparison.html`` and ``charts/*.png`` on two summaries into a directory; returns the page's path."""
    page, drawn = render(before, after)
    return report.write_page(directory, "comparison.html", page, drawn)


def render(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The whole page, and the charts in it."""
    for summary in (before, after):
        report.check_schema(summary)
    first, second = before["name"], after["name"]
    if first == second:
        first, second = f"{first} (first)", f"{second} (second)"
    tasks, unlike = compare(before, after)
    palette = Palette(sorted({row["optimizer"] for task in tasks for row in task["rows"]}))
    drawn = {
        task["name"]: difference_chart(task, second, palette)
        for task in tasks
        if any(row["change"] is not None for row in task["rows"])
    }
    page = report.fill(
        "comparison.html.j2",
        list(drawn.values()),
        palette,
        name=f"{first} and {second}",
        title=f"{first} and {second}, compared",
        first=first,
        second=second,
        written=report_words.when(after["written"]),
        headline=headline(tasks, second, first),
        tasks=tasks,
        unlike=unlike,
        changed=list(changes(before, after)),
        commands=(before["command"], after["command"]),
        charts=drawn,
    )
    return page, list(drawn.values())


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The tasks that both raced, with a row for each contender of either; and, in words, what cannot be compared."""
    ours, theirs = ({task["name"]: task for task in one["tasks"] if task["kind"] == "race"} for one in (before, after))
    tasks, unlike = [], []
    for name in dict.fromkeys([*ours, *theirs]):
        if name not in ours or name not in theirs:
            unlike.append(f"{name} was raced only in the {'first' if name in ours else 'second'}.")
            continue
        one, other = ours[name], theirs[name]
        differing = [key for key in SAME if one[key] != other[key]]
        if differing:
            told = "; ".join(f"{key} {one[key]!r} and {other[key]!r}" for key in differing)
            unlike.append(f"{name} is not the same task in both: {told}.")
            continue
        rows = [_row(one, first, second) for first, second in _matched(one, other)]
        rows.sort(key=lambda row: (row["change"] is None, -(row["gain"] or 0.0), row["optimizer"]))
        tasks.append({key: one[key] for key in ("name", "target", *SAME)} | {"rows": rows})
    return tasks, unlike


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What differs in protocol, versions, machine and the rest: (what, before, after)."""
    for part in ("protocol", "versions", "machine"):
        for key in dict.fromkeys([*before[part], *after[part]]):
            one, other = before[part].get(key), after[part].get(key)
            if one != other:
                yield f"{part}: {key.replace('_', ' ')}", report_words.plain(one), report_words.plain(other)
    for key in ("workers", "complete"):
        if before[key] != after[key]:
            yield key, report_words.plain(before[key]), report_words.plain(after[key])


def headline(tasks: Iterable[Mapping[str, Any]], second: str, first: str) -> str:
    """The answer in one sentence."""
    verdicts = [row["verdict"] for task in tasks for row in task["rows"]]
    better, worse = verdicts.count("better"), verdicts.count("worse")
    compared = better + worse + verdicts.count("open")
    if not compared:
        return f"{first} and {second} have no result in common that can be compared seed by seed."
    if not better and not worse:
        return f"No clear difference between {first} and {second} in {wording.count(compared, 'comparison')}."
    return (
        f"Of {wording.count(compared, 'result')} in both, {second} is clearly better in {better} and clearly worse in "
        f"{worse}; the other {compared - better - worse} are open."
    )


def difference_chart(task: Mapping[str, Any], second: str, palette: Palette) -> Chart:
    """The change of every contender's final metric, with its interval."""
    shown = ("optimizer", "change", "low", "high", "paired", "verdict")
    rows: Rows = [{key: row[key] for key in shown} for row in task["rows"] if row["change"] is not None]
    unit = "points" if task["unit"] == "%" else task["unit"]
    title = f"change of test {task['metric']}{f' ({unit})' if unit else ''}"
    data = f"{task['name']}/changes"
    tips = tooltip(("optimizer", "optimizer", ""), ("change", "change", "+.4~g"), ("low", "95 % from", "+.4~g"),
                   ("high", "to", "+.4~g"), ("paired", "paired seeds", ",d"))  # fmt: skip
    colour = {"color": palette.colour | {"legend": None}, "opacity": faded(), "tooltip": tips}
    x, y = quantity("change", title, "+~g", axis={"grid": True, "tickCount": 8}), names(rows)
    spec = drawing(
        f"Difference: {task['name']}", title, width=560, height=24 * len(rows), data={"name": data},
        layer=[
            {"data": {"values": [{}]}, "mark": {"type": "rule", "color": "var(--muted)"},
             "encoding": {"x": {"datum": 0, "type": "quantitative"}}},
            {"mark": {"type": "rule", "strokeWidth": 5, "strokeCap": "round"},
             "encoding": colour | {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"},
                                   "opacity": faded(0.3, 0.06)}},
            {"mark": {"type": "point", "filled": True, "size": 80},
             "encoding": colour | {"y": y, "x": {"field": "change", "type": "quantitative"}}},
        ],
    )  # fmt: skip
    way = "right" if task["direction"] == "max" else "left"
    notes = (
        f"The median change from the first race to the second over the seeds that both ran, with a 95 % interval; "
        f"{way} of zero, {second} is better. An interval that holds zero leaves the question open. It cannot say which "
        "of the changes listed below made the difference."
    )
    return Chart(f"difference-{task['name']}", f"Change of the test {task['metric']}", notes, spec, {data: rows}, True)


def _matched(one: Task, other: Task) -> Iterator[tuple[Row | None, Row | None]]:
    ours, theirs = ({row["label"]: row for row in task["standings"]} for task in (one, other))
    for label in dict.fromkeys([*ours, *theirs]):
        yield ours.get(label), theirs.get(label)


def _row(task: Task, first: Row | None, second: Row | None) -> Row:
    """One contender in both races; changes are second minus first, in points for a metric in per cent."""
    better = 1.0 if task["direction"] == "max" else -1.0
    pairs = _paired_changes(first, second, better) if first and second else []
    middle = statistics.median(pairs) if pairs else math.nan
    low, high = bootstrap_interval(pairs) if len(pairs) > 1 else (math.nan, math.nan)
    scale = metric_factor(task)
    known = not (math.isnan(low) or math.isnan(high))
    verdict = ""
    if known:
        signs = sorted((better * low, better * high))
        verdict = "better" if signs[0] > 0 else "worse" if signs[1] < 0 else "open"
    present = first or second
    assert present is not None
    return {
        "optimizer": present["label"],
        "first": first,
        "second": second,
        "change": _finite(scale * middle),
        "low": _finite(scale * low),
        "high": _finite(scale * high),
        "gain": _finite(better * middle),
        "paired": len(pairs),
        "verdict": verdict,
    }


def _paired_changes(first: Row, second: Row, better: float) -> list[float]:
    """Second minus first on each seed that both ran; a run that diverged is infinitely worse than one that did not."""
    ours = {run["seed"]: run["test"] for run in first["runs"] if run["status"] != "failed"}
    theirs = {run["seed"]: run["test"] for run in second["runs"] if run["status"] != "failed"}
    found = []
    for seed in sorted(ours.keys() & theirs.keys()):
        one, other = ours[seed], theirs[seed]
        if one is not None and other is not None:
            found.append(other - one)
        elif one is None and other is None:
            found.append(0.0)
        else:
            found.append(better * math.inf if one is None else -better * math.inf)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
