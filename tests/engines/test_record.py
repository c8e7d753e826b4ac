"""What is recorded: hand-counted memory traffic, measuring graphs that store nothing, and slots of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import thalweg
from engines.rig import NAMES
from thalweg import registry
from thalweg.engine.record import Structure, barriers, layout, record
from thalweg.hyper import flatten, join
from thalweg.recipe import Recipe
from thalweg.slots import L2, Average, Debiased, OverSqrt, Slot, mean

#: Words per element and passes, counted by hand: what must be read (parameter, gradient, state) and written back.
COUNTED: dict[str, tuple[int, int]] = {
    "sgd": (3, 1),  # p g | p
    "adagrad": (5, 1),  # p g s | p s
    "rmsprop": (5, 1),  # p g v | p v
    "adam": (7, 1),  # p g m v | p m v
    "adamw": (7, 1),
    "nadam": (7, 1),
    "radam": (7, 1),
    "adax": (7, 1),
    "lion": (5, 1),  # p g m | p m
    "adalo": (5, 1),
    "sgds": (5, 1),
    "lamb": (4 + 7, 2),  # both norms: p g m v ; then Adam's
    "adams": (2 + 7, 2),  # the mean of v: g v ; then Adam's
    "nsgda": (3 + 5, 2),  # the norm, with L2: p g m ; then momentum's
    "adafactor": (1 + 1 + 1 + 3, 4),  # rows and columns: g ; rms of u: g ; rms of p: p ; then p g | p
    "muon": (2 + 5, 2),  # the matrix: g b ; then p g b | p b
    "schedulefree_sgd": (5, 1),  # p g z | p z
    "schedulefree_adamw": (7, 1),  # p g v z | p v z
}
#: Options that change the count.
WITH_OPTIONS: list[tuple[str, dict[str, Any], int, int]] = [
    ("sgd", {"momentum": 0.9}, 5, 1),
    ("sgd", {"momentum": 0.9, "nesterov": True}, 5, 1),
    ("rmsprop", {"momentum": 0.9}, 7, 1),
    ("rmsprop", {"momentum": 0.9, "centered": True}, 9, 1),
    ("adam", {"amsgrad": True}, 9, 1),
    ("adams", {"amsgrad": True}, 3 + 9, 2),
    ("lamb", {"adapt": False}, 7, 1),
    ("nsgda", {"scope": "global"}, 8, 2),
    ("adafactor", {"beta1": 0.9}, 1 + 1 + 1 + 5, 4),
    ("adafactor", {"lr": 1e-3, "relative_step": False, "scale_parameter": False}, 1 + 1 + 3, 3),
    ("adamw", {"outer": thalweg.ScheduleFree()}, 9, 1),
    ("adamw", {"outer": thalweg.Lookahead(5, 0.5)}, 7, 1),  # without a pull; with one it is 9
    ("adamw", {"outer": thalweg.Lookahead(2, 0.5)}, 9, 1),
]


def _scalars(recipe: Recipe) -> tuple[list[tuple[str, str]], Structure]:
    h = {**flatten(join(recipe.hypers())), **recipe.group_numbers, "k": 1, "loss_count": 1}
    numbers, flags = layout(recipe.scalars(h, 2, dict(recipe.numbers)))
    return numbers, Structure(flags, ndim=2)


@pytest.mark.parametrize("name", NAMES)
def test_words_and_passes(name: str) -> None:
    assert name in COUNTED, "count its words by hand"
    recipe = thalweg.get(name).recipe
    if name.startswith("schedulefree"):
        recipe = recipe.but(outer=thalweg.ScheduleFree())
    assert (recipe.words(), recipe.passes()) == COUNTED[name]


@pytest.mark.parametrize(("name", "options", "words", "passes"), WITH_OPTIONS)
def test_words_with_options(name: str, options: dict[str, Any], words: int, passes: int) -> None:
    opt = thalweg.get(name).cls([Parameter(torch.zeros(8, 8))], **options)
    assert (opt.recipe.words(), opt.recipe.passes()) == (words, passes)
    assert opt.words_per_element() == words


def test_words_are_averaged_over_the_elements() -> None:
    matrix, vector = Parameter(torch.zeros(30)), Parameter(torch.zeros(10))
    opt = thalweg.Optimizer([{"params": [matrix], "recipe": "lion"}, {"params": [vector], "recipe": "adamw"}])
    assert opt.words_per_element() == (30 * 5 + 10 * 7) / 40


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_measuring_stores_nothing(name: str, count: int) -> None:
    """No graph but the last one writes, and that one writes the parameter and each state once."""
    recipe = thalweg.get(name).recipe
    numbers, structure = _scalars(recipe)
    if recipe.scope in ("row", "matrix"):
        count = 1
    for barrier in range(len(barriers(recipe, 2))):
        graph, _ = record(recipe, numbers, structure, count, barrier)
        called = [n.target for n in graph.module.graph.nodes if n.op == "call_method"]
        assert graph.stores == ()
        assert not [t for t in called if t.endswith("_")]
    graph, _ = record(recipe, numbers, structure, count, None)
    expected = {("param", i) for i in range(count)}
    expected |= {("state", i, role) for i in range(count) for role in recipe.state((8, 8))}
    assert set(graph.stores) == expected
    assert len(graph.stores) == len(expected)
    assert [n.target for n in graph.module.graph.nodes if n.op == "call_method"].count("copy_") == len(expected)


MEASURED = [n for n in NAMES if (r := thalweg.get(n).recipe).scope != "matrix" and barriers(r, 2)]


@pytest.mark.parametrize("name", MEASURED)
def test_a_measuring_graph_changes_no_input(name: str) -> None:
    recipe = thalweg.get(name).recipe
    numbers, structure = _scalars(recipe)
    for barrier in range(len(barriers(recipe, 2))):
        graph, _ = record(recipe, numbers, structure, 1, barrier)
        inputs = []
        for kind, *rest in graph.inputs:
            specs = recipe.state((4, 5))
            shape = (4, 5) if kind != "state" else specs[rest[1]].shape or (4, 5)
            if kind == "scalars":
                shape = (max(len(numbers), 1),)
            elif kind == "answer":
                kinds = barriers(recipe, 2)[rest[0]][rest[1]]
                shape = ((4,) if kinds.over == -1 else (5,)) if isinstance(kinds.over, int) else (1,)
            inputs.append(torch.rand(shape) + 0.5)
        copies = [t.clone() for t in inputs]
        graph.module(*inputs)
        assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


# ------------------------------------------------------------------------------------------------ slots of one's own


@dataclass(frozen=True, repr=False)
class Belief(Average):
    """Variance of the gradient around its own mean (AdaBelief, arXiv 2010.07468)."""

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return super().__call__(x, h, g - x["exp_avg"])


@dataclass(frozen=True, repr=False)
class Centralised(Slot):
    """The gradient less its mean over the tensor."""

    scope = "tensor"

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        middle = yield mean(g)
        return g - middle


@pytest.fixture
def defined() -> Iterator[Callable[..., Any]]:
    """``thalweg.define``, whose names are forgotten afterwards."""
    before = dict(registry._ENTRIES)
    yield thalweg.define
    registry._ENTRIES.clear()
    registry._ENTRIES.update(before)


def _train(cls: Any, engine: str, step: Callable[[Any, Any, int, dict[str, Any]], Any], **hyper: Any) -> float:
    """The worst error of ten float64 steps over two tensors against ``step(p, g, t, state)`` in NumPy."""
    random = np.random.default_rng(0)
    values = [random.normal(size=(4, 5)), random.normal(size=6)]
    params = [Parameter(torch.tensor(v)) for v in values]
    opt = cls(params, engine=engine, **hyper)
    states: list[dict[str, Any]] = [{}, {}]
    for t in range(1, 11):
        for i, p in enumerate(params):
            g = random.normal(size=values[i].shape)
            p.grad = torch.tensor(g)
            values[i] = step(values[i], g, t, states[i])
        opt.step()
    return max(np.abs(p.detach().numpy() - v).max() / np.abs(v).max() for p, v in zip(params, values, strict=True))


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_adabelief_in_ten_lines(engine: str, defined: Callable[..., Any], few: None) -> None:
    belief = Belief("exp_avg_sq", Debiased("betas.1", 0.999), power=2)
    recipe = thalweg.ADAMW.but(flow=thalweg.flows.first_then_second, second=belief, ratio=OverSqrt(eps=1e-6))
    cls = defined("AdaBelief", recipe, lr=0.02)

    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        s["m"] = 0.8 * s.get("m", 0.0) + 0.2 * g
        s["v"] = 0.95 * s.get("v", 0.0) + 0.05 * (g - s["m"]) ** 2
        m, v = s["m"] / (1 - 0.8**t), s["v"] / (1 - 0.95**t)
        return p * (1 - 0.02 * 0.1) - 0.02 * m / (np.sqrt(v) + 1e-6)

    assert _train(cls, engine, step, betas=(0.8, 0.95), weight_decay=0.1) <= 1e-12
    assert "adabelief" in thalweg.list_optimizers()
    assert recipe.words() == 7


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_a_reduction_of_ones_own(engine: str, defined: Callable[..., Any], few: None) -> None:
    cls = defined("CentralisedSGD", Recipe(gradient=Centralised(), coupled=None), lr=0.1)

    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        return p - 0.1 * (g - g.mean())

    assert _train(cls, engine, step) <= 1e-12
    assert Recipe(gradient=Centralised()).words() == 1 + 3
    assert Recipe(gradient=L2()).passes() == 1
