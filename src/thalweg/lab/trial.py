"""One run: one optimizer, one learning rate, one seed, and everything measured along the way."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

import thalweg
from thalweg.lab.errors import LabError
from thalweg.lab.tasks import Problem, Task

Point = tuple[tuple[str, Any], ...]
"""What a search has set, by name in a fixed order: ``(("lr", 0.001), ("weight_decay", 0.01))``."""

WARMUP = 5
"""First steps left out of the step time: they allocate the state and may compile."""


@dataclass(frozen=True)
class Job:
    """What a worker is asked to do: a configuration, a seed and a task."""

    reference: str
    task: str
    phase: Literal["tune", "report"]
    label: str
    name: str
    hyper: Mapping[str, Any]
    point: Point
    seed: int
    steps: int
    """Steps of the task, which set the evaluations."""
    stop: int
    """Steps of this run; fewer than the task's in successive halving only."""

    @property
    def study(self) -> str:
        """Where the run is kept: with all of one task, contender and phase."""
        return f"{self.task} {self.label} {self.phase}"

    @property
    def key(self) -> str:
        """Tells the run apart from every other of the race."""
        values = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in self.point]
        short = [f"steps={self.stop}"] if self.stop < self.steps else []
        return " ".join([self.study, *values, *short, f"seed={self.seed}"])

    def heading(self) -> dict[str, Any]:
        """The part of the run's record that is known before it starts."""
        point = dict(self.point)
        return {
            "key": self.key,
            "task": self.task,
            "phase": self.phase,
            "label": self.label,
            "optimizer": self.name,
            "hyper": dict(self.hyper),
            "lr": point.get("lr"),
            "weight_decay": point.get("weight_decay"),
            "point": point,
            "seed": self.seed,
            "steps": 0,
        }


class Diverged(Exception):
    """Training left the region it can come back from: a result, not a failure."""


class Refused(Exception):
    """The optimizer cannot train this model, and says so: a result about the optimizer, not a failure."""


@dataclass
class Curve:
    """What the report draws: training loss between evaluations, and the validation metric at them."""

    step: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_loss: list[float | None] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)


def run_trial(task: Task, job: Job) -> dict[str, Any]:
    """Train once and return the run's record, plain enough for a line of JSON."""
    torch.manual_seed(job.seed)
    problem = task.build(job.seed)
    record: dict[str, Any] = job.heading() | {"reason": None, "validation": None, "test": None}
    try:
        run = _Run(task, problem, _build_optimizer(job, problem))
    except Refused as reason:
        return record | {"status": "refused", "reason": str(reason)}
    try:
        run.train(job.stop)
        record |= {"status": "finished", "validation": run.last, "test": run.evaluate("test")}
    except Diverged as reason:
        record |= {"status": "diverged", "reason": str(reason)}
    except Refused as reason:
        record |= {"status": "refused", "reason": str(reason)}
    return record | run.measurements()


def _build_optimizer(job: Job, problem: Problem) -> Any:
    hyper = dict(job.hyper)
    for name, value in job.point:
        name, dot, index = name.partition(".")
        if dot:  # one number of a tuple, as betas.1
            whole = list(hyper.get(name, thalweg.get(job.name).defaults[name]))
            whole[int(index)] = value
            value = tuple(whole)
        hyper[name] = value
    try:
        return thalweg.create(job.name, problem.model, **hyper)
    except ValueError as reason:
        raise Refused(str(reason)) from reason


class _Run:
    """The state of a run while it trains."""

    def __init__(self, task: Task, problem: Problem, optimizer: Any) -> None:
        self.task = task
        self.problem = problem
        self.optimizer = optimizer
        self.on_cpu = all(parameter.device.type == "cpu" for parameter in problem.model.parameters())
        self.curve = Curve()
        self.last: dict[str, float] = {}
        self.steps = 0
        self.seconds = 0.0
        self.step_times: list[float] = []
        self.target_step: int | None = None
        self.target_seconds: float | None = None

    def train(self, steps: int) -> None:
        """Step until the budget is spent; the clock stands still during evaluations."""
        batches = iter(self.problem.batches())
        self._note(None)
        self._training_mode()
        window: list[float] = []
        ceiling = math.inf
        while self.steps < steps:
            window.append(self._step(next(batches)))
            if self.steps == 1:
                ceiling = window[0] + 3 * max(abs(window[0]), 0.1)
            if self.steps % self.task.interval == 0 or self.steps == steps:
                # The median, because one wild step early on is something many runs recover from.
                if statistics.median(window) > ceiling:
                    raise Diverged(f"training loss stayed above {ceiling:.3g}, four times its start")
                self._note(statistics.fmean(window))
                self._training_mode()
                window = []

    def _step(self, batch: Any) -> float:
        start = self._now()
        loss = self.problem.loss(batch)
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"training loss was {value} after {self.steps} steps")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        before = self._now()
        try:
            self.optimizer.step(loss=loss.detach())
        except (RuntimeError, ValueError) as reason:
            if self.steps == 0 and (isinstance(reason, ValueError) or self._gradients_are_sparse()):
                raise Refused(str(reason)) from reason
            raise
        end = self._now()
        self.seconds += end - start
        self.step_times.append(end - before)
        self.steps += 1
        return value

    def _gradients_are_sparse(self) -> bool:
        gradients = [parameter.grad for parameter in self.problem.model.parameters()]
        return any(gradient is not None and gradient.layout != torch.strided for gradient in gradients)

    def _now(self) -> float:
        """Processor time where a CPU does the work, because other work on the machine hardly touches it."""
        if self.on_cpu:
            return time.process_time()
        torch.accelerator.synchronize()
        return time.perf_counter()

    def _note(self, train_loss: float | None) -> None:
        self.last = self.evaluate("validation")
        metric = self.last[self.task.metric]
        self.curve.step.append(self.steps)
        self.curve.seconds.append(round(self.seconds, 6))
        self.curve.train_loss.append(train_loss)
        self.curve.validation.append(metric)
        if self.target_step is None and self.task.reached(metric):
            self.target_step, self.target_seconds = self.steps, self.seconds

    def evaluate(self, split: Literal["validation", "test"]) -> dict[str, float]:
        """Evaluate with the averaged iterate where the optimizer keeps one; only finite values are kept."""
        self.problem.model.eval()
        self.optimizer.eval()
        with torch.no_grad():
            values = {key: float(value) for key, value in self.problem.evaluate(split).items()}
        metric = self.task.metric
        if metric not in values:
            raise LabError(
                f"evaluate({split!r}) gave {', '.join(values) or 'nothing'}, but the task's metric is {metric!r}"
            )
        if not math.isfinite(values[metric]):
            raise Diverged(f"{split} {metric} was {values[metric]} after {self.steps} steps")
        return {key: value for key, value in values.items() if math.isfinite(value)}

    def _training_mode(self) -> None:
        self.problem.model.train()
        self.optimizer.train()

    def measurements(self) -> dict[str, Any]:
        """Everything measured, also of a run that diverged."""
        trained = [parameter for parameter in self.problem.model.parameters() if parameter.requires_grad]
        timed = self.step_times[WARMUP:] or self.step_times
        return {
            "steps": self.steps,
            "seconds": self.seconds,
            "target_step": self.target_step,
            "target_seconds": self.target_seconds,
            "step_ms": 1000 * statistics.median(timed) if timed else None,
            "state_bytes": int(self.optimizer.state_bytes()),
            "parameters": sum(parameter.numel() for parameter in trained),
            "curve": vars(self.curve),
        }
