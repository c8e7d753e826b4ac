"""The report in a real browser: drawn, quiet, self-contained, readable on a phone and in the dark.

The screenshots stay in ``tests/artefacts/`` to be looked at.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab import summaries
from thalweg.lab import charts, compare, report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ARTEFACTS = Path(__file__).parents[1] / "artefacts"
SEE = """async () => {
  for (const plot of document.querySelectorAll('.plot')) {
    if (plot.closest('details:not([open]), [hidden]')) continue;
    plot.scrollIntoView();
    for (let waited = 0; !plot.dataset.drawn; waited += 20) {
      if (waited > 20000) throw new Error(`${plot.dataset.chart} is not drawn`);
      await new Promise((done) => setTimeout(done, 20));
    }
  }
  window.scrollTo(0, 0);
}"""
MARKS = """() => Object.fromEntries([...document.querySelectorAll('.plot')].map((plot) => [
  plot.dataset.chart,
  [...plot.querySelectorAll('svg .mark-symbol path, svg .mark-line path, svg .mark-rect path')]
    .filter((mark) => /^(?!.*NaN).{11}/.test(mark.getAttribute('d') || '')).length]))"""


@dataclass
class Visit:
    """A page and what it did."""

    page: Any
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def see_everything(self) -> None:
        """Scroll from chart to chart, each drawn before the next."""
        self.page.evaluate(SEE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One Chromium for all tests."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        if not found and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium: neither on the PATH nor installed by `playwright install chromium`")
        instance = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield instance
        instance.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of one, two and eight tasks, of an interrupted race, and a comparison, without their PNGs."""
    folder = tmp_path_factory.mktemp("pages")
    html = {
        "one": report.render(summaries.make())[0],
        "eight": report.render(summaries.make(8, 12, name="everything", checks=True))[0],
        "two": report.render(summaries.make(2, 4))[0],
        "cut": report.render(summaries.make(1, 6, 3, interrupted=True))[0],
        "compared": compare.render(summaries.make(2, 6, name="old"), summaries.make(2, 6, name="new", seed=1))[0],
    }
    for name, text in html.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in html}


@pytest.fixture(scope="module")
def visit(browser: Any, pages: dict[str, Path]) -> Callable[..., AbstractContextManager[Visit]]:
    """Open a page; afterwards a screenshot is kept, and a word on the console or a request is a failure."""

    @contextmanager
    def open_page(name: str, width: int = 1280, scheme: str = "light") -> Iterator[Visit]:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        one = Visit(context.new_page())
        one.page.on("console", lambda message: one.console.append(message.text))
        one.page.on("pageerror", lambda error: one.console.append(str(error)))

        def leave(route: Any) -> None:
            one.requests.append(route.request.url)
            route.abort()

        context.route(lambda url: not url.startswith(("file:", "blob:")), leave)
        one.page.on("request", lambda asked: one.requests.append(asked.url))
        one.page.goto(pages[name].as_uri())
        yield one
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"report-{name}-{width}-{scheme}.png"
        one.page.screenshot(path=path, full_page=True)
        print(f"screenshot: {path}")
        context.close()
        assert one.console == []
        assert [url for url in one.requests if not url.startswith("blob:")] == [pages[name].as_uri()]

    return open_page


def test_every_chart_is_drawn_answers_and_gives_its_data(visit: Callable[..., Any]) -> None:
    with visit("one") as one:
        one.see_everything()
        for button in one.page.locator(".tabs button").all():
            button.click()
            one.page.wait_for_selector(f"#{button.get_attribute('data-shows')} .plot[data-drawn]")
        marks = one.page.evaluate(MARKS)
        assert len(marks) == 12
        assert {name: count for name, count in marks.items() if count < 3} == {}
        texts = one.page.locator(".plot svg text").all_inner_texts()
        assert len(texts) > 100
        assert {"undefined", "null", "NaN"}.isdisjoint(texts)
        _check_download(one)
        _check_focus(one)


def _check_download(one: Visit) -> None:
    with one.page.expect_download() as waiting:
        one.page.click("#digits-seeds .csv")
    assert waiting.value.suggested_filename == "digits-seeds.csv"
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    runs = [run for row in summaries.make()["tasks"][0]["standings"] for run in row["runs"] if run["test"] is not None]
    assert sorted(float(row["test"]) for row in rows) == sorted(run["test"] for run in runs)
    assert {row["optimizer"] for row in rows} >= {"adamw", "sgd(momentum=0.9)"}


def _check_focus(one: Visit) -> None:
    """An optimizer chosen in the key is brought out in the charts, until Escape."""
    dim = """() => [...document.querySelectorAll('#digits-time .mark-rect path')]
      .filter((bar) => parseFloat(getComputedStyle(bar).opacity) < 0.5).length"""
    assert one.page.evaluate(dim) == 0
    key = one.page.locator(".key button", has_text="muon")
    key.click()
    one.page.wait_for_function(f"({dim})() === 9")
    assert key.get_attribute("aria-pressed") == "true"
    one.page.mouse.move(700, 20)
    one.page.keyboard.press("Escape")
    one.page.wait_for_function(f"({dim})() === 0")


@pytest.mark.parametrize("name", ["one", "eight", "compared"])
def test_a_phone_needs_no_sideways_scrolling(visit: Callable[..., Any], name: str) -> None:
    with visit(name, width=360) as one:
        one.see_everything()
        assert one.page.evaluate("document.documentElement.scrollWidth") == 360
        charts_wider = """[...document.querySelectorAll('.plot svg')]
          .filter((svg) => svg.getBoundingClientRect().right > 361).length"""
        assert one.page.evaluate(charts_wider) == 0
        sizes = """[...document.querySelectorAll('.plot svg text')]
          .map((text) => parseFloat(getComputedStyle(text).fontSize))"""
        assert min(one.page.evaluate(sizes)) >= 11


def test_dark_and_light_change_page_and_charts(visit: Callable[..., Any]) -> None:
    colours = """() => [getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('.plot svg .role-axis-label text')).fill]"""

    def expected(mode: str) -> list[str]:
        found = [charts.theme(mode)[name] for name in ("paper", "muted")]
        return [f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})" for colour in found]

    with visit("cut", scheme="dark") as one:
        one.see_everything()
        assert one.page.evaluate(colours) == expected("dark")
        one.page.click("#theme")
        assert one.page.evaluate(colours) == expected("light")
        one.page.click("#theme")


def test_several_tasks_open_folded_and_what_is_open_is_printed(visit: Callable[..., Any]) -> None:
    with visit("two") as one:
        assert one.page.locator("details[open]").count() == 0
        one.page.click("nav a[href='#task-digits_mlp']")
        one.page.wait_for_selector("#digits_mlp-seeds .plot[data-drawn]")
        assert one.page.locator("details[open]").count() == 1
        pdf = one.page.pdf(format="A4")
        marks = one.page.evaluate(MARKS)
        drawn = {name for name, count in marks.items() if count}
        assert drawn == {name for name in marks if name.startswith(("overall-", "digits_mlp-"))}
        assert len(drawn) == 16
        assert 3 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 15
