"""Tasks on scikit-learn's bundled handwritten digits: `digits`, `mlp`, `noisy` and `tail`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thalweg
from thalweg.lab.errors import require_packages
from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.supervised import Split, Supervised, classification, three_parts

BATCH = 64
WRONG = 0.3
"""Share of wrong training labels in `noisy`."""
IMBALANCE = 100
"""How many times rarer 9 is than 0 in training in `tail`."""
SPLIT = "1,077 images for training, 360 for validation, 360 for test; stratified by digit, the same in all runs."


@lru_cache(maxsize=1)
def load_splits() -> dict[str, Split]:
    """The 1,797 images of 8 x 8 pixels in [0, 1], split once and for all."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.as_tensor(classes)
    return {name: (images[rows], labels[rows]) for name, rows in three_parts(labels, stratify=True).items()}


class Residual(nn.Module):
    """Two normalised convolutions whose output is added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(images + self.inner(images))


def residual_network(channels: int = 1, reductions: int = 1) -> nn.Module:
    """Convolutions that each halve the sides, two residual blocks, an average over places."""
    width = 24
    layers: list[nn.Module] = []
    for inputs in [channels, *[width] * (reductions - 1)]:
        layers += [
            nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
    return nn.Sequential(
        *layers, Residual(width), Residual(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)
    )


class NormalisedImages(Supervised):
    """A problem whose model has batch norms.

    Their running averages lag behind the weights, and belong to the wrong weights where an optimizer evaluates at an
    average of its iterates. So each evaluation first takes the statistics of the training images under the very
    weights that are evaluated.
    """

    def evaluate(self, split: str) -> Mapping[str, float]:
        """The metrics on a whole split, with the batch norms' statistics fitted to the weights."""
        thalweg.recalibrate(self.model, [self.splits["train"][0][:512]])
        return super().evaluate(split)


def multilayer_perceptron() -> nn.Module:
    """Two hidden layers, no normalisation."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


@lru_cache(maxsize=1)
def noisy_splits() -> dict[str, Split]:
    """The digits with WRONG of the training labels replaced, each by one of the nine wrong ones; fixed."""
    images, labels = load_splits()["train"]
    chance = torch.Generator().manual_seed(0)
    changed = torch.randperm(len(labels), generator=chance)[: round(WRONG * len(labels))]
    wrong = labels.clone()
    wrong[changed] = (labels[changed] + torch.randint(1, 10, changed.shape, generator=chance)) % 10
    return load_splits() | {"train": (images, wrong)}


@lru_cache(maxsize=1)
def tail_splits() -> dict[str, Split]:
    """The digits with fewer training images from digit to digit, 9 IMBALANCE times rarer than 0; fixed."""
    images, labels = load_splits()["train"]
    chosen = torch.cat([(labels == digit).nonzero()[: round(IMBALANCE ** (1 - digit / 9)), 0] for digit in range(10)])
    return load_splits() | {"train": (images[chosen], labels[chosen])}


def balanced(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy averaged over the classes, and cross-entropy averaged likewise."""
    right, losses = (scores.argmax(1) == labels).float(), F.cross_entropy(scores, labels, reduction="none")
    classes = [labels == digit for digit in labels.unique()]
    return {
        "balanced accuracy": torch.stack([right[mine].mean() for mine in classes]).mean().item(),
        "loss": torch.stack([losses[mine].mean() for mine in classes]).mean().item(),
    }


def build_digits() -> Task:
    """The task `digits`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> NormalisedImages:
        return NormalisedImages(seed, load_splits(), residual_network, classification, BATCH)

    return Task(
        name="digits",
        statement="A small residual network with batch norm learns 1,797 handwritten digits: images in the usual way.",
        limits="Batch norm forgives much, and 360 test images cannot tell accuracies half a point apart.",
        metric="accuracy",
        direction="max",
        target=0.98,
        steps=150,
        build=build,
        split=SPLIT,
        eval_every=15,
        unit="%",
        seconds=1.2,
    )


def build_mlp() -> Task:
    """The task `mlp`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> Supervised:
        return Supervised(seed, load_splits(), multilayer_perceptron, classification, BATCH)

    return Task(
        name="mlp",
        statement="A perceptron with two hidden layers learns the digits: depth without normalisation or convolution.",
        limits="Small and easy: 360 test images cannot tell accuracies half a point apart.",
        metric="accuracy",
        direction="max",
        target=0.97,
        steps=300,
        build=build,
        split=SPLIT,
        unit="%",
        seconds=0.4,
    )


def build_noisy() -> Task:
    """The task `noisy`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> Supervised:
        return Supervised(seed, noisy_splits(), multilayer_perceptron, classification, BATCH)

    return Task(
        name="noisy",
        statement="A perceptron learns digits of which 30 % are wrongly labelled: learning by heart is punished.",
        limits="Wrong labels are drawn evenly; people mistake what looks alike.",
        metric="accuracy",
        direction="max",
        target=0.91,
        steps=400,
        build=build,
        split=SPLIT + " Only training labels are wrong, always the same ones.",
        unit="%",
        seconds=0.5,
    )


def build_tail() -> Task:
    """The task `tail`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> Supervised:
        return Supervised(seed, tail_splits(), multilayer_perceptron, balanced, 32)

    return Task(
        name="tail",
        statement="A perceptron learns digits of which 0 is a hundred times as frequent as 9, judged on all alike.",
        limits="The rarest digits have one to three training images, always the same: much of the rest is luck.",
        metric="balanced accuracy",
        direction="max",
        target=0.7,
        steps=300,
        build=build,
        split="250 images for training: 100 of 0, 60 of 1, to 1 of 9; 360 for validation, 360 for test, stratified.",
        unit="%",
        seconds=0.3,
    )
