"""How the tests of the tasks train and evaluate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch

import thalweg
from thalweg.lab.tasks import Problem, Task

SEED = 7


def evaluated(problem: Problem, split: str = "validation") -> Mapping[str, float]:
    """The metrics, taken as a race takes them."""
    problem.model.eval()
    with torch.no_grad():
        values = problem.evaluate(split)  # type: ignore[arg-type]
    problem.model.train()
    return values


def trained(task: Task, name: str, lr: float, steps: int | None = None, **hyper: Any) -> Mapping[str, float]:
    """The validation metrics after training by one of the library's optimizers."""
    problem = task.build(SEED)
    optimizer = thalweg.create(name, problem.model, lr=lr, engine="foreach", **hyper)  # compiling would take longer
    for batch in itertools.islice(problem.batches(), steps or task.steps):
        optimizer.zero_grad()
        problem.loss(batch).backward()
        optimizer.step()
    return evaluated(problem)
