"""The report's charts as Vega-Lite specifications: the page draws them with vega, `png` without a browser.

A specification names its colours ``var(--name)``. In the page these are variables of the style sheet, so that one
drawing serves light, dark and paper; for PNG they are replaced by the light values. Every optimizer has one colour (a
dash too, once these are used up) in all charts. Setting the parameter `focus` to an optimizer's label dims the others.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.lab import chart_rows
from thalweg.lab.chart_rows import Rows, Task

Spec = dict[str, Any]
Range = tuple[float, float]

#: Seven colours that stay apart for readers with a colour deficiency, and are seen on the paper of either theme.
SERIES = {
    "light": ("#0c4572", "#e67330", "#256d52", "#b3709b", "#0a9ce3", "#603a00", "#6b5fcf"),
    "dark": ("#2e78dc", "#ee8b3a", "#40d89c", "#bf819e", "#a4d4f0", "#a06e35", "#979aff"),
}
HEAT = {
    "light": ("#1d5c86", "#4682a9", "#7aa8c6", "#abcadd", "#d5e4ee", "#eef3f6"),
    "dark": ("#a8d4ee", "#77aed0", "#4e86aa", "#346482", "#25475d", "#1d303d"),
}
INK = {
    "light": {"ink": "#1d232a", "muted": "#5d6772", "faint": "#dfe3e8", "context": "#c3cad2", "paper": "#ffffff",
              "accent": "#0c6aa6", "bad": "#b3261e", "good": "#256d52", "panel": "#f6f7f9", "level": "#e9f1f7"},
    "dark": {"ink": "#e7eaee", "muted": "#a2abb5", "faint": "#30363d", "context": "#4a525b", "paper": "#16191d",
             "accent": "#7cc0ee", "bad": "#ff8f86", "good": "#40d89c", "panel": "#1d2126", "level": "#1c2b37"},
}  # fmt: skip
DASHES = ([1, 0], [5, 3], [1.5, 2.5], [7, 2, 1.5, 2])
FOCUS = "focus == '' || datum.optimizer == focus"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"
CROSS = "M-.6,-.6L.6,.6M.6,-.6L-.6,.6"
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"


@dataclass(frozen=True)
class Chart:
    """One chart: its specification, the rows it draws, and the words around it."""

    name: str
    """The name of its PNG and CSV, unique in the report."""
    title: str
    notes: str
    """How to read it, and what it cannot show."""
    spec: Spec
    rows: Mapping[str, Rows]
    """The data sets that the specification names; the first one is what its CSV holds."""
    wide: bool = False
    """Whether it takes the whole width of a large screen."""


def theme(mode: str) -> dict[str, str]:
    """The colours of ``"light"`` or ``"dark"`` by the names that specifications and style sheet use."""
    numbered = {f"series-{number}": colour for number, colour in enumerate(SERIES[mode])}
    return INK[mode] | numbered | {f"heat-{number}": colour for number, colour in enumerate(HEAT[mode])}


def config() -> Spec:
    """The look that all charts share."""
    axis = {
        "labelColor": "var(--muted)", "titleColor": "var(--muted)", "gridColor": "var(--faint)",
        "domainColor": "var(--context)", "tickColor": "var(--context)", "labelFontSize": 11.5, "titleFontSize": 12,
        "titleFontWeight": "normal", "titlePadding": 8, "labelPadding": 4, "tickSize": 4, "labelLimit": 150,
    }  # fmt: skip
    return {
        "font": FONT,
        "background": "transparent",
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "locale": {"number": {"decimal": ".", "thousands": ",", "grouping": [3], "currency": ["", ""],
                              "percent": "\u00a0%"}},
        "header": {"labelColor": "var(--ink)", "labelFontSize": 12, "labelFontWeight": 600, "labelPadding": 4},
        "legend": {"symbolType": "stroke", "symbolStrokeWidth": 2.5, "symbolSize": 160, "title": None,
                   "labelColor": "var(--ink)", "labelFontSize": 11.5, "labelLimit": 200},
        "title": {"color": "var(--ink)", "subtitleColor": "var(--muted)", "anchor": "start", "fontSize": 15,
                  "fontWeight": 600, "subtitleFontSize": 12, "subtitlePadding": 5, "offset": 14, "frame": "group"},
    }  # fmt: skip


def png(chart: Chart, scale: float = 1.6) -> bytes:
    """The chart as a PNG on white, drawn from the page's own specification."""
    import vl_convert

    whole = chart.spec | {
        "datasets": chart.rows,
        "config": config() | {"background": "var(--paper)"},
        "padding": 14,
    }
    light = theme("light")
    plain = re.sub(r"var\(--([\w-]+)\)", lambda found: light[found[1]], json.dumps(whole))
    return vl_convert.vegalite_to_png(plain, scale=scale)


