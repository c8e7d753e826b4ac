"""Every learning-rate schedule of the library, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.figure import Figure

from thalweg.lab.gallery.style import BLUE, COLOURS, FAINT, GREEN, MUTED, Facts, figure, picture
from thalweg.schedules import list_schedules

STEPS = 100
#: Arguments that show each schedule within 100 steps.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "Constant": {},
    "Cosine": {"steps": 100},
    "Cyclic": {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 20},
    "Decay": {"steps": 100, "shape": "1-sqrt"},
    "Exponential": {"gamma": 0.97},
    "HardRestarts": {"steps": 100, "cycles": 3},
    "InverseSqrt": {"timescale": 5},
    "Lambda": {"function": lambda k: math.exp(-(((k - 50) / 20) ** 2))},
    "Linear": {"start": 1.0, "end": 0.0, "steps": 100},
    "MultiStep": {"milestones": (30, 70), "gamma": 0.4},
    "Multiplicative": {"function": lambda k: 0.96 if k < 50 else 1.0},
    "Noam": {"d_model": 1, "warmup_steps": 20},
    "OneCycle": {"total_steps": 101},
    "Plateau": {"patience": 4, "factor": 0.5},
    "Polynomial": {"steps": 100, "power": 2},
    "RAdamWarmup": {"beta2": 0.95},
    "Step": {"every": 25, "gamma": 0.5},
    "UntunedExponential": {"beta2": 0.95},
    "UntunedLinear": {"beta2": 0.95},
    "WarmRestarts": {"first": 15, "grow": 2},
    "Warmup": {"steps": 40, "shape": "cosine"},
    "constant_with_warmup": {"warmup_steps": 20},
    "cosine_hard_restarts_with_warmup": {"warmup_steps": 10, "total_steps": 100, "cycles": 3},
    "cosine_with_warmup": {"warmup_steps": 20, "total_steps": 100},
    "fairseq_inverse_sqrt": {"warmup_steps": 10},
    "inverse_sqrt_with_warmup": {"warmup_steps": 10},
    "linear_with_warmup": {"warmup_steps": 20, "total_steps": 100},
    "minicpm_wsd": {"warmup_steps": 10, "decay_from": 60, "half_life": 10},
    "polynomial_with_warmup": {"warmup_steps": 20, "total_steps": 100, "power": 2},
    "wsd": {"warmup_steps": 15, "stable_steps": 45, "decay_steps": 40},
}


def rates(name: str) -> list[float]:
    """The learning rates of a schedule at the steps 0 to 100, for a group whose own rate is 1."""
    build: Callable[..., Any] = list_schedules()[name]
    if name != "Plateau":
        return build(**ARGUMENTS[name]).values(STEPS + 1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    plateau, found = build(optimizer, **ARGUMENTS[name]), []
    for k in range(STEPS + 1):
        found.append(optimizer.param_groups[0]["lr"])
        plateau.step(max(0.3, math.exp(-k / 25)))  # a metric that improves until step 30
    return found


def spelled(name: str) -> str:
    """The arguments as the caption under a name."""
    given = ((k, "f" if callable(v) else v) for k, v in ARGUMENTS[name].items())
    text = ", ".join(f"{k}={v}" for k, v in given)
    end = text.rfind(", ", 0, 40) + 1
    return text if len(text) <= 40 else f"{text[:end]}\n{text[end + 1 :]}"


@picture("schedules")
def schedules() -> tuple[Figure, Facts]:
    """Every learning-rate schedule, as small multiples over 100 steps."""
    names = sorted(list_schedules(), key=lambda name: (name[0].islower(), name.lower()))
    columns = 5
    rows = math.ceil(len(names) / columns)
    drawn = figure(
        10,
        1.55 * rows + 0.9,
        f"{len(names)} schedules, one language: how large a step is at each step",
        "Learning rate as a share of the optimizer's own (dotted: 1) over 100 steps. Blue: building blocks;\n"
        "green: ready-made plans of other libraries; orange: falls where a metric stalls, here from step 30.",
    )
    panels = drawn.subplots(rows, columns, sharex=True)
    for axes, name in zip(panels.flat, names, strict=False):
        values = rates(name)
        colour = GREEN if name[0].islower() else BLUE
        if name == "Plateau":
            colour = COLOURS["adam"]
        top = max(1.0, max(values))
        axes.axhline(1, color=MUTED, lw=0.8, ls=":")
        axes.fill_between(range(STEPS + 1), values, color=colour, alpha=0.12, lw=0)
        axes.plot(values, color=colour, lw=1.6)
        axes.set_title(name, size=7 if len(name) > 26 else 8 if len(name) > 18 else 9, color=colour, weight="bold")
        axes.text(0.5, -0.06, spelled(name), transform=axes.transAxes, ha="center", va="top", size=6.6, color=MUTED)
        axes.set(xlim=(0, STEPS), ylim=(0, 1.08 * top), xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    means = {name: sum(rates(name)[:STEPS]) / STEPS for name in ("Linear", "Cosine", "wsd", "linear_with_warmup")}
    facts = {"schedules shown": str(len(names))}
    facts.update({f"{name}: mean rate over the 100 steps": f"{mean:.3f}" for name, mean in means.items()})
    return drawn, facts
