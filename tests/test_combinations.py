"""Every technique with every optimizer that admits it, and pairs of techniques: the engines agree, nothing diverges.

Driven by the two registries, so a new technique or optimizer is tested with everything there is. A combination is
admitted if constructing it raises no ValueError; one that is refused must say why.
"""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from engines.rig import loss_at, options, worst_error
from thalweg import techniques

STEPS = 5
TOLERANCE = 2e-5
#: One shape of each kind; shapes of matrices differ, as equal ones would be stacked and rounded in another place.
SHAPES: tuple[tuple[int, ...], ...] = ((), (5,), (3,), (4, 3), (2, 5), (3, 2, 2, 2))
#: With which all pairs of techniques from different places are tried: one without moments, one with both.
PAIRED = ("sgd", "adamw")
#: At least so many combinations there are; the count itself is printed (``-rP`` or ``-s`` shows it).
LEAST = 1500

NAMES = thalweg.list_optimizers()
TECHNIQUES = thalweg.list_techniques()
SINGLES = [(name, (technique,)) for technique in TECHNIQUES for name in NAMES]
PAIRS = [
    (name, pair)
    for name in PAIRED
    for pair in itertools.combinations(TECHNIQUES, 2)
    if techniques.get(pair[0]).slot.place != techniques.get(pair[1]).slot.place
]
Combination = tuple[str, tuple[str, ...]]


def _parameters() -> list[Parameter]:
    generator = torch.Generator().manual_seed(3)
    return [Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def _build(name: str, chosen: tuple[str, ...], engine: str) -> tuple[thalweg.Optimizer, list[Parameter]]:
    params, given = _parameters(), options(name)
    while True:
        try:
            return thalweg.get(name).cls(params, engine=engine, techniques=chosen, **given), params
        except ValueError as error:
            # A technique may take the place of what reads an option (a decay, an eps): leave that one out.
            kept = {k: v for k, v in given.items() if k in ("lr", "rest") or k not in str(error)}
            if kept == given:
                raise
            given = kept


def _run(opt: thalweg.Optimizer, params: list[Parameter]) -> dict[str, Tensor]:
    """Parameters and state after five steps, the second without a gradient for one tensor."""
    generator = torch.Generator().manual_seed(4)
    for t in range(1, STEPS + 1):
        for i, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator)
            p.grad = None if (t, i) == (2, 1) else g
        opt.step(loss=loss_at(t))
    found = {f"{i}": p.detach() for i, p in enumerate(params)}
    for i, p in enumerate(params):
        found.update({f"{i}.{role}": v for role, v in opt.state[p].items() if v.is_floating_point()})
    return found


def _id(combination: Combination) -> str:
    return "-".join((combination[0], *combination[1]))


@pytest.mark.parametrize("combination", [*SINGLES, *PAIRS], ids=_id)
def test_combination(combination: Combination) -> None:
    try:
        made = _build(*combination, "reference")
    except ValueError as error:
        why = str(error)
    else:
        why = ""
    if why:
        known = [word for t in combination[1] for word in (t, techniques.get(t).slot.__name__)]
        assert any(word in why for word in ("technique", *known)), f"the message does not say which: {why}"
        return
    expected, got = _run(*made), _run(*_build(*combination, "foreach"))
    assert all(bool(v.isfinite().all()) for v in expected.values())
    assert any(not torch.equal(p, expected[f"{i}"]) for i, p in enumerate(_parameters())), "nothing moved"
    error, where = worst_error(got, expected)
    assert error <= TOLERANCE, where


@cache
def _admits(combination: Combination) -> bool:
    try:
        _build(*combination, "reference")
    except ValueError:
        return False
    return True


def test_the_number_of_combinations() -> None:
    """Counted from the lists above by construction alone, so that it does not depend on what else runs."""
    counts = [sum(map(_admits, listed)) for listed in (SINGLES, PAIRS)]
    print(
        f"{sum(counts)} combinations are admitted: {counts[0]} of {len(SINGLES)} of a technique with an optimizer, and"
        f" {counts[1]} of {len(PAIRS)} of two techniques with {' or '.join(PAIRED)}"
    )
    assert counts[0] >= LEAST


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_is_of_use(technique: str) -> None:
    """It fits optimizers, and the list that ``thalweg techniques`` counts is the one that constructing gives."""
    found = techniques.admitting(technique)
    assert found
    assert found == [name for name in NAMES if _admits((name, (technique,)))]
