"""Newton-Schulz on the Gram matrix gives what the published form gives, in fewer products."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

import thalweg
from thalweg.engine import compiled
from thalweg.slots import direction
from thalweg.slots import newton_schulz as module
from thalweg.slots.newton_schulz import (
    GROWTH,
    MODDED_NANOGPT,
    POLAR_EXPRESS,
    QUINTIC,
    gram_newton_schulz,
    newton_schulz,
    polar_factor,
    runs,
)

#: Name: coefficients, steps, safety.
LISTS: dict[str, tuple[Any, int, float]] = {
    "quintic": (QUINTIC, 5, 1.0),
    "quintic, nine steps": (QUINTIC, 9, 1.0),
    "polar express": (POLAR_EXPRESS, 5, 1.01),
    "polar express, nine steps": (POLAR_EXPRESS, 9, 1.01),
    "modded nanogpt": (MODDED_NANOGPT, 5, 1.02),
    "one step": (QUINTIC, 1, 1.0),
}
KINDS = ["noise", "equal", "harmonic", "four decades", "one large", "few"]
SHAPES = [(2, 6, 20), (3, 20, 6), (1, 12, 12), (2, 5, 6), (1, 1, 7), (1, 7, 1)]
#: Large enough to be taken in blocks.
LARGE = [(1, 514, 800), (1, 800, 514)]


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def spectrum(kind: str, rows: int = 96, columns: int = 288) -> Tensor:
    """A matrix whose singular values are hard on rounding."""
    u, _, vh = torch.linalg.svd(drawn((rows, columns)), full_matrices=False)
    values = {
        "noise": torch.linalg.svdvals(drawn((rows, columns))),
        "equal": torch.ones(rows),
        "harmonic": 1 / torch.arange(1, rows + 1),
        "four decades": torch.logspace(0, -4, rows),
        "one large": torch.cat([torch.ones(1), torch.full((rows - 1,), 0.002)]),
        "few": torch.cat([torch.ones(4), torch.zeros(rows - 4)]),
    }
    return (u * values[kind].double()) @ vh


def off(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right).norm() / right.norm())


@pytest.mark.parametrize(
    ("name", "shape"), [*itertools.product(LISTS, SHAPES), *itertools.product(["quintic", "polar express"], LARGE)]
)
def test_the_gram_form_equals_the_published_one(name: str, shape: tuple[int, ...]) -> None:
    coefficients, steps, safety = LISTS[name]
    args = (drawn(shape), steps, coefficients, 1e-7, torch.float64, safety)
    torch.testing.assert_close(gram_newton_schulz(*args), newton_schulz(*args), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["quintic", "polar express", "modded nanogpt"])
def test_float32_costs_the_gram_form_little_more_than_the_published_one(name: str, kind: str) -> None:
    coefficients, steps, safety = LISTS[name]
    matrix = spectrum(kind)[None]
    right = newton_schulz(matrix, steps, coefficients, 1e-7, torch.float64, safety)
    args = (matrix.float(), steps, coefficients, 1e-7, torch.float32, safety)
    published, gram = (off(form(*args), right) for form in (newton_schulz, gram_newton_schulz))
    assert gram <= 4 * published + 2e-6


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *itertools.product(["quintic", "polar express", "modded nanogpt"], KINDS[:-1]),
        *itertools.product(["polar express, nine steps"], ["noise", "equal", "harmonic", "one large"]),
    ],
)
def test_bfloat16_leaves_it_as_orthogonal(name: str, kind: str) -> None:
    """|O*O^T - I| in the Frobenius norm, over the root of the shorter side.

    Not with singular values that are zero, or that nine steps would bring up from below bfloat16's precision: rounding
    alone decides what becomes of those, in either form.
    """
    coefficients, steps, safety = LISTS[name]
    args = (spectrum(kind, 128, 400)[None].float(), steps, coefficients, 1e-7, torch.bfloat16, safety)

    def error(x: Tensor) -> float:
        return float((x[0].double() @ x[0].double().T - torch.eye(128)).norm() / 128**0.5)

    assert error(gram_newton_schulz(*args)) <= 1.05 * error(newton_schulz(*args)) + 0.01


def test_zero_stays_zero() -> None:
    zero = torch.zeros(2, 6, 20)
    assert gram_newton_schulz(zero, 5, QUINTIC, 1e-7, torch.float32).eq(0).all()


def test_enough_steps_reach_the_polar_factor() -> None:
    matrix = drawn((2, 20, 60))
    found = gram_newton_schulz(matrix, 12, POLAR_EXPRESS, 0.0, torch.float64, 1.01)
    torch.testing.assert_close(found, polar_factor(matrix), rtol=0, atol=1e-9)


def test_runs_are_as_long_as_rounding_allows() -> None:
    for coefficients in (QUINTIC * 9, POLAR_EXPRESS, MODDED_NANOGPT):
        found = runs(coefficients, True)
        assert sum(found, ()) == coefficients
        for i, run in enumerate(found):
            growth = 1.0
            for row in run[:-1]:
                growth *= row[0] ** 2
            assert growth <= GROWTH[i > 0]
            if i + 1 < len(found):
                assert growth * run[-1][0] ** 2 > GROWTH[i > 0]


def test_it_takes_under_half_the_arithmetic_where_one_side_is_four_times_the_other() -> None:
    matrix = drawn((1, 512, 2048), torch.float32)
    counts = []
    for form in (newton_schulz, gram_newton_schulz):
        with FlopCounterMode(display=False) as counter:
            form(matrix, 5, QUINTIC, 1e-7, torch.bfloat16)
        counts.append(counter.get_total_flops())
    assert counts[1] < 0.49 * counts[0]


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_only_the_reference_engine_takes_the_published_form(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    taken: list[str] = []

    def spy(name: str) -> Any:
        real = getattr(module, name)

        def form(*args: Any) -> Tensor:
            taken.append(name)
            return real(*args)

        return form

    for name in ("newton_schulz", "gram_newton_schulz"):
        monkeypatch.setattr(direction, name, spy(name))
    param = Parameter(torch.ones(4, 8))
    param.grad = torch.ones(4, 8)
    compiled.forget()  # kernels know the function they were recorded with
    thalweg.Muon([param], engine=engine).step()
    compiled.forget()
    assert taken == ["newton_schulz" if engine == "reference" else "gram_newton_schulz"]


def test_engines_agree_on_oblong_matrices() -> None:
    shapes = [(24, 72), (24, 72), (72, 24), (8, 3, 3, 3), (600, 900)]
    made: dict[str, list[Parameter]] = {}
    for engine in ("reference", "foreach"):
        params = made[engine] = [Parameter(drawn(shape, torch.float32)) for shape in shapes]
        optimizer = thalweg.Muon(params, lr=0.1, weight_decay=0.1, engine=engine)
        for step in range(3):
            for param in params:
                param.grad = drawn((*param.shape, step + 1), torch.float32)[..., 0]
            optimizer.step()
    for ours, right in zip(made["foreach"], made["reference"], strict=True):
        torch.testing.assert_close(ours, right, rtol=2e-5, atol=2e-5)