@dataclass(frozen=True)
class Palette:
    """The colour and the dash of every optimizer in a report."""

    labels: Sequence[str]

    def style(self, label: str) -> tuple[str, list[float]]:
        """The name of its colour, and its dash."""
        place = self.labels.index(label)
        colours = len(SERIES["light"])
        return f"series-{place % colours}", [float(part) for part in DASHES[place // colours % len(DASHES)]]

    @property
    def colour(self) -> Spec:
        """The encoding of `color`."""
        return self._encoding([f"var(--{self.style(label)[0]})" for label in self.labels])

    @property
    def dash(self) -> Spec:
        """The encoding of `strokeDash`; it joins the legend of the colours."""
        return self._encoding([self.style(label)[1] for label in self.labels])

    def _encoding(self, values: Sequence[Any]) -> Spec:
        scale = {"domain": list(self.labels), "range": values}
        return {"field": "optimizer", "type": "nominal", "scale": scale}


def faded(shown: float = 1.0, hidden: float = 0.12) -> Spec:
    """The encoding of `opacity` that dims whatever is out of focus."""
    return {"condition": {"test": FOCUS, "value": shown}, "value": hidden}


def quantity(field: str, title: str | None, number: str = "", **more: Any) -> Spec:
    """A position encoding with its axis title and number format."""
    axis = more.pop("axis", {}) | ({"format": number} if number else {})
    return {"field": field, "type": "quantitative", "title": title, "axis": axis} | more


def tooltip(*fields: tuple[str, str, str]) -> list[Spec]:
    """What a hovered mark tells: (field, title, number format), the format empty for words."""
    return [
        {"field": field, "title": title}
        | ({"type": "quantitative", "format": number} if number else {"type": "nominal"})
        for field, title, number in fields
    ]


def drawing(title: str, subtitle: str, *params: Spec, **body: Any) -> Spec:
    """A whole specification with what every chart has."""
    return {
        "$schema": SCHEMA,
        "title": {"text": title, "subtitle": subtitle},
        "description": f"{title}: {subtitle}",
        "params": [{"name": "focus", "value": ""}, *params],
    } | body


def names(rows: Rows) -> Spec:
    """The vertical axis of charts with one line an optimizer, in the order of the rows."""
    order = list(dict.fromkeys(row["optimizer"] for row in rows))
    axis = {"labelColor": "var(--ink)", "labelPadding": 8, "grid": False}
    return {"field": "optimizer", "type": "nominal", "sort": order, "title": None, "axis": axis}


def metric_axis(
    task: Task, field: str, title: str | None, values: Iterable[float | None], domain: Range | None
) -> Spec:
    """The position encoding of the task's metric: logarithmic where the values span decades, and never from zero."""
    low, high = domain or (0.0, 1.0)
    scale: Spec = {"domain": [low, high], "nice": False}
    if chart_rows.spans_decades(task, values):
        ticks = log_ticks(low, high)
        return quantity(field, title, "~g", scale=scale | {"type": "log"}, axis={"values": ticks})
    return quantity(field, title, metric_format(task), scale=scale | {"zero": False}, axis={"tickCount": 4})


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, with their doubles and fives where there are few."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**exponent for exponent in exponents for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def metric_format(task: Task) -> str:
    """The number format of the task's metric on an axis."""
    return ".1~%" if task["unit"] == "%" else "~g"


def metric_title(task: Task, split: str) -> str:
    """The metric as an axis title, with its unit."""
    unit = "" if task["unit"] in ("", "%") else f" ({task['unit']})"
    return f"{split} {task['metric']}{unit}"


def panels(name: str, title: str, subtitle: str, notes: str, rows: Mapping[str, Rows], layers: Sequence[Spec]) -> Chart:
    """Small multiples: one panel an optimizer, all on the same axes, drawn from the first of the data sets.

    Ten noisy lines in one picture cannot be told apart; in panels of one scale, with the others in grey, they can.
    """
    own = next(iter(rows))
    order = list(dict.fromkeys(row["optimizer"] for row in rows[own]))
    mouse = "[pointerdown[event.pointerType == 'mouse'], window:pointerup] > window:pointermove!"
    select = {"type": "interval", "zoom": "wheel![event.altKey]", "on": mouse, "translate": mouse}
    zoom = {"name": "zoom", "bind": "scales", "select": select}
    spec = drawing(
        title,
        subtitle,
        data={"name": own},
        facet={
            "field": "optimizer",
            "type": "nominal",
            "sort": order,
            "title": None,
            "header": {"labelAnchor": "start"},
        },
        columns=min((4, 5, 3), key=lambda columns: -len(order) % columns),
        spacing={"row": 10, "column": 14},
        spec={"width": 176, "height": 104, "layer": [layers[0] | {"params": [zoom]}, *layers[1:]]},
    )
    return Chart(name, title, notes, spec, rows, wide=True)


def context(data: str, x: Spec, y: Spec, palette: Palette, test: str = "true", **mark: Any) -> Spec:
    """The first layer of panels: all optimizers in grey, the one in focus in its colour."""
    colour = palette.colour | {"legend": None, "test": "datum.optimizer == focus"}
    return {
        "data": {"name": data},
        "transform": [{"filter": test}],
        "mark": {"type": "line", "strokeWidth": 0.9, "clip": True} | mark,
        "encoding": {
            "x": x,
            "y": y,
            "detail": {"field": "optimizer"},
            "color": {"condition": colour, "value": "var(--context)"},
            "opacity": {"condition": {"test": "focus == ''", "value": 0.8}, "value": 1},
        },
    }


def hover(encoding: Spec, tips: list[Spec]) -> Spec:
    """The last layer of panels: dots too faint to see and large enough to find."""
    mark = {"type": "point", "filled": True, "size": 90, "opacity": 0, "clip": True}
    return {"mark": mark, "encoding": encoding | {"tooltip": tips}}


def bars(
    name: str, title: str, subtitle: str, notes: str, rows: Rows, field: str, axis: str, palette: Palette
) -> Chart:
    """One bar an optimizer, its length the field and what its row says in `text` at the end."""
    longest = max([row[field] for row in rows if row[field] is not None] + [1e-12])
    bare = {"labels": False, "ticks": False, "grid": False, "domain": False}
    x = quantity(field, axis, scale={"domain": [0, 1.22 * longest], "nice": False}, axis=bare)
    end = {"calculate": f"isValid(datum['{field}']) ? datum['{field}'] : 0", "as": "end"}
    spec = drawing(
        title, subtitle, width=420, height=22 * len(rows), data={"name": f"bars/{name}"},
        encoding={"y": names(rows), "x": x, "tooltip": tooltip(("optimizer", "optimizer", ""), ("text", axis, ""))},
        layer=[
            {"mark": {"type": "bar", "height": 9, "cornerRadiusEnd": 2},
             "encoding": {"color": palette.colour | {"legend": None}, "opacity": faded()}},
            {"transform": [end],
             "mark": {"type": "text", "align": "left", "dx": 6, "fontSize": 11.5, "color": "var(--muted)"},
             "encoding": {"x": {"field": "end", "type": "quantitative"}, "text": {"field": "text"},
                          "opacity": faded(1, 0.3)}},
        ],
    )  # fmt: skip
    return Chart(name, title, notes, spec, {f"bars/{name}": rows})
