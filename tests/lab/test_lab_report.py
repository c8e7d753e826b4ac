"""The report: complete, self-contained, safe with whatever names it is given, and true to its summary."""

from __future__ import annotations

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair
import jsonschema
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from lab import summaries
from thalweg.lab import chart_rows, charts, commands_report, compare, report, report_words
from thalweg.lab.errors import LabError

#: Machado, Oliveira and Fernandes (2009): how protanopes, deuteranopes and tritanopes see linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
#: Linear RGB to OKLab (Ottosson 2020), before and after the cube root.
CONES = [
    [0.41222147, 0.53633254, 0.05144599],
    [0.21190350, 0.68069955, 0.10739696],
    [0.08830246, 0.28171884, 0.62997870],
]
OKLAB = [
    [0.21045426, 0.79361778, -0.00407205],
    [1.97799850, -2.42859220, 0.45059371],
    [0.02590404, 0.78277177, -0.80867577],
]


class Resources(HTMLParser):
    """Collects everything a browser would load, and the text outside scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "style"):
            self.inside.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.text.append(data)


def read(html: str) -> Resources:
    """Parse a report."""
    parser = Resources()
    parser.feed(html)
    return parser


@pytest.fixture(scope="module")
def eight() -> tuple[dict[str, Any], str, list[charts.Chart]]:
    """A large race: its summary, its page, its charts."""
    summary = summaries.make(8, 12, name="everything", checks=True)
    page, drawn = report.render(summary)
    return summary, page, drawn


def test_the_page_names_everything_and_loads_nothing(eight: tuple[dict[str, Any], str, list[charts.Chart]]) -> None:
    summary, html, _ = eight
    page = read(html)
    text = "".join(page.text)
    expected = [summary["headline"], summary["command"], *summary["findings"], *summary["not_run"]]
    expected += [task["name"] for task in summary["tasks"]] + [row["label"] for row in summary["overall"]["rows"]]
    expected += ["Sparse gradients: the momentum", "Most runs diverged", "AMD EPYC", "2.13.0", "1000 to 1009"]
    for words in expected:
        assert words in text
    assert [load for load in page.loads if not load.startswith("#")] == []
    styles = "".join(re.findall(r"<style>(.*?)</style>", html, flags=re.S))
    assert "url(" not in styles
    assert "@import" not in styles
    assert len(html) < 6_000_000


def test_every_promised_chart_is_there(eight: tuple[dict[str, Any], str, list[charts.Chart]]) -> None:
    summary, html, drawn = eight
    kinds = ["seeds", "validation-step", "validation-seconds", "training-step", "training-seconds", "rates", "trials"]
    kinds += ["target", "regret", "share", "time", "memory"]
    expected = [f"{task['name']}-{kind}" for task in summary["tasks"] if task["kind"] == "race" for kind in kinds]
    expected += ["overall-profile", "overall-means", "overall-mean-rank", "overall-ranks"]
    assert sorted(chart.name for chart in drawn) == sorted(expected)
    for chart in drawn:
        assert html.count(f'<figure id="{chart.name}"') == 1
        assert len(chart.notes) > 80


def test_the_specifications_are_valid_vega_lite_and_name_their_data() -> None:
    drawn = report.render(summaries.make(2, 6))[1]
    drawn += compare.render(summaries.make(1, 4, name="a"), summaries.make(1, 4, name="b", seed=1))[1]
    validator = jsonschema.Draft7Validator(altair.load_schema())
    validator.validate(drawn[0].spec | {"config": charts.config()})
    for chart in drawn:
        json.dumps(chart.rows, allow_nan=False)
        spec = json.loads(json.dumps(chart.spec, allow_nan=False))
        validator.validate(spec)
        assert set(re.findall(r'"name": "(\w+/\w+)"', json.dumps(chart.spec))) <= set(chart.rows)
        colours = set(re.findall(r"var\(--([\w-]+)\)", json.dumps(spec)))
        assert colours <= set(charts.theme("light"))
        assert not re.findall(r"#[0-9a-f]{6}", json.dumps(chart.spec)), "a colour that dark paper cannot change"


def test_an_optimizer_has_one_colour_in_all_charts(eight: tuple[dict[str, Any], str, list[charts.Chart]]) -> None:
    scales = set()

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("field") == "optimizer" and "range" in node.get("scale", {}) and "var" in str(node["scale"]):
                scales.add(json.dumps(node["scale"]))
            for part in node.values():
                walk(part)
        elif isinstance(node, list):
            for part in node:
                walk(part)

    for chart in eight[2]:
        walk(chart.spec)
    assert len(scales) == 1
    palette = charts.Palette([str(number) for number in range(28)])
    assert len({str(palette.style(label)) for label in palette.labels}) == 28


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_colours_are_told_apart_by_everyone(mode: str) -> None:
    def linear(colours: Any) -> Any:
        parts = np.array([[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in colours])
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)

    series = linear(charts.SERIES[mode])
    for deficiency, matrix in DEFICIENCIES.items():
        seen = np.cbrt(np.clip(series @ np.array(matrix).T, 0, 1) @ np.array(CONES).T) @ np.array(OKLAB).T
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
        assert apart.min() > {"none": 0.13, "tritan": 0.08}.get(deficiency, 0.1), deficiency
    luminance = series @ [0.2126, 0.7152, 0.0722]
    paper = linear([charts.INK[mode]["paper"]])[0] @ [0.2126, 0.7152, 0.0722]
    contrast = (np.maximum(luminance, paper) + 0.05) / (np.minimum(luminance, paper) + 0.05)
    assert contrast.min() >= 3


def test_the_rows_say_what_the_summary_says() -> None:
    summary = summaries.make(2, 6)
    task = summary["tasks"][0]
    leader = task["standings"][0]
    results = {row["optimizer"]: row for row in chart_rows.standing_rows(task)}
    assert results[leader["label"]]["median"] == leader["test"]["median"]
    costs = {row["optimizer"]: row for row in chart_rows.cost_rows(task)}
    assert costs[leader["label"]]["regret"] == pytest.approx(100 * leader["default"]["regret"])
    assert costs[leader["label"]]["share_within_words"] == f"{100 * leader['share_within']:.0f}\u00a0%"
    runs = [run for run in leader["runs"] if len(run["curve"]["step"]) > 3]
    row = [row for row in chart_rows.curve_rows(task) if row["optimizer"] == leader["label"]][3]
    values = sorted(run["curve"]["validation"][3] for run in runs)
    assert (row["validation_low"], row["validation_high"], row["seeds"]) == (values[0], values[-1], len(values))
    assert row["validation"] == pytest.approx(float(np.median(values)))
    chosen = [row for row in chart_rows.grid_rows(task) if row["chosen"]]
    assert len(chosen) == len([one for one in task["standings"] if one["chosen"]])


def test_one_hopeless_contender_does_not_squeeze_the_others() -> None:
    task = copy.deepcopy(summaries.make(1, 6)["tasks"][0])
    for run in task["standings"][-1]["runs"]:
        run["test"] = 0.1
    low, high = chart_rows.result_range(task) or (math.nan, math.nan)
    assert 0.8 < low < high < 1.05
    for row in task["standings"]:
        for run in row["runs"]:
            run["test"] = None
    assert chart_rows.result_range(task) is None


def test_losses_over_decades_get_a_logarithmic_axis_and_the_same_range() -> None:
    loss, accuracy = {"direction": "min", "unit": ""}, {"direction": "max", "unit": "%"}
    values = [0.01, 0.02, None, 3.0]
    domain = chart_rows.best_range(loss, values, 0.5)
    assert domain == pytest.approx((0.01 / 1.2, 3 * 1.2))
    axis = charts.metric_axis(loss, "validation", None, values, domain)
    assert axis["scale"]["type"] == "log"
    assert axis["axis"]["values"] == pytest.approx([0.01, 0.1, 1])
    assert "type" not in charts.metric_axis(accuracy, "validation", None, values, domain)["scale"]
    assert not chart_rows.spans_decades(loss, [0.0, 1.0])
    assert charts.log_ticks(0.2, 0.9) == pytest.approx([0.2, 0.5])


def test_the_report_is_written_with_its_pngs(tmp_path: Path) -> None:
    summary = summaries.make(1, 2, 3)
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "of-an-earlier-race.png").write_bytes(b"")
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    app = typer.Typer()
    app.callback()(lambda: None)
    commands_report.register(app)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert result.output.strip() == str(tmp_path / "report.html")
    drawn = {chart.name for chart in report.render(summary)[1]}
    pngs = {path.stem: path.read_bytes() for path in (tmp_path / "charts").glob("*.png")}
    assert set(pngs) == drawn
    for png in pngs.values():
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(png[16:20], "big") > 400


def test_an_interrupted_race_and_an_empty_one_are_still_pages() -> None:
    html, drawn = report.render(summaries.make(1, 6, 3, interrupted=True))
    text = "".join(read(html).text)
    assert "Interrupted race" in text
    assert "412 of 900" in text
    assert "3 report seeds instead of 10" in text
    assert "The race ended before its turn." in text
    assert drawn
    empty = summaries.make(1, 2, interrupted=True)
    assert report.render(empty)[1] == []
    assert report.render(empty | {"tasks": []})[1] == []


def test_names_cannot_become_code() -> None:
    text = json.dumps(summaries.make(2, 3, 3)).replace("adamw", "</script><b onclick=x>'${1}")
    html, _ = report.render(json.loads(text))
    assert "<b onclick" not in html
    assert html.count("</script>") == 3


def test_what_is_wrong_with_a_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="runs/digits"):
        report.read_summary(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(LabError, match="not valid JSON"):
        report.read_summary(tmp_path)
    with pytest.raises(LabError, match="schema 1, this version reads 2"):
        report.render(summaries.make() | {"schema": 1})


def test_a_comparison_takes_differences_seed_by_seed() -> None:
    before = summaries.make(2, 4, name="old")
    after = copy.deepcopy(before) | {"name": "new"}
    after["versions"]["torch"] = "2.14.0"
    for run in after["tasks"][0]["standings"][0]["runs"]:
        run["test"] += 0.01
    after["tasks"][1]["steps"] += 1
    tasks, unlike = compare.compare(before, after)
    assert [task["name"] for task in tasks] == ["digits"]
    assert "not the same task" in unlike[0]
    best = tasks[0]["rows"][0]
    assert best["optimizer"] == before["tasks"][0]["standings"][0]["label"]
    assert (best["change"], best["low"], best["high"]) == pytest.approx((1, 1, 1))
    assert [row["verdict"] for row in tasks[0]["rows"]] == ["better", "open", "open", "open"]
    assert list(compare.changes(before, after)) == [("versions: torch", "2.13.0", "2.14.0")]
    html, drawn = compare.render(before, after)
    assert [chart.name for chart in drawn] == ["difference-digits"]
    assert "Of 4 results in both, new is clearly better in 1" in "".join(read(html).text)


def test_a_comparison_counts_divergence_as_worse() -> None:
    before = summaries.make(1, 2, 4, name="old", troubles=False)
    after = copy.deepcopy(before) | {"name": "new"}
    for run in after["tasks"][0]["standings"][0]["runs"]:
        run["test"] = None
    (rows,) = [task["rows"] for task in compare.compare(before, after)[0]]
    row = next(row for row in rows if row["optimizer"] == before["tasks"][0]["standings"][0]["label"])
    assert (row["change"], row["verdict"]) == (None, "worse")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (True, "yes"),
        (0.01, "0.01"),
        ([0, 1, 2], "0, 1, 2"),
        (list(range(1000, 1010)), "1000 to 1009"),
        ([], "none"),
        ({"a": 1, "b": None}, "a 1, b –"),
    ],
)
def test_any_value_in_words(value: Any, words: str) -> None:
    assert report_words.plain(value) == words


def test_times_rates_and_differences_in_words() -> None:
    assert report_words.when("2026-08-14T10:12:00+00:00") == "14 August 2026, 10:12 UTC"
    assert report_words.short(0.00316227766) == "0.00316"
    assert report_words.signed(-0.0512, {"unit": "%"}) == "−0.05"
    assert report_words.signed(None, {"unit": ""}) == "–"
    assert report_words.breakable("a_b<c") == "a_<wbr>b&lt;c"


def test_a_sweep_shows_what_it_searched() -> None:
    summary = summaries.make(1, 2)
    standing = summary["tasks"][0]["standings"][0]
    for number, cell in enumerate(standing["grid"]):
        cell["searched"] = {"betas.0": round(0.8 + 0.01 * number, 2)}
    standing["chosen"] |= {"searched": {"betas.0": 0.83}, "lr": standing["grid"][3]["lr"]}
    standing["chosen"]["weight_decay"] = standing["grid"][3]["weight_decay"]
    html, _ = report.render(summary)
    assert "betas.0 0.83" in "".join(read(html).text)
    rows = [row for row in chart_rows.grid_rows(summary["tasks"][0]) if row["optimizer"] == standing["label"]]
    assert [row["own_decay"] for row in rows] == [number == 3 for number in range(len(rows))]


def test_the_tables_as_markdown(tmp_path: Path) -> None:
    summary = summaries.make(3, 4, name="everything", checks=True)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    app = typer.Typer()
    app.callback()(lambda: None)
    commands_report.register(app)
    result = CliRunner().invoke(app, ["report", str(tmp_path), "--markdown", str(tmp_path / "page.md")])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page.md").read_text()
    raced = [task for task in summary["tasks"] if task["kind"] == "race"]
    tables = re.findall(r"(?:^\|.*\n)+", page, flags=re.M)
    assert len(tables) == 1 + len(raced) + bool(summary["checks"])
    for table in tables:  # every row has as many cells as the heading
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for task, table in zip(raced, tables[1:], strict=False):
        for row in task["standings"]:
            assert f"| {row['label']} |" in table
    for words in (summary["headline"], *summary["findings"], *summary["not_run"], summary["command"]):
        assert words in page
    assert not (tmp_path / "report.html").exists()
