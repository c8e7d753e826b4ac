"""The task `vae`: a variational autoencoder that puts the digits on a plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.errors import require_packages
from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.digits import BATCH, SPLIT, load_splits
from thalweg.lab.tasks.supervised import Supervised

LATENTS = 2
HIDDEN = 128


class Autoencoder(nn.Module):
    """Images of 8 x 8 pixels in [0, 1] to normal distributions on the plane, and places of the plane to images."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
        self.decoder = nn.Sequential(
            nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 64)
        )

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, each (images, 2)."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        return mean, log_variance

    def decode(self, places: Tensor) -> Tensor:
        """The images, (places, 8, 8) in [0, 1], that belong to places on the plane, (places, 2)."""
        return self.decoder(places).sigmoid().view(-1, 8, 8)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """The negative evidence lower bound in nats per image, with one draw of the latents by standard noise."""
        mean, log_variance = self.encode(images)
        pixels = self.decoder(mean + (log_variance / 2).exp() * noise)
        reconstruction = F.binary_cross_entropy_with_logits(pixels, images.flatten(1), reduction="sum")
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return (reconstruction + divergence) / len(images)


class Autoencoding(Supervised):
    """One seeded attempt; see `thalweg.lab.tasks.Problem`. The labels serve pictures only.

    Example:
        >>> attempt = Autoencoding(0)
        >>> places, labels = attempt.latents("test")
        >>> places.shape, attempt.model.decode(places[:3]).shape
        (torch.Size([360, 2]), torch.Size([3, 8, 8]))
    """

    model: Autoencoder

    def __init__(self, seed: int) -> None:
        super().__init__(seed, load_splits(), Autoencoder, lambda *_: {}, BATCH)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, and the noise by which their latents are drawn."""
        for images, _ in super().batches():
            yield images, torch.randn(len(images), LATENTS, generator=self.order)

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The negative evidence lower bound in nats per image."""
        return self.model(*batch)

    def evaluate(self, split: str) -> Mapping[str, float]:
        """The same on a whole split, always with the same noise."""
        images, _ = self.splits[split]
        noise = torch.randn(len(images), LATENTS, generator=torch.Generator().manual_seed(0))
        return {"loss": self.model(images, noise).item()}

    @torch.no_grad()
    def latents(self, split: str) -> tuple[Tensor, Tensor]:
        """For a map of the plane: the mean of every image of a split, (images, 2), and its digit."""
        images, labels = self.splits[split]
        return self.model.encode(images)[0], labels


def build_vae() -> Task:
    """The task `vae`."""
    require_packages("numpy", "sklearn")
    return Task(
        name="vae",
        statement="A variational autoencoder gives each digit two numbers: noise in every gradient.",
        limits="A better bound is not a better picture, and two numbers cannot hold a digit.",
        metric="loss",
        direction="min",
        target=25.8,
        steps=600,
        build=Autoencoding,
        split=SPLIT,
        unit="nats/image",
        seconds=1.2,
    )
