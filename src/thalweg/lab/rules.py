"""When two recipes are one rule, what a rule is called, and the simpler forms of a slot."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch

import thalweg
from thalweg.hyper import join
from thalweg.optimizer import Optimizer
from thalweg.recipe import Recipe
from thalweg.slots.base import Slot
from thalweg.slots.chain import Chain
from thalweg.slots.law import Law


def works(recipe: Recipe) -> bool:
    """Whether the recipe takes steps, uses its second moment, and decays weights in one place, as all optimizers do."""
    if homes(recipe) != 1:
        return False
    taken = path(recipe)
    if taken is None:
        return False
    if recipe.second is None:
        return True
    without = built(recipe, {"second": None})
    return without is None or path(without) != taken


def homes(recipe: Recipe) -> int:
    """In how many places the recipe decays weights by ``weight_decay``; a rate or a quotient only allows for it."""
    return sum("weight_decay" in slot.hypers() for place, slot in recipe.slots() if place not in ("rate", "ratio"))


def differs(one: Recipe, other: Recipe) -> bool:
    """Whether two recipes are different rules: in what they say, or in the steps that they take."""
    if one.flow is not other.flow and one.but(flow=other.flow) == other:
        return path(one) != path(other)
    return canonical(one) != canonical(other) or path(one) != path(other)


def built(at: Recipe, changes: dict[str, Any]) -> Recipe | None:
    """The recipe with these places changed; None where its slots do not go together."""
    try:
        return at.but(**changes)
    except ValueError:
        return None


@cache
def path(recipe: Recipe) -> tuple[float, ...] | None:
    """Where a matrix ends after three steps with gradients that change; None if the recipe cannot take them."""
    start = torch.tensor([[1.0, -0.5], [0.25, 2.0], [-1.5, 0.75]], dtype=torch.float64)
    p = torch.nn.Parameter(start.clone())
    numbers = {name: replace(hyper, default=_alike(name, hyper.default)) for name, hyper in recipe.hypers().items()}
    try:
        given = join(numbers)
        optimizer = Optimizer([p], recipe, engine="reference", **given)
        for k in range(3):
            p.grad = (p.detach() + torch.roll(start, k + 1, 0)) * (k + 1) ** 2
            optimizer.step(loss=torch.tensor(1.0 / (k + 1)) if recipe.needs_loss else None)
    except Exception:
        return None  # an incomplete recipe may fail in any way its slots' formulas can
    return tuple(round(x, 9) for x in p.flatten().tolist()) if bool(p.isfinite().all()) else None


def _alike(name: str, default: float | None) -> float | None:
    """The same number for what only differs in its default, so that rules can be told apart by their steps."""
    if name in ("lr", "weight_decay"):
        return 0.1
    if name == "eps":
        return 1e-8
    return 0.9 if default is not None and 0.8 < default < 1 else default


def forms(slot: Slot) -> list[Slot]:
    """A slot after its simpler forms: without what it wraps, of its base class, with its law's base class.

    Example:
        >>> from thalweg.recipes import ADAM
        >>> from thalweg.lab.rules import forms
        >>> forms(ADAM.first)
        [Average(role='exp_avg', law=Plain()), Average(role='exp_avg')]
    """
    found: list[Slot] = [slot]
    at = slot
    while (simpler := _simpler(at)) is not None:
        at = simpler
        if text(simpler) != text(found[0]):
            found.insert(0, simpler)
    return found


def _simpler(slot: Slot) -> Slot | None:
    if isinstance(slot, Chain):
        return slot.links[0] if len(slot.links) == 2 else Chain(slot.links[:-1])
    inner = [v for f in fields(slot) if isinstance(v := getattr(slot, f.name), Slot)]
    if inner:
        return inner[0]
    base = _as_base(slot, Slot, "__call__")
    if base is not None:
        return base
    for field in fields(slot):
        law = getattr(slot, field.name)
        if field.name == "law" and isinstance(law, Law) and (plain := _as_base(law, Law, "weights")) is not None:
            return replace(slot, law=plain)  # type: ignore[call-arg]
    return None


def _as_base(value: Any, root: type, method: str) -> Any:
    """The value as one of its base class, with the fields they share; None where that has no formula of its own."""
    base: Any = type(value).__mro__[1]
    if base is root or method not in vars(base):
        return None
    return base(**{f.name: getattr(value, f.name) for f in fields(base)})


def rule(recipe: Recipe) -> Any:
    """What makes two recipes one rule: their equations and their steps."""
    return canonical(recipe), path(recipe)


def canonical(recipe: Recipe) -> tuple[str, ...]:
    """The equations, with hyper-parameters numbered as they appear: whether alpha or betas.1, it is one rule."""
    return tuple(anonymous("\n".join(recipe.equations()), recipe.hypers()).splitlines())


def text(slot: Slot) -> str:
    """What a slot says: its equation, whatever its hyper-parameters are called."""
    return anonymous(slot.equation(), slot.hypers())


def anonymous(line: str, references: Iterable[str]) -> str:
    """A text with the references of hyper-parameters numbered in the order in which they appear."""
    seen: dict[str, str] = {}
    known = sorted((r for r in references if r not in ("lr", "weight_decay", "eps")), key=len, reverse=True)
    if not known:
        return line
    return re.sub(
        rf"(?<![\w.])(?:{'|'.join(map(re.escape, known))})(?!\w)",
        lambda found: seen.setdefault(found[0], f"number{len(seen) + 1}"),
        line,
    )


def names(recipe: Recipe) -> tuple[str, ...]:
    """The registered optimizers that a recipe is; plain ones before those with options, which stand in brackets.

    Example:
        >>> from thalweg.recipes import ADAM
        >>> from thalweg.lab.rules import names
        >>> names(ADAM)[0]
        'adam'
    """
    return tuple(_named().get(rule(recipe), ()))


@cache
def _named() -> dict[Any, list[str]]:
    """Rule -> the registered optimizers that follow it; with an option, where none does without."""
    entries = [thalweg.get(name) for name in thalweg.list_optimizers()]
    plain: dict[Any, list[str]] = {}
    for entry in entries:
        plain.setdefault(rule(entry.recipe), []).append(entry.name)
    found = dict(plain)
    for entry in entries:
        options = {key: entry.defaults[key] for key in getattr(entry.cls, "structure", ())}
        for option, value in options.items():
            other = (not value) if isinstance(value, bool) else 0.9 if value == 0.0 else None
            if other is None:
                continue
            seen = {k: bool(v) if isinstance(v, float) else v for k, v in {**options, option: other}.items()}
            with contextlib.suppress(ValueError):  # options that go together only
                built = rule(entry.cls.build(**seen))  # type: ignore[attr-defined]
                if built not in plain:
                    found.setdefault(built, []).append(f"{entry.name}({option}={other})")
    return found
