"""The task `digits`: a small convolutional network on scikit-learn's bundled handwritten digits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.errors import require_packages
from thalweg.lab.tasks import Task

BATCH = 64
Split = tuple[Tensor, Tensor]


@lru_cache(maxsize=1)
def load_splits() -> dict[str, Split]:
    """The 1797 images, split once and for all; cached because a worker builds the task hundreds of times."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, rest, train_labels, rest_labels = train_test_split(
        images, labels, test_size=720, random_state=0, stratify=labels
    )
    validation, test, validation_labels, test_labels = train_test_split(
        rest, rest_labels, test_size=360, random_state=0, stratify=rest_labels
    )

    def tensors(pixels: object, classes: object) -> Split:
        return torch.as_tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.as_tensor(classes)

    return {
        "train": tensors(train, train_labels),
        "validation": tensors(validation, validation_labels),
        "test": tensors(test, test_labels),
    }


class Digits:
    """One seeded attempt; see `thalweg.lab.tasks.Problem`."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.splits = load_splits()
        self.model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )

    def batches(self) -> Iterator[Split]:
        """Epoch after epoch in a fresh order, whole batches only."""
        images, labels = self.splits["train"]
        while True:
            for chosen in torch.randperm(len(labels), generator=self.order).split(BATCH):
                if len(chosen) == BATCH:
                    yield images[chosen], labels[chosen]

    def loss(self, batch: Split) -> Tensor:
        """Cross-entropy."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def evaluate(self, split: str) -> Mapping[str, float]:
        """Accuracy, and the loss because 360 images make accuracies tie."""
        images, labels = self.splits[split]
        scores = self.model(images)
        return {
            "accuracy": (scores.argmax(1) == labels).float().mean().item(),
            "loss": F.cross_entropy(scores, labels).item(),
        }


def build_task() -> Task:
    """The task as the registry hands it out."""
    require_packages("numpy", "sklearn")
    return Task(
        name="digits",
        statement="A small convolutional network (43,000 parameters) learns scikit-learn's 1,797 handwritten digits.",
        metric="accuracy",
        direction="max",
        target=0.97,
        steps=200,
        build=Digits,
        split="1,077 images for training, 360 for validation, 360 for test; stratified by digit, the same in all runs.",
        eval_every=10,
        unit="%",
    )
