"""The task `gan`: a generator and a discriminator play for a ring of eight Gaussians."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.lab.tasks.base import Task

MODES = 8
RADIUS = 2.0
SPREAD = 0.2
"""Standard deviation of each mode, in each of the two directions."""
LATENTS = 2
HIDDEN = 64
BATCH = 128
SAMPLES = 1024
PENALTY = 1.0
"""Weight of the squared slope of the discriminator's score at real points, without which the game goes in circles."""


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, outputs)
    )


class Game(nn.Module):
    """Both players in one module, so that one optimizer trains both at once."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = network(LATENTS, 2)
        self.discriminator = network(2, 1)

    def losses(self, real: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's loss and the generator's (non-saturating), each with a graph to its own player only.

        The discriminator sees generated points as constants; the generator is judged by a discriminator whose
        weights are constants. So the gradient of the sum is, for either player, that of its own loss.
        """
        real = real.detach().requires_grad_()
        real_scores = self.discriminator(real)
        (slopes,) = torch.autograd.grad(real_scores.sum(), real, create_graph=True)
        penalty = PENALTY / 2 * slopes.square().sum(1).mean()
        fake = self.generator(noise)
        fake_scores = self.discriminator(fake.detach())
        constants = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        verdict = functional_call(self.discriminator, constants, (fake,))
        discriminator_loss = F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean() + penalty
        return discriminator_loss, F.softplus(-verdict).mean()


def centres() -> Tensor:
    """The modes' places, evenly around the ring."""
    angles = torch.arange(MODES) * (2 * torch.pi / MODES)
    return RADIUS * torch.stack((angles.cos(), angles.sin()), 1)


def ring(count: int, chance: torch.Generator) -> Tensor:
    """Points of the ring."""
    return centres()[torch.randint(MODES, (count,), generator=chance)] + SPREAD * torch.randn(
        count, 2, generator=chance
    )


@lru_cache(maxsize=2)
def held_out(split: str) -> tuple[Tensor, Tensor]:
    """Points of the ring and generator noise for an evaluation, always the same."""
    chance = torch.Generator().manual_seed({"validation": 1, "test": 2}[split])
    return ring(SAMPLES, chance), torch.randn(SAMPLES, LATENTS, generator=chance)


def energy_distance(first: Tensor, second: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|: zero where both samples are of one distribution, else positive."""
    between, within = torch.cdist(first, second).mean(), torch.cdist(first, first).mean()
    return (2 * between - within - torch.cdist(second, second).mean()).item()


def misplaced(points: Tensor) -> float:
    """The share of points to be moved for every mode to have its eighth within three standard deviations."""
    shares = (torch.cdist(points, centres()) < 3 * SPREAD).float().mean(0)
    return 1 - shares.clamp(max=1 / MODES).sum().item()


class Ring:
    """One seeded attempt; see `thalweg.lab.tasks.Problem`."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.model = Game()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Points of the ring, and the generator's noise."""
        while True:
            yield ring(BATCH, self.order), torch.randn(BATCH, LATENTS, generator=self.order)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The sum of both players' losses."""
        judge, generator = self.model.losses(*batch)
        return judge + generator

    def evaluate(self, split: str) -> Mapping[str, float]:
        """The share of generated points in the wrong place; ties are broken by their energy distance to the ring."""
        real, noise = held_out(split)
        fake = self.model.generator(noise)
        return {"misplaced points": misplaced(fake), "loss": energy_distance(fake, real)}


def build_gan() -> Task:
    """The task `gan`."""
    return Task(
        name="gan",
        statement="Two players train against each other at once: a balance to be kept, not a loss to go down.",
        limits="Two dimensions, and one learning rate for two players who would each choose another.",
        metric="misplaced points",
        direction="min",
        target=0.4,
        steps=600,
        build=Ring,
        split="1,024 points and draws of noise for validation, 1,024 others for test; the same in all runs.",
        unit="%",
        seconds=1.6,
    )
