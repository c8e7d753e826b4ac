"""What tasks with inputs and targets share: batches in epochs, a loss, a score on whole splits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Split = tuple[Tensor, Tensor]
"""Inputs and targets."""


class Supervised:
    """One seeded attempt at a task of inputs and targets; see `thalweg.lab.tasks.Problem`.

    Args:
        seed: fixes the initial weights and the order of the batches.
        splits: the inputs and targets of ``"train"``, ``"validation"`` and ``"test"``.
        model: makes the model; called once, after the seed is set.
        score: from outputs and targets to the metrics.
        batch: examples in a batch.
        loss: from outputs and targets to the training loss.
    """

    def __init__(
        self,
        seed: int,
        splits: Mapping[str, Split],
        model: Callable[[], nn.Module],
        score: Callable[[Tensor, Tensor], dict[str, float]],
        batch: int,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.splits = splits
        self.model = model()
        self.score = score
        self.batch = batch
        self.criterion = loss

    def batches(self) -> Iterator[Split]:
        """Epoch after epoch in a fresh order, whole batches only."""
        inputs, targets = self.splits["train"]
        while True:
            order = torch.randperm(len(targets), generator=self.order)
            for chosen in order[: len(order) // self.batch * self.batch].split(self.batch):
                yield inputs[chosen], targets[chosen]

    def loss(self, batch: Split) -> Tensor:
        """The task's loss, averaged over the batch."""
        inputs, targets = batch
        return self.criterion(self.model(inputs), targets)

    def evaluate(self, split: str) -> Mapping[str, float]:
        """The metrics on a whole split, computed in pieces that fit the memory."""
        inputs, targets = self.splits[split]
        return self.score(torch.cat([self.model(piece) for piece in inputs.split(1000)]), targets)


def classification(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, and cross-entropy in nats because accuracies on a few hundred examples tie."""
    return {
        "accuracy": (scores.argmax(1) == labels).float().mean().item(),
        "loss": F.cross_entropy(scores, labels).item(),
    }


def three_parts(targets: Tensor, stratify: bool) -> dict[str, Tensor]:
    """Fixed row numbers of a 60 / 20 / 20 split into training, validation and test."""
    from sklearn.model_selection import train_test_split

    def cut(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        first, second = train_test_split(
            rows.numpy(), test_size=size, random_state=0, stratify=targets[rows].numpy() if stratify else None
        )
        return torch.from_numpy(first), torch.from_numpy(second)

    fifth = math.ceil(len(targets) / 5)
    train, rest = cut(torch.arange(len(targets)), 2 * fifth)
    validation, test = cut(rest, fifth)
    return {"train": train, "validation": validation, "test": test}
