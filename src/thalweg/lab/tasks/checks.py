"""Tasks that are passed or failed: `stall` and `spike`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.errors import require_packages
from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.digits import BATCH, SPLIT, load_splits, multilayer_perceptron
from thalweg.lab.tasks.supervised import Split, Supervised, classification

FAINT, STRONG = 32, 128
"""Features of each kind: faint ones have large weights, strong ones small weights."""
SCALE = 0.1
"""Standard deviation of the faint features; that of the strong ones is 1."""
DISTANCE = 0.75, 0.03
"""How far weights start from their optimum. The large ones lie between 16 and 32: six gaps of bfloat16 numbers."""
NOISE = 0.1
STALL_LEVEL = 0.2
"""Share of the excess loss at the start that may be left at the end."""

SPIKE = 1e4
SPIKES = (20, 40)
"""The batches, counted from 0, whose gradients are SPIKE times too large."""
SPIKE_LEVEL = 0.3


@lru_cache(maxsize=1)
def stall_weights() -> tuple[Tensor, Tensor]:
    """Where the weights of `stall` start, and their optimum: (1, 160) each, the large ones first."""
    chance = torch.Generator().manual_seed(0)
    large, small = 18 + 10 * torch.rand(FAINT, generator=chance), 0.05 * torch.randn(STRONG, generator=chance)
    start = torch.cat((large, small)).bfloat16().float()[None]
    return start, start + torch.cat((torch.full((FAINT,), DISTANCE[0]), torch.full((STRONG,), DISTANCE[1])))


class Stall:
    """One seeded attempt at a linear regression whose parameters are bfloat16 and nothing else.

    The strong features bear only steps much smaller than the gaps around the large weights. An update smaller than
    half a gap is rounded away when it is stored to the nearest number: those weights then never move.
    """

    def __init__(self, seed: int) -> None:
        self.order = torch.Generator().manual_seed(seed)
        start, self.optimum = stall_weights()
        self.scale = torch.cat((torch.full((FAINT,), SCALE), torch.ones(STRONG)))
        self.model = nn.Linear(FAINT + STRONG, 1, bias=False, dtype=torch.bfloat16)
        with torch.no_grad():
            self.model.weight.copy_(start)
        self.start = self._excess(start)

    def _excess(self, weight: Tensor) -> float:
        """The expected loss above that of the optimum."""
        return ((weight.float() - self.optimum) * self.scale).square().sum().item()

    def batches(self) -> Iterator[Split]:
        """Features, and answers with noise."""
        while True:
            inputs = torch.randn(BATCH, FAINT + STRONG, generator=self.order) * self.scale
            yield inputs, inputs @ self.optimum.T + NOISE * torch.randn(BATCH, 1, generator=self.order)

    def loss(self, batch: Split) -> Tensor:
        """The mean squared error; the sums are taken in float32, so that only the stored weights are coarse."""
        inputs, answers = batch
        return F.mse_loss(F.linear(inputs, self.model.weight.float()), answers)

    def evaluate(self, split: str) -> Mapping[str, float]:
        """Whether the excess loss has fallen to its level, and the share of it that is left."""
        left = self._excess(self.model.weight) / self.start
        return {"passed": float(left <= STALL_LEVEL), "loss": left}


class Spike(Supervised):
    """One seeded attempt at the digits in which two batches have gradients ten thousand times too large."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, load_splits(), multilayer_perceptron, classification, BATCH)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, float]]:  # type: ignore[override]
        """Images, labels, and by how much the gradient is too large."""
        for number, (images, labels) in enumerate(super().batches()):
            yield images, labels, SPIKE if number in SPIKES else 1.0

    def loss(self, batch: tuple[Tensor, Tensor, float]) -> Tensor:  # type: ignore[override]
        """The cross-entropy, with its value as it is and its gradient as given."""
        images, labels, factor = batch
        loss = super().loss((images, labels))
        return loss if factor == 1 else loss.detach() + factor * (loss - loss.detach())

    def evaluate(self, split: str) -> Mapping[str, float]:
        """Whether the loss is at its level, and the loss."""
        loss = super().evaluate(split)["loss"]
        return {"passed": float(loss <= SPIKE_LEVEL), "loss": loss}


def build_stall() -> Task:
    """The check `stall`."""
    return Task(
        name="stall",
        statement="Parameters in pure bfloat16: do weights move by steps smaller than the gaps between numbers?",
        limits="A regression made for the purpose; in a real network some layers stall and others do not.",
        metric="passed",
        direction="max",
        target=1.0,
        steps=400,
        build=Stall,
        split="None is needed: passed when at most a fifth of the exact excess loss is left.",
        kind="check",
        seconds=0.3,
    )


def build_spike() -> Task:
    """The check `spike`."""
    require_packages("numpy", "sklearn")
    return Task(
        name="spike",
        statement="Two gradients are ten thousand times too large: is the loss back on its course by the end?",
        limits="Two early spikes in a short run: nothing about many, or about small ones.",
        metric="passed",
        direction="max",
        target=1.0,
        steps=300,
        build=Spike,
        split=SPLIT + f" Passed when the cross-entropy is at most {SPIKE_LEVEL}.",
        eval_every=50,
        kind="check",
        seconds=0.4,
    )
