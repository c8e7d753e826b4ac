"""A task small enough that a race over it is over in seconds, with ways to misbehave on request."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thalweg.lab import report
from thalweg.lab.contenders import parse_contenders
from thalweg.lab.planning import Field
from thalweg.lab.protocol import Protocol
from thalweg.lab.race import Result, Settings, race
from thalweg.lab.trial import Job

TIMES = {"seconds", "target_seconds", "step_ms"}

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


def settings(reference: str, optimizers: str = "sgd:lr=0.03 adam:lr=0.1", **given: Any) -> Settings:
    """What most tests race: the whole protocol, with few seeds and points."""
    search = given.pop("sweep", None)
    protocol = Protocol("test", **({"tune_seeds": 2, "report_seeds": 3, "points": 3, "decays": (0.0, 0.1)} | given))
    return Settings(tuple(reference.split()), parse_contenders(optimizers.split()), protocol, search=search)


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


def timeless(value: Any) -> Any:
    """A summary without the times in it, which are all that may differ between two races of equal settings."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in TIMES}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def race_metrics(directory: Path) -> dict[str, object]:
    """The same of a race in another process, from its export."""
    lines = (directory / "results.jsonl").read_text().splitlines()
    return metrics(Result([json.loads(line) for line in lines], {}))


def main(reference: str, directory: str, *how: str) -> None:
    """A race as a process of its own, without a report: `how` is a storage's URL, or a mode."""
    report.write_report = lambda directory, summary: directory
    storage = next((one for one in how if ":" in one), None)
    mode: Any = next((one for one in how if ":" not in one), "new")
    race(settings(reference), Path(directory), mode=mode, storage=storage, workers=1)


def simulated(chosen: Settings, validation: Callable[[Job], float | None]) -> list[Field]:
    """A race without training: `validation` gives a run's metric, None where it diverges, until no run is needed."""
    protocol = chosen.protocol
    search = chosen.search or protocol.as_search()
    fields = [Field(course, chosen.contenders, protocol, search) for course in chosen.courses()]
    for field in fields:
        while wanted := [job for _, job in field.jobs() if job.key not in field.entries[job.label].records]:
            for job in wanted:
                field.entries[job.label].take(simulated_record(job, field.course.task.metric, validation(job)))
            for entry in field.entries.values():
                entry.replan()
    return fields


def simulated_record(job: Job, metric: str, value: float | None) -> dict[str, Any]:
    """A run as a worker reports it."""
    found = None if value is None else {metric: value, "loss": value}
    return job.heading() | {
        "status": "diverged" if value is None else "finished",
        "reason": "training loss was nan" if value is None else None,
        "validation": found,
        "test": found,
        "steps": job.stop,
        "seconds": 1.0,
        "target_step": 5 if value is not None and value < 0.2 else None,
        "target_seconds": 0.5 if value is not None and value < 0.2 else None,
        "step_ms": 0.1,
        "state_bytes": 80,
        "parameters": 10,
        "curve": {"step": [0, job.stop], "seconds": [0.0, 1.0], "train_loss": [None, 1.0], "validation": [1.0, value]},
    }
