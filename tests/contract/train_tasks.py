"""Three small problems that every optimizer must solve, each with a learning rate from ``docs/learning_rates.md``."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import thalweg

TABLE = Path(__file__).parents[2] / "docs" / "learning_rates.md"
#: Task -> what its last loss must not exceed. Before training they are 0.45, 2.3 and 24.2.
TARGETS = {"regression": 0.02, "digits": 0.25, "rosenbrock": 1.0}
#: What is changed from the defaults: Adafactor takes a rate, DoG a first step that 120 steps can grow from, AdamW2 a
#: looser bound on what a step may change, AdaGL a milder order; Muon's biases and head are nearly half of these models.
OPTIONS: dict[str, dict[str, Any]] = {
    "adafactor": {"relative_step": False},
    "adagl": {"alpha": 0.5},
    "adamw2": {"tau": 0.05},
    "dog": {"reps_rel": 1e-2},
    "ldog": {"reps_rel": 1e-2},
    "muon": {"rest": {"lr": 0.01}},
}
STEPS = {"regression": 800, "digits": 120, "rosenbrock": 1500}


@cache
def documented() -> dict[str, dict[str, float]]:
    """Optimizer -> task -> learning rate, from the table."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", TABLE.read_text(), re.MULTILINE)
    return {name: dict(zip(TARGETS, map(float, cells.split(" | ")), strict=True)) for name, cells in rows}


@cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images[:512], dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(data.target[:512])


def _problem(task: str) -> tuple[nn.Module, Any]:
    """The model and a function of the step that returns the loss."""
    torch.manual_seed(0)
    if task == "regression":
        x = torch.linspace(-1, 1, 64).unsqueeze(1)
        y = torch.sin(3 * x)
        model: nn.Module = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        return model, lambda t: (model(x) - y).square().mean()
    if task == "digits":
        images, labels = _digits()
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
        )

        def batch_loss(t: int) -> Tensor:
            rows = slice(128 * (t % 4), 128 * (t % 4) + 128)
            return nn.functional.cross_entropy(model(images[rows]), labels[rows])

        return model, batch_loss

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.xy = nn.Parameter(torch.tensor([-1.2, 1.0]))

    point = Point()
    return point, lambda t: (1 - point.xy[0]) ** 2 + 100 * (point.xy[1] - point.xy[0] ** 2) ** 2


def train(name: str, task: str, lr: float) -> float:
    """The mean loss of the last twenty steps, weights averaged where the method does that; the rate falls linearly."""
    model, loss_at = _problem(task)
    opt = thalweg.create(name, model, lr=lr, **OPTIONS.get(name, {}))
    constant = name.startswith("schedulefree")
    total = STEPS[task]
    found = []
    for t in range(total):
        for group in opt.param_groups:
            if not constant:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * (1 - t / total)

        def closure(t: int = t) -> Tensor:
            opt.zero_grad()
            loss: Tensor = loss_at(t)
            loss.backward()
            return loss

        try:
            loss = float(opt.step(closure).detach())
        except ValueError:  # some refuse a loss that is not finite
            return math.inf
        if not math.isfinite(loss):
            return math.inf
        found.append(loss)
    if hasattr(opt, "eval"):
        opt.eval()
    with torch.no_grad():
        return min(sum(found[-20:]) / 20, sum(float(loss_at(t)) for t in range(4)) / 4)


def find_rate(name: str, task: str) -> tuple[float, float]:
    """The learning rate nearest the default that halves the target, else the best of the grid; and its last loss."""
    default = thalweg.get(name).defaults.get("lr") or 1.0
    grid = sorted((a * 10.0**b for b in range(-4, 2) for a in (1, 3)), key=lambda lr: abs(math.log(lr / default)))
    found = []
    for lr in grid:
        found.append((train(name, task, lr), lr))
        if found[-1][0] <= TARGETS[task] / 2:
            break
    loss, lr = min(found)
    return lr, loss


if __name__ == "__main__":  # prints rows of the table
    import sys

    for name in sys.argv[1:] or thalweg.list_optimizers():
        rates = [find_rate(name, task) for task in TARGETS]
        print(f"| `{name}` | {' | '.join(f'{lr:g}' for lr, _ in rates)} |", [f"{v:.3g}" for _, v in rates], flush=True)
