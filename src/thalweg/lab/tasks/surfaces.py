"""Tasks without data, whose answers are known: `quadratic` and `rosenbrock`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from thalweg.lab.tasks.base import Task

DIMENSIONS = 64
CONDITION = 1e3
BATCH = 16
NOISE = 0.3
"""Standard deviation of a sample around the optimum, in every coordinate."""


class Point(nn.Module):
    """A model that is nothing but a place."""

    def __init__(self, place: Tensor) -> None:
        super().__init__()
        self.place = nn.Parameter(place)


@lru_cache(maxsize=1)
def valley() -> tuple[Tensor, Tensor]:
    """The quadratic's matrix H, its eigenvalues evenly spaced in the logarithm up to 1, and its optimum."""
    chance = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=chance, dtype=torch.float64)).Q
    values = torch.logspace(-torch.log10(torch.tensor(CONDITION)), 0, DIMENSIONS, dtype=torch.float64)
    optimum = torch.randn(DIMENSIONS, generator=chance)
    return (turn @ values.diag() @ turn.T).float(), optimum


def floor() -> float:
    """The least expected loss, that of the optimum: the samples' own spread, NOISE² tr(H) / 2."""
    return NOISE**2 * valley()[0].trace().item() / 2


class Quadratic:
    """One seeded attempt: samples c scattered around the optimum, and their mean of (x - c)ᵀ H (x - c) / 2."""

    def __init__(self, seed: int) -> None:
        self.order = torch.Generator().manual_seed(seed)
        self.matrix, self.optimum = valley()
        self.model = Point(self.optimum + torch.randn(DIMENSIONS, generator=self.order))

    def batches(self) -> Iterator[Tensor]:
        """Samples around the optimum."""
        while True:
            yield self.optimum + NOISE * torch.randn(BATCH, DIMENSIONS, generator=self.order)

    def loss(self, batch: Tensor) -> Tensor:
        """The samples' mean loss; `floor()` in expectation at the optimum."""
        apart = self.model.place - batch
        return (apart @ self.matrix * apart).sum(1).mean() / 2

    def evaluate(self, split: str) -> Mapping[str, float]:
        """What the expected loss has above its floor, exactly; there is nothing to hold out."""
        apart = self.model.place - self.optimum
        return {"excess loss": (apart @ self.matrix @ apart).item() / 2}


class Rosenbrock:
    """One seeded attempt at (1 - x)² + 100 (y - x²)², from a place near (-1.2, 1)."""

    def __init__(self, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        self.model = Point(torch.tensor([-1.2, 1.0]) + 0.1 * torch.randn(2, generator=chance))

    def batches(self) -> Iterator[None]:
        """Nothing: the gradient is exact."""
        while True:
            yield None

    def loss(self, batch: None) -> Tensor:
        """The function's value; 0 at (1, 1)."""
        x, y = self.model.place
        return (1 - x).square() + 100 * (y - x.square()).square()

    def evaluate(self, split: str) -> Mapping[str, float]:
        """The function's value; there is nothing to hold out."""
        return {"loss": self.loss(None).item()}


def build_quadratic() -> Task:
    """The task `quadratic`."""
    return Task(
        name="quadratic",
        statement="A turned quadratic valley in 64 dimensions with condition number 1,000 and noisy gradients.",
        limits="Convex, and curved alike everywhere: nothing generalises, nothing changes with training.",
        metric="excess loss",
        direction="min",
        target=0.03,
        steps=300,
        build=Quadratic,
        split="None is needed: the metric is the exact expected loss above its known floor.",
        unit="",
        seconds=0.2,
    )


def build_rosenbrock() -> Task:
    """The task `rosenbrock`."""
    return Task(
        name="rosenbrock",
        statement="Rosenbrock's curved valley in two dimensions, with exact gradients.",
        limits="Two parameters and no noise: it rewards boldness that real training punishes.",
        metric="loss",
        direction="min",
        target=0.1,
        steps=400,
        build=Rosenbrock,
        split="None is needed: the metric is the function itself.",
        seconds=0.2,
    )
