"""The gallery: what the pictures say is right, each has a page, and the pages' code runs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import thalweg
from thalweg.lab.commands_gallery import register
from thalweg.lab.errors import LabError
from thalweg.lab.gallery import PICTURES, adagrad, averages, make, parabola, schedules, surfaces, training
from thalweg.lab.gallery.style import with_facts
from thalweg.schedules import list_schedules
from thalweg.slots.law import Debiased, Plain

PAGES = Path(__file__).parents[2] / "docs" / "gallery"
#: Pictures that cost little, made anew here. What the others compute is tested below, without drawing it.
QUICK = ("beta_hat", "mixed_precision")


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_has_a_page_with_its_command_and_code_that_runs(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text()
    shown = f"{name}.{PICTURES[name].suffix}"
    assert f"]({shown})" in page
    assert f"\n    thalweg gallery {name}\n" in page
    assert f"]({name}.md)" in (PAGES / "README.md").read_text()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert headings == ["What it shows", "How to read it", "Numbers", "Make it", "Play with it"]
    assert len(re.findall(r"^\| .* \|$", page, re.MULTILINE)) > 2, "the table of numbers is empty"
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, f"{name}.md", "exec"), {})


def test_no_page_or_picture_is_left_over_and_they_are_small() -> None:
    files = {path.name: path.stat().st_size for path in PAGES.iterdir()}
    wanted = {f"{name}.{end}" for name, one in PICTURES.items() for end in (one.suffix, "md")} | {"README.md"}
    assert files.keys() == wanted
    for name, size in files.items():
        assert size < (1_200_000 if name.endswith(".gif") else 120_000), name
    assert sum(files.values()) < 6_000_000


@pytest.mark.parametrize("name", QUICK)
def test_quick_pictures_are_drawn_and_their_pages_state_the_computed_numbers(name: str, tmp_path: Path) -> None:
    page = (PAGES / f"{name}.md").read_text()
    (tmp_path / f"{name}.md").write_text(with_facts(page, {"nothing": "yet"}))
    path, facts = make(name, tmp_path)
    assert facts
    assert (tmp_path / f"{name}.md").read_text() == page
    with Image.open(path) as image:
        assert image.width > 800
        colours = image.convert("RGB").getcolors(1 << 20)
    assert colours is not None
    assert len(colours) > 20


def test_the_same_picture_twice_is_the_same_file(tmp_path: Path) -> None:
    one, other = (make("mixed_precision", tmp_path / name)[0].read_bytes() for name in "ab")
    assert one == other


def test_the_parabola_by_hand() -> None:
    """With a slope of 8x a step multiplies x by 1 - 8*lr."""
    for rate, factor in ((1.0, -7.0), (0.2, -0.6), (0.125, 0.0), (0.1, 0.2), (0.01, 0.92)):
        places = parabola.descent(3, lr=rate)
        assert places == pytest.approx([2 * factor**k for k in range(4)], abs=1e-12)
    assert parabola.curvature() == 8
    expected = [2, 1.84, 1.5488, 1.162816, 0.722405, 0.268243, -0.161962, -0.536190, -0.830100, -1.028211, -1.124254]
    assert parabola.descent(10, lr=0.01, momentum=0.9) == pytest.approx(expected, abs=1e-6)
    assert parabola.arrival([2.0, 0.5, -2.0, 0.5, 0.1], 1.0) == 3
    assert parabola.arrival([2.0, 3.0], 1.0) is None


def test_averages_by_hand() -> None:
    for beta, share in ((0.98, 0.867380444105), (0.95, 0.994079470780), (0.9, 0.999973438611)):
        weights = averages.memory(beta, 100)
        assert weights == pytest.approx([(1 - beta) * beta**k for k in range(100)], rel=1e-9)
        assert sum(weights) == pytest.approx(share)
    assert averages.averaged([1.0] * 5, Debiased(), 0.9) == pytest.approx([1.0] * 5)
    assert averages.averaged([1.0, 1.0], Plain(), 0.9) == pytest.approx([0.1, 0.19])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("adam", {1: 0.0, 2: 0.499749874937, 10: 0.899549174589, 1000: 0.998418483688}),
        ("adax", {1: 0.0, 2: 0.50002499875, 10: 0.90004499175, 1000: 0.999049116848}),
        ("adafactor", {1: 0.0, 2: 0.425650822501, 10: 0.841510680754, 1000: 0.996018928294}),
    ],
)
def test_decay_rates_against_tabled_values(name: str, known: dict[int, float]) -> None:
    assert averages.beta_hat(name, list(known)) == pytest.approx(list(known.values()), abs=1e-11)


def test_the_square_root_and_the_regression() -> None:
    newton = adagrad.root_by_newton(6)
    assert newton[:3] == pytest.approx([5, 2.7, (2.7 + 2 / 2.7) / 2])
    assert newton[-1] == pytest.approx(math.sqrt(2), abs=1e-12)
    places = adagrad.roots_by_adagrad(190)
    assert adagrad.first_within(places[2.0], math.sqrt(2), 1e-6) == 190
    assert places[0.01][100] == pytest.approx(4.81813929700, abs=1e-9)
    coefficients, predictions = adagrad.regression("adagrad", 1, 0.01)
    assert predictions[1] == pytest.approx(1.47)
    assert coefficients[1] == pytest.approx([0.11, 0.21, 0.31, 0.01])


def test_every_schedule_has_arguments() -> None:
    assert schedules.ARGUMENTS.keys() == list_schedules().keys()
    rates = schedules.rates("Plateau")
    assert rates[0] == 1.0
    assert rates[-1] < 0.1


def test_every_optimizer_moves_on_a_surface() -> None:
    members = [name for row in surfaces.families().values() for name in row]
    assert len(members) == len(set(members))
    surface = surfaces.SURFACES["saddle"]
    short = surfaces.Surface(**{**vars(surface), "steps": 5})
    for name in members:
        places = surfaces.path(name, short, None if thalweg.get(name).defaults.get("lr") is None else 0.1)
        assert len(places) == 6, name
        assert places[-1] != places[0], name


def test_a_surface_s_best_rate_has_no_better_neighbour() -> None:
    places, low = surfaces.best("sgd", "ravine")
    surface = surfaces.SURFACES["ravine"]
    assert surfaces.height(surface, places[-1]) == low
    tried = [surfaces.path("sgd", surface, 10 ** (k / 2)) for k in range(-4, 1)]
    assert low == min(surfaces.height(surface, p[-1]) for p in tried if len(p) == surface.steps + 1)


def test_an_optimizer_without_a_family_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surfaces, "FAMILIES", {"all but one": surfaces.FAMILIES["One rate for all"]})
    with pytest.raises(LookupError, match="adamw"):
        surfaces.families()


def test_measures_of_tails() -> None:
    chance = torch.Generator().manual_seed(0)
    normal = torch.randn(100_000, generator=chance)
    assert training.tail(normal)[0] == pytest.approx(0, abs=0.1)
    kurtosis, largest = training.tail(torch.cat([normal, torch.tensor([100.0])]))
    assert kurtosis > 100
    assert largest > 90


def test_the_command_lists_makes_and_refuses(tmp_path: Path) -> None:
    app = typer.Typer()
    register(app)
    listed = CliRunner().invoke(app, ["gallery", "--list"])
    assert listed.exit_code == 0
    assert all(name in listed.output for name in PICTURES)
    made = CliRunner().invoke(app, ["gallery", "beta_hat", "--out", str(tmp_path), "--json"])
    found = json.loads(made.output)
    assert Path(found["beta_hat"]["file"]).exists()
    refused = CliRunner().invoke(app, ["gallery", "momentun"])
    assert isinstance(refused.exception, LabError)
    assert "did you mean momentum" in str(refused.exception)
