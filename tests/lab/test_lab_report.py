"""The report: complete, self-contained, and safe with whatever names it is given."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go

from lab.racing import settings, write_task
from thalweg.lab import charts
from thalweg.lab.loading import load_task
from thalweg.lab.race import Race, Result
from thalweg.lab.report import render


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


def test_the_report_names_everyone_and_loads_nothing(finished: tuple[Path, str, Result]) -> None:
    directory, _, result = finished
    html = (directory / "report.html").read_text()
    page = read(html)
    text = " ".join(page.text)
    for name in ("sgd", "adam", "thalweg race line", "drawn anew", result.summary["headline"]):
        assert name in text
    assert [load for load in page.loads if not load.startswith("data:")] == []
    assert html.count("plotly.js v") == 1
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert "http://" not in own
    assert "https://" not in own
    assert "@import" not in own
    assert "url(" not in own


def test_the_figures_are_what_plotly_understands(finished: tuple[Path, str, Result]) -> None:
    result = finished[2]
    figures = [
        charts.seeds_chart(result.task, result.rows),
        charts.training_chart(result.rows),
        charts.sensitivity_chart(result.task, result.rows),
        charts.bar_chart(result.rows, "title", lambda row: row.step_ms),
        *charts.validation_panels(result.task, result.rows).values(),
    ]
    for figure in figures:
        go.Figure(json.loads(json.dumps(figure, allow_nan=False)))
        assert figure["data"]


def test_a_report_without_any_run_is_still_a_page(tmp_path: Path) -> None:
    reference = write_task(tmp_path)
    one = Race(settings(reference), load_task(reference), tmp_path / "race")
    one.open("new")
    result = one._finish(False, 1, "<script>alert(1)</script>", 0.0)
    html = render(result)
    assert "No optimizer has finished" in html
    assert "<script>alert" not in html
