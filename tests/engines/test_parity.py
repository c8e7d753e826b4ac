"""The engines agree: foreach and compiled take the reference engine's steps, for every optimizer and every layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from engines.rig import (
    LAYOUTS,
    NAMES,
    SIMPLE,
    assert_compiled,
    build,
    everything,
    loss_at,
    note_sizes,
    parameters,
    run,
    set_gradients,
    worst_error,
)
from thalweg.slots import UnitNorm

STEPS = 20
FLOAT32, FLOAT64 = 2e-5, 1e-12
#: One rounding to bfloat16: eight significant bits.
BFLOAT16 = 2.0**-7
Report = Callable[[str, object], None]

OUTER = [thalweg.Lookahead(3, 0.5), thalweg.ScheduleFree()]
#: Compiled as well; foreach is cheap and takes everything. A step known on the host, one barrier, rows and columns.
OUTER_COMPILED = ("sgd", "adamw", "lamb")
WRAPPED = [name for name in NAMES if not thalweg.get(name).recipe.outer and not name.startswith("schedulefree")]


@cache
def _reference(
    name: str, dtype: torch.dtype, layouts: tuple[str, ...], two_groups: bool, **changes: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    params = parameters(dtype, layouts)
    sizes: dict[str, float] = {}
    opt = run(name, "reference", params, STEPS, two_groups=two_groups, sizes=sizes, **changes)
    return everything(opt, params), sizes


def _compare(
    name: str,
    engine: str,
    dtype: torch.dtype = torch.float32,
    layouts: tuple[str, ...] = SIMPLE,
    two_groups: bool = False,
    **changes: Any,
) -> tuple[float, str]:
    """The worst error of an engine's parameters and state after twenty steps."""
    start, params = parameters(dtype, layouts), parameters(dtype, layouts)
    opt = run(name, engine, params, STEPS, two_groups=two_groups, **changes)
    if engine == "compiled":
        assert_compiled(opt, params)
    expected, sizes = _reference(name, dtype, layouts, two_groups, **changes)
    for key, p in start.items():
        moved = not torch.equal(p, expected[key])
        assert moved == (key not in ("never", "empty")), f"{key} should {'not ' if moved else ''}have moved"
    return worst_error(everything(opt, params), expected, sizes)


@pytest.mark.parametrize("engine", ["foreach", "compiled"])
@pytest.mark.parametrize("name", NAMES)
def test_every_layout_in_float32(name: str, engine: str, record_property: Report) -> None:
    """Two groups of different lr and weight decay, every layout, and gradients that come and go."""
    error, where = _compare(name, engine, layouts=tuple(LAYOUTS), two_groups=True)
    record_property("error", error)
    assert error <= FLOAT32, where


@pytest.mark.own_chunk
@pytest.mark.parametrize("name", ["adamw", "lamb", "adafactor", "prodigy"])
def test_every_layout_at_inductors_own_chunk(name: str, inductor_only: None, record_property: Report) -> None:
    error, where = _compare(name, "compiled", layouts=tuple(LAYOUTS), two_groups=True)
    record_property("error", error)
    assert error <= FLOAT32, where


def _one_of_a_kind() -> list[str]:
    """An optimizer for every combination of flow, scope and coupling: float64 is compiled by the same code for all."""
    found: dict[Any, str] = {}
    for name in NAMES:
        recipe = thalweg.get(name).recipe
        found.setdefault((recipe.flow, recipe.scope, recipe.couples, recipe.outer is None), name)
    return list(found.values())


@pytest.mark.parametrize("name", _one_of_a_kind())
def test_inductor_in_float32(name: str, inductor_only: None, record_property: Report) -> None:
    """What an accelerator runs; on a CPU most kernels are native."""
    error, where = _compare(name, "compiled", layouts=tuple(LAYOUTS), two_groups=True)
    record_property("error", error)
    assert error <= FLOAT32, where


@pytest.mark.parametrize(
    ("name", "engine"), [*[(n, "foreach") for n in NAMES], *[(n, "compiled") for n in _one_of_a_kind()]]
)
def test_float64(name: str, engine: str, few: None, record_property: Report) -> None:
    error, where = _compare(name, engine, torch.float64)
    record_property("error", error)
    assert error <= FLOAT64, where


@pytest.mark.parametrize("engine", ["foreach", "compiled"])
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_within_one_rounding(name: str, engine: str, few: None, record_property: Report) -> None:
    """Each step from the same parameters: float32 arithmetic that differs in its last bits may round to a neighbour."""
    params, expected = parameters(torch.bfloat16, SIMPLE), parameters(torch.bfloat16, SIMPLE)
    opt, reference = build(name, params, engine), build(name, expected, "reference")
    worst, neighbours, count = 0.0, 0, 0
    sizes: dict[str, float] = {}
    for t in range(1, STEPS + 1):
        set_gradients(params, t)
        set_gradients(expected, t)
        opt.step(loss=loss_at(t))
        reference.step(loss=loss_at(t))
        for key, want in expected.items():
            have = params[key].detach().float()
            difference, size = (have - want.float()).abs(), torch.maximum(have.abs(), want.abs().float())
            slack = FLOAT32 * size.max() if size.numel() else 0.0
            assert (difference <= BFLOAT16 * size + slack).all(), f"{key} at step {t}"
            neighbours += int((difference > 0).sum())
            count += difference.numel()
            with torch.no_grad():
                params[key].copy_(want)
        exact = everything(reference, expected)
        note_sizes(sizes, exact)  # MoMo's <g, p> passes through zero
        worst = max(worst, worst_error(everything(opt, params), exact, sizes)[0])
    record_property("error", worst)
    assert worst <= FLOAT32
    assert neighbours <= count / 100  # a neighbour is the exception
    if engine == "compiled":
        assert_compiled(opt, params)


