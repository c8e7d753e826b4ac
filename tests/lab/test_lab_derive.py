"""Every registered optimizer can be derived from SGD, one idea at a time."""

from __future__ import annotations

import itertools
import json

import pytest
import typer
from typer.testing import CliRunner

import thalweg
from thalweg.lab import derive as deriving
from thalweg.lab.commands_gallery import register
from thalweg.lab.rules import built, canonical, differs, forms, names, text, works
from thalweg.recipe import Recipe
from thalweg.recipes import ADAM, SGD

PLACES = deriving.ORDER


def moved(before: Recipe, after: Recipe) -> set[str]:
    """The places where two recipes say something else; names and defaults of numbers do not count."""
    found = set()
    for place in PLACES:
        here, there = getattr(before, place), getattr(after, place)
        if place == "flow":
            if differs(before, before.but(flow=there)):
                found.add(place)
        elif (here and text(here)) != (there and text(there)):
            found.add(place)
    return found


@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_the_links_lead_from_sgd_to_the_recipe_one_idea_at_a_time(name: str) -> None:
    parts = deriving.derive(name)
    recipes = deriving.recipes(name)
    assert parts.keys() == recipes.keys()
    assert thalweg.get(name).recipe in recipes.values()
    for part, links in parts.items():
        assert links[0].recipe == SGD
        assert links[0].equals == ("sgd",)
        assert links[-1].recipe == recipes[part]
        for one, other in itertools.pairwise(links):
            assert works(other.recipe)
            assert differs(one.recipe, other.recipe)
            assert str(other.recipe)
            assert other.idea
            # The idea cannot be taken apart: what is named as changed is all that moves, and no part of it would do.
            moves = moved(one.recipe, other.recipe)
            assert moves <= set(other.places), (name, other.places)
            for count in range(1, len(other.places)):
                for some in itertools.combinations(other.places, count):
                    less = built(one.recipe, {place: getattr(other.recipe, place) for place in some})
                    alone = less is not None and works(less) and differs(one.recipe, less)
                    assert not alone, f"{name}: {some} of {other.places} would be an idea of its own"


def test_known_ancestry() -> None:
    def ancestors(name: str, part: str = "") -> list[str]:
        return [link.equals[0] for link in deriving.derive(name)[part] if link.equals]

    assert ancestors("adamw") == ["sgd", "rmsprop", "adam", "adamw"]
    assert ancestors("nadam") == ["sgd", "rmsprop", "adam", "nadam"]
    assert ancestors("lars") == ["sgd", "sgd(momentum=0.9)", "lars"]
    assert ancestors("lamb")[:4] == ["sgd", "rmsprop", "adam", "adamw"]
    assert ancestors("muon", "adamw")[-1] == "adamw"
    assert ancestors("muon", "muon")[-1] == "muon"


def test_the_step_from_adam_to_adamw_moves_the_decay_and_nothing_else() -> None:
    *_, last = deriving.derive("adamw")[""]
    assert set(last.places) == {"gradient", "decay"}
    assert [last.recipe.equations()[i] for i in last.changed] == ["p <- p*(1 - lr*weight_decay)"]


def test_names_tell_rules_apart() -> None:
    assert names(ADAM) == ("adam",)
    assert names(ADAM.but(gradient=None)) == ()
    # Another name of a state and of a number is the same rule; another law is not.
    plain = thalweg.get("rmsprop").recipe
    renamed = plain.but(second=forms(ADAM.second)[0])
    assert canonical(plain) == canonical(renamed)
    assert names(renamed) == ("rmsprop",)
    assert names(plain.but(second=ADAM.second)) == ()


def test_the_command_prints_text_and_json() -> None:
    app = typer.Typer()
    register(app)
    text_form = CliRunner().invoke(app, ["derive", "adamw"])
    assert text_form.exit_code == 0
    assert "sgd -> rmsprop -> adam -> adamw: 5 ideas" in text_form.output
    assert "+ p <- p*(1 - lr*weight_decay)" in text_form.output
    found = json.loads(CliRunner().invoke(app, ["derive", "muon", "--json"]).output)
    assert list(found) == ["muon", "adamw"]
    assert found["muon"][-1]["equals"] == ["muon"]
