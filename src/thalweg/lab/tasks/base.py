"""The `Task` (what is asked of every optimizer) and the `Problem` (one freshly seeded attempt at it)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn


class Problem(Protocol):
    """A model, its training batches, its loss and its evaluation, all fixed by the seed given to `Task.build`."""

    @property
    def model(self) -> nn.Module:
        """What is trained; a plain attribute will do."""
        ...

    def batches(self) -> Iterator[Any]:
        """Training batches in the seed's order, without end. What is random in the loss is drawn here."""
        ...

    def loss(self, batch: Any) -> Tensor:
        """The scalar training loss of `self.model` on one batch, with its graph."""
        ...

    def evaluate(self, split: Literal["validation", "test"]) -> Mapping[str, float]:
        """The task's metric on a split, and ``"loss"`` as well where it can break ties of a coarse metric.

        Called without gradients, with the model and the optimizer in evaluation mode. A function of the weights
        alone: it draws nothing from the stream of the batches, and equal weights give equal numbers.
        """
        ...


@dataclass(frozen=True)
class Task:
    """What is raced: everything that is the same for every optimizer.

    Example:
        >>> from thalweg.lab.loading import load_task
        >>> task = load_task("wine")
        >>> task.metric, task.direction, task.reached(0.0)
        ('Brier score', 'min', True)
    """

    name: str
    statement: str
    """One sentence on what the task shows, printed under the report's headline."""
    metric: str
    """The key of `Problem.evaluate` that decides."""
    direction: Literal["max", "min"]
    target: float
    """The validation metric that counts as 'there' when steps and seconds are counted."""
    steps: int
    """Training steps of a run: its budget."""
    build: Callable[[int], Problem]
    limits: str = ""
    """One sentence on what the task cannot show."""
    split: str = "as the task's file defines it"
    """One sentence on how training, validation and test data are separated."""
    eval_every: int = 0
    """Steps between evaluations; 0 stands for a twentieth of the steps."""
    unit: str = ""
    """Printed after the metric; ``"%"`` prints a fraction as per cent."""
    kind: Literal["race", "check"] = "race"
    """``"race"`` ranks; ``"check"`` is passed or failed: its metric is 1 or 0."""
    seconds: float = 0.0
    """What a run with AdamW takes on one core, evaluations included, as measured; 0 where that is not known."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"a task's name becomes a directory: letters, digits, '.', '_' and '-', not {self.name!r}")
        if self.direction not in ("max", "min"):
            raise ValueError(f"direction is 'max' or 'min', not {self.direction!r}")
        if self.kind not in ("race", "check"):
            raise ValueError(f"kind is 'race' or 'check', not {self.kind!r}")
        if self.steps < 1 or self.eval_every < 0:
            raise ValueError("steps must be at least 1 and eval_every at least 0")
        if not math.isfinite(self.target) or not 0 <= self.seconds < math.inf:
            raise ValueError("target must be finite, and seconds finite and not negative")

    @property
    def interval(self) -> int:
        """Steps between two evaluations."""
        return self.eval_every or max(1, self.steps // 20)

    def reached(self, value: float) -> bool:
        """Whether a metric is at the target or beyond it."""
        return value >= self.target if self.direction == "max" else value <= self.target
