"""Adagrad at work: a square root beside Newton's method, and a linear regression."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

import thalweg
from thalweg.lab.gallery.style import (
    BLUE,
    COLOURS,
    CURVE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    Facts,
    figure,
    label,
    number,
    picture,
)

SQUARE, START, STEPS = 2.0, 5.0, 3000
RATES = {0.01: PURPLE, 0.1: BLUE, 0.5: ORANGE, 2.0: GREEN}
INPUT, TARGET = (1.0, 2.0, 3.0), 12.0
WEIGHTS = (0.1, 0.2, 0.3)


def squares(x: Tensor) -> Tensor:
    """(x² − a)²: lowest at ±√a, with a hill between them."""
    return (x.square() - SQUARE).square()


def roots_by_adagrad(steps: int) -> dict[float, list[float]]:
    """Where Adagrad is after each step from x = 5, for each learning rate."""
    x = {rate: torch.nn.Parameter(torch.tensor(START, dtype=torch.float64)) for rate in RATES}
    optimizer = thalweg.Adagrad([{"params": [p], "lr": rate} for rate, p in x.items()])
    places = {rate: [START] for rate in RATES}
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([squares(p) for p in x.values()]).sum().backward()
        optimizer.step()
        for rate, p in x.items():
            places[rate].append(p.item())
    return places


def root_by_newton(steps: int) -> list[float]:
    """Newton's method on x² − a from x = 5, with the slope by differentiating."""
    x = torch.tensor(START, dtype=torch.float64)
    places = [x.item()]
    for _ in range(steps):
        value, slope = torch.func.grad_and_value(lambda y: y.square() - SQUARE)(x)[::-1]
        x = x - value / slope
        places.append(x.item())
    return places


def first_within(places: list[float], goal: float, near: float) -> int | None:
    """The first step that is that near to the goal."""
    return next((k for k, x in enumerate(places) if abs(x - goal) < near), None)


@picture("square_root")
def square_root() -> tuple[Figure, Facts]:
    """The square root of 2 by Adagrad at four learning rates, and by Newton's method."""
    goal = SQUARE**0.5
    near = 1e-6
    newton, adagrad = root_by_newton(7), roots_by_adagrad(STEPS)
    arrived = first_within(newton, goal, near)
    drawn = figure(
        9,
        4.6,
        f"Newton has √2 in {arrived} steps; Adagrad in hundreds at best, for its rate only ever falls",
        f"Adagrad minimises (x² − 2)² from x = {START:g}; Newton solves x² = 2 from there. "
        "The distance to √2 after each step.",
    )
    axes = drawn.subplots()
    facts = {"Newton: the first places": ", ".join(f"{x:.8g}" for x in newton[:6])}
    facts[f"Newton: within {near:g} of √2 after"] = f"{arrived} steps"
    floor = 1e-12
    axes.plot(range(1, 8), [max(abs(x - goal), floor) for x in newton[1:]], "-o", color=COLOURS["newton"], ms=5)
    label(axes, 5, abs(newton[5] - goal), "Newton", COLOURS["newton"], xytext=(-10, 0), ha="right")
    for rate, colour in RATES.items():
        places = adagrad[rate]
        gaps = [max(abs(x - goal), floor) for x in places]
        axes.plot(range(1, STEPS + 1), gaps[1:], color=colour)
        there = first_within(places, goal, near)
        facts[f"Adagrad at learning rate {rate:g}: within {near:g} of √2 after"] = (
            f"{there:,} steps" if there else f"not within {STEPS:,} steps, then at {places[-1]:.4f}"
        )
        if there:
            words = f"Adagrad {rate:g}:\n{there:,} steps"
            label(axes, there, near, words, colour, xytext=(-8, 0), ha="right", va="top")
        else:
            label(axes, 300, gaps[300], f"Adagrad {rate:g}", colour, xytext=(0, 9 if rate < 0.05 else -9), ha="right")
    axes.axhline(near, color=CURVE, lw=1.2, ls="--")
    label(axes, 1.05, near, "a millionth", MUTED, xytext=(0, 7))
    axes.set(xscale="log", yscale="log", xlim=(1, STEPS), ylim=(1e-10, 20), xlabel="step", ylabel="distance to √2")
    return drawn, facts


