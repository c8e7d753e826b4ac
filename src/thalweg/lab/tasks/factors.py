"""The task `factors`: a table of ratings as a product of two thin ones, with sparse gradients."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.supervised import Split, Supervised

USERS = 200
ITEMS = 150
RANK = 4
NOISE = 0.5
"""Standard deviation of the ratings' noise: the floor of the root mean squared error."""
SIZES = {"train": 6000, "validation": 1500, "test": 1500}


@lru_cache(maxsize=1)
def load_splits() -> dict[str, Split]:
    """Pairs of user and item, and their ratings: products of variance 1 plus noise; the same in every run."""
    chance = torch.Generator().manual_seed(0)
    users = torch.randn(USERS, RANK, generator=chance)
    items = torch.randn(ITEMS, RANK, generator=chance)
    known = torch.randperm(USERS * ITEMS, generator=chance)[: sum(SIZES.values())]
    pairs = torch.stack((known // ITEMS, known % ITEMS), 1)
    exact = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(1) / RANK**0.5
    ratings = exact + NOISE * torch.randn(len(known), generator=chance)
    sizes = list(SIZES.values())
    return dict(zip(SIZES, zip(pairs.split(sizes), ratings.split(sizes), strict=True), strict=True))


class Factors(nn.Module):
    """A vector for every user and every item; a rating is their inner product."""

    def __init__(self) -> None:
        super().__init__()
        self.users = nn.Embedding(USERS, RANK, sparse=True)
        self.items = nn.Embedding(ITEMS, RANK, sparse=True)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, pairs: Tensor) -> Tensor:
        return (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(1)


def error(outputs: Tensor, ratings: Tensor) -> dict[str, float]:
    """The root mean squared error."""
    return {"RMSE": F.mse_loss(outputs, ratings).sqrt().item()}


def build_factors() -> Task:
    """The task `factors`."""

    def build(seed: int) -> Supervised:
        return Supervised(seed, load_splits(), Factors, error, 128, F.mse_loss)

    return Task(
        name="factors",
        statement="Two tables of vectors explain 9,000 ratings; a batch touches few of their rows: sparse gradients.",
        limits="The ratings are made up, and optimizers that cannot take sparse gradients are refused.",
        metric="RMSE",
        direction="min",
        target=0.7,
        steps=400,
        build=build,
        split="6,000 ratings for training, 1,500 for validation, 1,500 for test; made once, the same in all runs.",
        seconds=0.5,
    )
