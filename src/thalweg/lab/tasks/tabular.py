"""Tasks on scikit-learn's bundled tables: `diabetes`, `cancer` and `wine`."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.lab.errors import require_packages
from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.supervised import Split, Supervised, three_parts


@lru_cache
def load_splits(table: str) -> dict[str, Split]:
    """A table's rows with every column (and a continuous target) standardised by the training part."""
    from sklearn import datasets

    columns, answers = getattr(datasets, f"load_{table}")(return_X_y=True)
    inputs, targets = torch.as_tensor(columns, dtype=torch.float32), torch.as_tensor(answers)
    continuous = targets.is_floating_point()
    parts = three_parts(targets, stratify=not continuous)

    def standardised(values: Tensor) -> Tensor:
        train = values[parts["train"]]
        return (values - train.mean(0)) / train.std(0)

    inputs = standardised(inputs)
    if continuous:
        targets = standardised(targets.float()[:, None])
    return {name: (inputs[rows], targets[rows]) for name, rows in parts.items()}


def certainty(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Brier score and cross-entropy.

    The Brier score, the squared distance of the probabilities from the answer, lies between 0 and 2. On a few dozen
    rows it says more than accuracy, which ties, and one bold mistake cannot outweigh all else as in cross-entropy.
    """
    answers = F.one_hot(labels, scores.shape[1])
    return {
        "Brier score": (scores.softmax(1) - answers).square().sum(1).mean().item(),
        "loss": F.cross_entropy(scores, labels).item(),
    }


def regression(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Mean squared error; of standardised targets, so 1 is the error of the training mean."""
    return {"squared error": F.mse_loss(outputs, targets).item()}


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers of 32."""
    return nn.Sequential(nn.Linear(inputs, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, outputs))


def build_cancer() -> Task:
    """The task `cancer`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> Supervised:
        return Supervised(seed, load_splits("breast_cancer"), lambda: network(30, 2), certainty, 32)

    return Task(
        name="cancer",
        statement="A small network tells benign from malignant tumours by 30 correlated measurements of 569 samples.",
        limits="A line nearly separates the classes: it shows speed and overfitting, not capacity.",
        metric="Brier score",
        direction="min",
        target=0.075,
        steps=100,
        build=build,
        split="341 samples for training, 114 for validation, 114 for test; stratified, the same in all runs.",
        seconds=0.2,
    )


def build_wine() -> Task:
    """The task `wine`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> Supervised:
        return Supervised(seed, load_splits("wine"), lambda: network(13, 3), certainty, 32)

    return Task(
        name="wine",
        statement="A small network tells three growers apart by 13 measurements of 178 wines, in 60 steps.",
        limits="36 test wines, of which most are classified rightly by every optimizer: ranks are largely luck.",
        metric="Brier score",
        direction="min",
        target=0.03,
        steps=60,
        build=build,
        split="106 wines for training, 36 for validation, 36 for test; stratified, the same in all runs.",
        seconds=0.1,
    )


def build_diabetes() -> Task:
    """The task `diabetes`."""
    require_packages("numpy", "sklearn")

    def build(seed: int) -> Supervised:
        return Supervised(seed, load_splits("diabetes"), lambda: network(10, 1), regression, 32, F.mse_loss)

    return Task(
        name="diabetes",
        statement="A small network predicts how diabetes progresses in 442 patients: noisy, and soon overfitted.",
        limits="Half the variance cannot be predicted: what is left to win is to stop in a good place.",
        metric="squared error",
        direction="min",
        target=0.58,
        steps=150,
        eval_every=10,
        build=build,
        split="264 patients for training, 89 for validation, 89 for test; the same in all runs.",
        seconds=0.2,
    )