def regression(name: str, steps: int, lr: float) -> tuple[list[list[float]], list[float]]:
    """Weights and bias after each step, and the predictions, of a linear layer taught one example."""
    layer = torch.nn.Linear(3, 1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([WEIGHTS]))
        layer.bias.zero_()
    optimizer = thalweg.create(name, layer.parameters(), lr=lr)
    places, predictions = [], []
    for k in range(steps + 1):
        optimizer.zero_grad()
        prediction = layer(torch.tensor(INPUT, dtype=torch.float64))
        places.append([*layer.weight[0].tolist(), layer.bias.item()])
        predictions.append(prediction.item())
        if k < steps:
            (prediction - TARGET).square().sum().backward()
            optimizer.step()
    return places, predictions


@picture("linear_regression")
def linear_regression() -> tuple[Figure, Facts]:
    """A linear regression by Adagrad: every coefficient moves alike, and slower and slower."""
    steps = 10_000
    places, predictions = regression("adagrad", steps, 0.01)
    straight, by_sgd = regression("sgd", steps, 0.01)
    drawn = figure(
        10,
        4.4,
        "Adagrad moves all coefficients alike, whatever their slopes; SGD moves them 1 : 2 : 3 : 1",
        "One example, input (1, 2, 3), target 12; weights from 0.1, 0.2, 0.3, bias from 0; learning rate 0.01.",
    )
    course, ends = drawn.subplots(1, 2, width_ratios=(1.25, 1))
    course.axhline(TARGET, color=CURVE, lw=2.5)
    label(course, 1.2, TARGET, "target 12", INK, xytext=(0, 8))
    course.plot(range(1, steps + 1), predictions[1:], color=COLOURS["adagrad"])
    course.plot(range(1, steps + 1), by_sgd[1:], color=COLOURS["sgd"])
    label(course, 300, predictions[300], "Adagrad", COLOURS["adagrad"], xytext=(8, -4))
    label(course, 6, by_sgd[6], "SGD", COLOURS["sgd"], xytext=(-6, 4), ha="right")
    course.set(xscale="log", xlim=(1, steps), ylim=(0, 13.5), xlabel="step", ylabel="prediction")
    course.set_title("The prediction")
    begin = [*WEIGHTS, 0.0]
    moved = {"adagrad": [b - a for a, b in zip(begin, places[-1], strict=True)]}
    moved["sgd"] = [b - a for a, b in zip(begin, straight[-1], strict=True)]
    for shift, (name, values) in zip((-0.19, 0.19), moved.items(), strict=True):
        spots = [k + shift for k in range(4)]
        ends.bar(spots, values, width=0.36, color=COLOURS[name])
        for spot, value in zip(spots, values, strict=True):
            ends.text(spot, value, f"{value:.2f}", ha="center", va="bottom", size=8.5, color=COLOURS[name])
    ends.set_xticks(range(4), ["weight 1", "weight 2", "weight 3", "bias"])
    ends.set(ylabel=f"moved after {steps:,} steps", ylim=(0, 2.75))
    ends.grid(axis="x", visible=False)
    ends.set_title("How far each coefficient has moved")
    ends.text(-0.37, 2.6, "Adagrad", color=COLOURS["adagrad"], weight="bold")
    ends.text(0.45, 2.6, "SGD", color=COLOURS["sgd"], weight="bold")
    facts = {
        "Adagrad: prediction after 1, 100, 10,000 steps": ", ".join(f"{predictions[k]:.4f}" for k in (1, 100, steps)),
        "Adagrad: weights and bias at the end": ", ".join(f"{x:.4f}" for x in places[-1]),
        "Adagrad: each has moved by": f"{number(moved['adagrad'][0], 5)}",
        "SGD: within 0.01 of the target after": f"{first_within(by_sgd, TARGET, 0.01)} steps",
        "SGD: weights and bias have moved by": ", ".join(f"{x:.4f}" for x in moved["sgd"]),
    }
    return drawn, facts
