"""Gradient descent on y = 4x²: what the learning rate does, and what momentum does."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

import thalweg
from thalweg.lab.gallery.style import (
    BLUE,
    COLOURS,
    CURVE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    Facts,
    figure,
    label,
    number,
    picture,
)

START = 2.0
RATES = (0.01, 0.1, 0.125, 0.2, 1.0)
MOMENTA = (0.0, 0.5, 0.9, 0.97)


def parabola(x: Tensor) -> Tensor:
    """y = 4x², of slope 8x and curvature 8."""
    return 4 * x.square()


def descent(steps: int, **options: Any) -> list[float]:
    """Where SGD with these options is after 0, 1, ... steps on the parabola from x = 2."""
    x = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = thalweg.SGD([x], **options)
    places = [x.item()]
    for _ in range(steps):
        optimizer.zero_grad()
        parabola(x).backward()
        optimizer.step()
        places.append(x.item())
    return places


def curvature() -> float:
    """The parabola's second derivative, by differentiating twice."""
    return torch.func.hessian(parabola)(torch.tensor(START, dtype=torch.float64)).item()


def arrival(places: list[float], near: float) -> int | None:
    """The first step from which all places are that near to 0."""
    outside = [k for k, x in enumerate(places) if abs(x) >= near]
    return outside[-1] + 1 if outside[-1] + 1 < len(places) else None


@picture("learning_rate")
def learning_rate() -> tuple[Figure, Facts]:
    """Five learning rates on y = 4x²: crawling, arriving, leaping over, flying off."""
    limit, best = 2 / curvature(), 1 / curvature()
    drawn = figure(
        10,
        4.1,
        f"Below {number(limit)} every learning rate arrives; {number(best)} arrives in one step, 1 flies off",
        "Gradient descent on y = 4x² from x = 2. Dots: the places after each step; factor: what a step makes of x.",
    )
    facts = {
        "curvature of y = 4x²": number(curvature()),
        "largest learning rate that does not diverge, 2/curvature": number(limit),
        "learning rate that arrives in one step, 1/curvature": number(best),
    }
    for axes, rate in zip(drawn.subplots(1, len(RATES)), RATES, strict=True):
        places = descent(600, lr=rate)[: 4 if rate > limit else None]
        factor = places[1] / places[0]
        reach = max(2.4, abs(places[2]) * 1.15 if rate > limit else 0)
        x = torch.linspace(-reach, reach, 200)
        shown = [p for p in places[:16] if abs(p) <= reach]
        axes.plot(x, parabola(x), color=CURVE, lw=2.5)
        axes.axvline(0, color=FAINT, lw=1)
        colour = RED if rate > limit else GREEN if rate == best else BLUE if factor > 0 else ORANGE
        heights = parabola(torch.tensor(shown)).tolist()
        axes.plot(shown, heights, color=colour, lw=1.1, marker="o", ms=5, mec="white", mew=0.7)
        axes.plot(shown[:1], heights[:1], "o", ms=7, color=INK, zorder=5)
        there = arrival(places, 1e-3)
        end = f"within 0.001 of 0\nafter {there} step{'s' * (there != 1)}" if there else "never arrives"
        axes.set_title(f"learning rate {rate:g}", color=colour, weight="bold")
        axes.text(0.5, 0.97, f"factor {number(factor)}\n{end}", transform=axes.transAxes, ha="center", va="top", size=9)
        axes.set_ylim(-0.06 * max(heights), max(heights) * 1.55)
        axes.set_xlabel("x")
        axes.tick_params(labelleft=axes.get_subplotspec().is_first_col() or rate > limit)
        facts[f"lr {rate:g}: factor a step"] = number(factor)
        facts[f"lr {rate:g}: steps to within 0.001"] = str(there) if there else "never"
    drawn.axes[0].set_ylabel("y = 4x²")
    diverging = descent(3, lr=1.0)
    facts["lr 1: the first places"] = ", ".join(number(p) for p in diverging)
    return drawn, facts


@picture("momentum")
def momentum() -> tuple[Figure, Facts]:
    """Momentum's overshoot on y = 4x²: faster at first, then past the goal and back."""
    rate, steps = 0.01, 100
    onset = (1 - (curvature() * rate) ** 0.5) ** 2
    drawn = figure(
        9,
        5.4,
        "Momentum hurries towards the goal, and too much of it runs past",
        f"SGD at learning rate {rate} on y = 4x² from x = 2. Above momentum {onset:.2f} the path crosses the goal.",
    )
    facts = {"momentum from which the path crosses the goal, (1 − √(8·lr))²": number(onset)}
    panels = drawn.subplots(2, 2, sharex=True, sharey=True)
    colours = (COLOURS["sgd"], GREEN, COLOURS["momentum"], PURPLE)
    for axes, value, colour in zip(panels.flat, MOMENTA, colours, strict=True):
        places = descent(1000, lr=rate, momentum=value)
        lowest, there = min(places), arrival(places, 0.02)
        words = "no momentum" if value == 0 else f"momentum {value:g}"
        axes.axhline(0, color=MUTED, lw=1)
        axes.plot(places[: steps + 1], color=colour)
        axes.set_title(words, color=colour, weight="bold")
        words_at = {"transform": axes.transAxes, "ha": "right", "va": "top"}
        axes.text(0.98, 0.93, f"stays within 0.02 after {there} steps", **words_at)
        if lowest < -1e-3:
            k = places.index(lowest)
            axes.plot([k], [lowest], "o", color=colour, ms=6)
            label(axes, k, lowest, f"{number(-lowest)} past the goal", colour, xytext=(8, -4))
        facts[f"{words}: farthest past the goal"] = number(-lowest) if lowest < -1e-3 else "not past it"
        facts[f"{words}: stays within 0.02 after"] = f"{there} steps"
    first = ", ".join(f"{p:.4g}" for p in descent(10, lr=rate, momentum=0.9))
    facts["momentum 0.9: the first places"] = first.replace("-", "−")
    panels[0, 0].set(xlim=(0, steps), ylim=(-2.1, 2.15))
    for axes in panels[1]:
        axes.set_xlabel("step")
    for axes in panels[:, 0]:
        axes.set_ylabel("x  (the goal is 0)")
    return drawn, facts