@pytest.mark.parametrize("outer", OUTER, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(
    ("name", "engine"), [*[(n, "foreach") for n in WRAPPED], *[(n, "compiled") for n in OUTER_COMPILED]]
)
def test_outer(name: str, engine: str, outer: Any, few: None, record_property: Report) -> None:
    error, where = _compare(name, engine, outer=outer)
    record_property("error", error)
    assert error <= FLOAT32, where


@pytest.mark.parametrize(
    ("name", "engine"), [*[(n, "foreach") for n in NAMES], *[(n, "compiled") for n in ("adamw", "nsgda", "sgd")]]
)
def test_maximize(name: str, engine: str, few: None, record_property: Report) -> None:
    error, where = _compare(name, engine, maximize=True)
    record_property("error", error)
    assert error <= FLOAT32, where
    descended, _ = _reference(name, torch.float32, SIMPLE, False)
    ascended, _ = _reference(name, torch.float32, SIMPLE, False, maximize=True)
    assert not torch.equal(ascended["matrix"], descended["matrix"])


GLOBAL_NORM = thalweg.get("nsgda").recipe.but(scale=UnitNorm("model"))


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
@pytest.mark.parametrize(
    "recipes",
    [(thalweg.ADAMW, thalweg.get("lamb").recipe), (thalweg.get("adams").recipe, GLOBAL_NORM)],
    ids=["of-one-tensor", "of-the-model"],
)
def test_recipes_side_by_side(recipes: tuple[thalweg.Recipe, ...], engine: str, few: None) -> None:
    """Groups of different recipes move as they would alone; a total over the model is over those that share a slot."""
    hyper = {"lr": 0.05, "weight_decay": 0.1, "eps": 1e-3}
    together, alone = parameters(layouts=SIMPLE), parameters(layouts=SIMPLE)
    halves = {recipes[0]: ["scalar", "matrix", "never", "rare"], recipes[1]: ["vector", "empty", "transposed"]}
    opts = [
        thalweg.Optimizer([alone[k] for k in keys], recipe, engine=engine, **hyper) for recipe, keys in halves.items()
    ]
    joint = thalweg.Optimizer(
        [{"params": [together[k] for k in keys], "recipe": recipe, **hyper} for recipe, keys in halves.items()],
        engine=engine,
    )
    for t in range(1, 6):
        set_gradients(together, t)
        set_gradients(alone, t)
        for opt in (joint, *opts):
            opt.step()
    error, where = worst_error(dict(together), dict(alone))
    assert error <= FLOAT32, where


@pytest.mark.parametrize("engine", ["foreach", "compiled"])
def test_layout_changed_in_mid_run(engine: str, few: None) -> None:
    """A model may go to channels-last after its state was made; entries must stay with their own state."""

    def train(engine: str) -> Tensor:
        params = parameters(layouts=("conv",))
        opt = build("adamw", params, engine)
        for t in range(1, 7):
            if t == 4:
                params["conv"].data = params["conv"].data.contiguous(memory_format=torch.channels_last)
            set_gradients(params, t)
            opt.step()
        return params["conv"].detach()

    error, _ = worst_error({"conv": train(engine)}, {"conv": train("reference")})
    assert error <= FLOAT32


@pytest.mark.parametrize("name", ["adafactor", "adafactor_torch", "sm3"])
def test_columns_reduced_in_pieces(name: str, inductor_only: None) -> None:
    """Large matrices whose rows divide into pieces of 32, 13 and not at all; a stack of them; one transposed."""
    shapes = [(512, 160), (429, 160), (509, 160), (3, 96, 256)]
    torch.manual_seed(0)
    starts = [0.1 * torch.randn(shape) for shape in shapes] + [0.1 * torch.randn(160, 512).mT]
    opts = {}
    for engine in ("reference", "compiled"):
        params = {str(i): Parameter(start.clone()) for i, start in enumerate(starts)}
        opts[engine] = build(name, params, engine), params
        for t in range(1, 4):
            for i, p in enumerate(params.values()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * t + i))
            opts[engine][0].step()
    found = {
        chunk.key.structure.pieces for plan in opts["compiled"][0]._compiled.plans.values() for chunk in plan.chunks
    }
    if name != "sm3":
        assert {(0, 32), (0, 13), (1, 32), None} <= found
    error, where = worst_error(*(everything(*opts[engine]) for engine in ("compiled", "reference")))
    assert error <= FLOAT32, where
