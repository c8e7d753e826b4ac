"""Race the optimizers on a model of your own.

    thalweg race examples/race_my_model.py:build_task --optimizers adamw,muon,sgd:momentum=0.9 --seeds 3

A task says what is asked; its `build` makes one freshly seeded attempt: a model, its batches, its loss and its
evaluation. Here: a small network that tells benign from malignant tumours in scikit-learn's breast cancer data.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn

from thalweg.lab import Task


def load_splits():
    """The data, standardised by the training part; the same split in every run."""
    features, labels = load_breast_cancer(return_X_y=True)
    features, labels = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(("train", "validation", "test"), order.split([341, 114, 114]), strict=True))
    mean, std = features[parts["train"]].mean(0), features[parts["train"]].std(0)
    return {name: ((features[part] - mean) / std, labels[part]) for name, part in parts.items()}


class Tumours:
    """One attempt. Everything random comes from the seed, so that all optimizers start alike."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.splits = load_splits()
        self.model = nn.Sequential(nn.Linear(30, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 2))

    def batches(self):
        """Endless training batches."""
        features, labels = self.splits["train"]
        while True:
            chosen = torch.randint(len(labels), (32,), generator=self.order)
            yield features[chosen], labels[chosen]

    def loss(self, batch):
        """The training loss of one batch, with its graph."""
        features, labels = batch
        return F.cross_entropy(self.model(features), labels)

    def evaluate(self, split):
        """The task's metric on "validation" or "test"; gradients are off and the model is in evaluation mode."""
        features, labels = self.splits[split]
        return {"loss": F.cross_entropy(self.model(features), labels).item()}


def build_task():
    """What `thalweg race` asks this file for."""
    return Task(
        name="tumours",
        statement="A small network tells benign from malignant tumours in 569 measured samples.",
        metric="loss",
        direction="min",
        target=0.12,
        steps=100,
        build=Tumours,
        split="341 samples for training, 114 for validation, 114 for test; the same in all runs.",
        unit="nats",
    )
