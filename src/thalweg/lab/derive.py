"""`thalweg derive`: the way from SGD to an optimizer, one idea at a time, found in the recipes themselves.

Every optimizer descends from its nearest older relative in the registry, and so on back to SGD. Between two
relatives the recipe changes in links, each a smallest set of places after which the rule works, is another rule, and
decays its weights in one place. Elaborate slots are reached through their simpler forms: a plain average, then a
corrected one, then the largest of it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from rich.text import Text

import thalweg
from thalweg.lab.rules import anonymous, built, differs, forms, names, text, works
from thalweg.recipe import Recipe
from thalweg.slots.average import Average
from thalweg.slots.chain import Chain
from thalweg.slots.gradient import L2

#: The order in which places are tried where several changes are possible.
ORDER = (
    *("second", "ratio", "first", "basis", "direction", "coupled", "scale", "rate", "flow", "gradient", "decay"),
    *("after", "outer"),
)
IN_WORDS = {
    "gradient": "the gradient",
    "second": "second moment",
    "first": "first moment",
    "basis": "basis",
    "ratio": "quotient",
    "direction": "direction",
    "coupled": "decay in the direction",
    "scale": "length of the step",
    "rate": "learning rate",
    "decay": "weight decay",
    "after": "after the step",
    "outer": "around the step",
    "flow": "order",
}


@dataclass(frozen=True)
class Link:
    """One idea: the recipe after it, the places it changed, and the equations that are new."""

    recipe: Recipe
    places: tuple[str, ...]
    idea: str
    equals: tuple[str, ...]
    """The registered optimizers that this recipe is, with their options where these are not the defaults."""
    changed: tuple[int, ...]
    """Which lines of ``recipe.equations()`` the link before did not have."""


class Kin(NamedTuple):
    """A registered optimizer as an ancestor."""

    name: str
    recipe: Recipe
    age: tuple[int, int, float]


def derive(name: str) -> dict[str, list[Link]]:
    """The links from SGD to a registered optimizer, for each of its recipes ("" where it has one only).

    Raises:
        KeyError: no optimizer has that name.

    Example:
        >>> from thalweg.lab.derive import derive
        >>> [link.equals[0] for link in derive("adamw")[""] if link.equals][-2:]
        ['adam', 'adamw']
    """
    entry = thalweg.get(name)
    found = {}
    for part, recipe in recipes(entry.name).items():
        known = [thalweg.get(one) for one in names(recipe) if one in thalweg.list_optimizers()]
        found[part] = chain(recipe, min(map(age, known), default=age(entry)))
    return found


def recipes(name: str) -> dict[str, Recipe]:
    """The recipes of a registered optimizer by the kind of parameter they are for; "" where there is only one."""
    entry = thalweg.get(name)
    layers = [torch.nn.Linear(2, 2) for _ in range(3)]
    optimizer = thalweg.create(name, torch.nn.Sequential(*layers, torch.nn.LayerNorm(2)))
    kinds = {kind: there.recipe for kind, there in getattr(optimizer, "kinds", {}).items()}
    if not kinds:
        others = (optimizer.recipe_of(group) for group in optimizer.param_groups)
        kinds = {names(recipe)[0]: recipe for recipe in (entry.recipe, *others)}
    once: dict[Recipe, str] = {}
    for kind, recipe in kinds.items():
        once.setdefault(recipe, kind)
    return {"": entry.recipe} if len(once) == 1 else {kind: recipe for recipe, kind in once.items()}


def chain(target: Recipe, before: tuple[int, int, float]) -> list[Link]:
    """The links to a recipe that first appeared at that age."""
    older = [kin for kin in kindred() if kin.age < before and kin.recipe != target]
    if not older:
        return [_link(None, target, ())]
    parent = min(older, key=lambda kin: (_distance(kin.recipe, target), [-n for n in kin.age]))
    links = chain(parent.recipe, parent.age)
    while (found := _next(links[-1].recipe, target)) is not None:
        links.append(_link(links[-1].recipe, *found))
    # What may be left are names of states and defaults of numbers, which are no ideas.
    return [*links[:-1], replace(links[-1], recipe=target)]


def _next(at: Recipe, target: Recipe) -> tuple[Recipe, tuple[str, ...]] | None:
    """The next recipe towards ``target`` and the places where it is another; None where the rule is reached."""
    ways = {place: steps for place in ORDER if (steps := _rungs(place, getattr(at, place), getattr(target, place)))}
    at = _renamed(at, {place: steps[-1] for place, steps in ways.items()})
    ways = {place: steps for place, steps in ways.items() if getattr(at, place) != steps[-1]}
    for further in (False, True):  # the next form of each place; forms further on only where none of those will do
        found: list[tuple[Recipe, tuple[str, ...]]] = []
        for count in range(1, len(ways) + 1):
            for places in itertools.combinations(ways, count):
                if any(set(smaller) < set(places) for _, smaller in found):
                    continue
                for changed in itertools.product(*(ways[p] if further else ways[p][:1] for p in places)):
                    recipe = built(at, dict(zip(places, changed, strict=True)))
                    if recipe and works(recipe) and differs(at, recipe):
                        found.append((recipe, places))
            if found and count >= 2:
                break
        if found:
            return min(found, key=lambda one: (not names(one[0]), ORDER.index(one[1][0])))
    return None


def _renamed(at: Recipe, last: dict[str, Any]) -> Recipe:
    """The same rule with those final forms that change nothing yet: other names, other defaults, an order."""
    for place, form in last.items():
        recipe = built(at, {place: form})
        if recipe and works(recipe) and not differs(at, recipe):
            at = recipe
    return at


def _rungs(place: str, here: Any, there: Any) -> list[Any]:
    """The forms from what stands in a place to what is to stand there, the last one included."""
    if here == there:
        return []
    if place == "flow" or there is None:
        return [there]
    if here is not None and text(here) == text(there):
        return [there]
    passed = {text(form) for form in forms(here)} if here is not None else set()
    rungs: list[Any] = [form for form in forms(there) if text(form) not in passed]
    if place == "gradient" and isinstance(here, L2) and not any(isinstance(s, L2) for s in there.links):
        rungs.insert(0, None)
    return rungs or [there]


def _distance(one: Recipe, other: Recipe) -> float:
    """How far apart two recipes are: 1 for each new idea, and for one given up the more, the fewer recipes share it."""
    apart = 0.5 * (one.flow is not other.flow)
    # Decay that has once been decoupled does not go back into the gradient.
    apart += 3 * (not _coupled(one) and _coupled(other))
    for place in ORDER:
        here, there = getattr(one, place), getattr(other, place)
        if place == "flow" or (here and text(here)) == (there and text(there)):
            continue
        apart += there is not None
        if here is not None and (there is None or text(here) not in map(text, forms(there))):
            apart += 0.75 + 4 / _common()[text(here)]
    return apart


def _coupled(recipe: Recipe) -> bool:
    return recipe.gradient is not None and any(isinstance(slot, L2) for slot in recipe.gradient.links)


@cache
def kindred() -> list[Kin]:
    """The registered optimizers as ancestors."""
    entries = [thalweg.get(name) for name in thalweg.list_optimizers()]
    return [Kin(entry.name, entry.recipe, age(entry)) for entry in entries]


@cache
def _common() -> Counter[str]:
    """In how many registered recipes a slot stands, or a form that it is a simpler form of."""
    found: Counter[str] = Counter()
    for name in thalweg.list_optimizers():
        found.update({text(form) for _, slot in thalweg.get(name).recipe.slots() for form in forms(slot)})
    return found


def age(entry: Any) -> tuple[int, int, float]:
    """Year and month of a registered optimizer's source (month 0 where it is not told), then how rare its ideas are.

    The last number puts optimizers of one paper in an order; a source without a year counts as new.
    """
    rarity = sum(1 / _common()[text(slot)] for _, slot in entry.recipe.slots())
    found = re.search(r"arXiv (\d\d)(\d\d)\.|\b((?:19|20)\d\d)\b", entry.source)
    if found is None:
        return 9999, 0, rarity
    year, month, plain = found.groups()
    return (int(plain), 0, rarity) if plain else (2000 + int(year), int(month), rarity)


def _link(before: Recipe | None, recipe: Recipe, places: tuple[str, ...]) -> Link:
    lines = recipe.equations()
    if before is None:
        return Link(recipe, (), "where it begins", names(recipe), tuple(range(len(lines))))
    old = {_blank(line, before) for line in before.equations()}
    changed = tuple(i for i, line in enumerate(lines) if _blank(line, recipe) not in old)
    return Link(recipe, places, _idea(before, recipe, places), names(recipe), changed)


def _blank(line: str, recipe: Recipe) -> str:
    return re.sub(r"number\d+", "number", anonymous(line, recipe.hypers()))


def _idea(before: Recipe, recipe: Recipe, places: tuple[str, ...]) -> str:
    """The idea in words: what the new slots say of themselves, without what the old ones had said already."""
    said = []
    for place in places:
        here, there = getattr(before, place), getattr(recipe, place)
        if there is None:
            continue
        law, old = getattr(there, "law", None), getattr(here, "law", None)
        if law != old and law is not None and (type(there) is Average or type(here) is type(there)):
            said.append(f"{IN_WORDS[place]}: {_first_line(law)}")
        elif type(here) is type(there) and place != "flow":
            new = (f.name for f in fields(there) if getattr(here, f.name) != getattr(there, f.name))
            options = ", ".join(f"{name}={getattr(there, name)!r}" for name in new)
            said.append(f"{IN_WORDS[place]}: {type(there).__name__}, now with {options}")
        else:
            said.append(f"{IN_WORDS[place]}: {_first_line(there)}")
    return "; ".join(said or [f"{IN_WORDS[place]}: left out" for place in places])


def _first_line(said: Any) -> str:
    """The first line of the docstring of a slot, law or flow."""
    if isinstance(said, Chain):
        said = said.links[-1]
    doc = (said.__doc__ if callable(said) and hasattr(said, "__name__") else type(said).__doc__) or ""
    return doc.strip().splitlines()[0].replace("``", "").rstrip(".")


def as_dict(parts: dict[str, list[Link]]) -> dict[str, Any]:
    """For programs: the links of each part, with recipes as text and what they changed."""
    return {
        part or "all": [
            {
                "idea": link.idea,
                "places": list(link.places),
                "equals": list(link.equals),
                "equations": link.recipe.equations(),
                "changed": list(link.changed),
                "recipe": repr(link.recipe),
            }
            for link in links
        ]
        for part, links in parts.items()
    }


def picture(parts: dict[str, list[Link]]) -> Text:
    """For people: every link with its equations, those it changed in bold with a + before them."""
    page = Text()
    for part, links in parts.items():
        if part:
            page.append(f"for parameters of kind {part}\n\n", style="bold")
        known = [link.equals[0] for link in links if link.equals]
        page.append(" -> ".join(known) + f": {len(links) - 1} idea{'s' * (len(links) != 2)}\n\n", style="bold")
        for number, link in enumerate(links):
            page.append(f"{number}. {link.idea}", style="bold")
            page.append(f"  = {', '.join(link.equals)}\n" if link.equals else "\n", style="cyan")
            for i, line in enumerate(link.recipe.equations()):
                new = i in link.changed
                page.append(f"   {'+' if new else ' '} {line}\n", style="green" if new else "dim")
            if not link.changed:
                page.append("     no line is new: what has changed is how and when they act\n", style="dim")
            page.append("\n")
    page.append("+ marks the lines that are new. Numbers that only change their name or default count as the same.")
    return page
