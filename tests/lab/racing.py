"""A task small enough that a race over it is over in seconds, with ways to misbehave on request."""

from __future__ import annotations

from pathlib import Path

from thalweg.lab.contenders import parse_contenders
from thalweg.lab.race import Result, Settings

TASK = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from thalweg.lab import Task

class Line:
    def __init__(self, seed):
        MISBEHAVE
        torch.manual_seed(seed)
        self.order = torch.Generator().manual_seed(seed)
        self.model = nn.Linear(4, 3)
        self.truth = torch.linspace(-1, 1, 12).view(3, 4)

    def draw(self, order):
        inputs = torch.randn(16, 4, generator=order)
        return inputs, inputs @ self.truth.T

    def batches(self):
        while True:
            time.sleep(PAUSE)
            yield self.draw(self.order)

    def loss(self, batch):
        return (self.model(batch[0]) - batch[1]).square().mean()

    def evaluate(self, split):
        order = torch.Generator().manual_seed(7 if split == "validation" else 8)
        return {"loss": self.loss(self.draw(order)).item()}

def build_task():
    return Task(name="line", statement="A linear map is learned.", metric="loss", direction="min", target=0.2,
                steps=20, build=Line, split="drawn anew", unit="squared error")
"""


def write_task(folder: Path, misbehave: str = "pass", pause: float = 0.0) -> str:
    """Write the task's file and return its reference; `misbehave` is run at the start of every attempt."""
    path = folder / "line_task.py"
    path.write_text(TASK.replace("MISBEHAVE", misbehave).replace("PAUSE", str(pause)))
    return f"{path}:build_task"


def settings(reference: str, optimizers: str = "sgd adam", seeds: int = 2, points: int = 3) -> Settings:
    """What most tests race."""
    return Settings(reference, parse_contenders(optimizers.split()), seeds=seeds, points=points)


def metrics(result: Result) -> dict[str, object]:
    """What must not depend on workers, order or interruptions: the status, the metrics and the curves by run."""
    return {
        record["key"]: (
            record["status"],
            record["validation"],
            record["test"],
            record["curve"]["train_loss"],
            record["curve"]["validation"],
        )
        for record in result.records
    }
