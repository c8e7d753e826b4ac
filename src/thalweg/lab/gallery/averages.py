"""Running averages: what they remember, what bias correction mends, and how the memories of optimizers grow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

import thalweg
from thalweg.hyper import flatten
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
from thalweg.recipe import Recipe
from thalweg.slots.average import Average
from thalweg.slots.law import Debiased, Law, Plain

BETAS = (0.8, 0.9, 0.95, 0.98)
PALETTE = dict(zip(BETAS, (GREEN, BLUE, ORANGE, PURPLE), strict=True))


def averaged(values: Sequence[float], law: Law, beta: float) -> list[float]:
    """What an optimizer's first moment reads after each of these gradients: its steps at learning rate 1."""
    p = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    optimizer = thalweg.Optimizer([p], Recipe(first=Average("exp_avg", law)), lr=1.0, betas=(beta,), engine="reference")
    read = []
    for value in values:
        before = p.item()
        p.grad = torch.tensor(value, dtype=torch.float64)
        optimizer.step()
        read.append(before - p.item())
    return read


def memory(beta: float, steps: int) -> list[float]:
    """The weight that a value has in the average 0, 1, ... steps later: the answer to a single 1."""
    return averaged([1.0] + [0.0] * (steps - 1), Plain(), beta)


@picture("averages")
def averages() -> tuple[Figure, Facts]:
    """Exponential averages for beta 0.8 to 0.98: what they follow, forget, and get wrong at the start."""
    chance = torch.Generator().manual_seed(3)
    t = torch.arange(160, dtype=torch.float64)
    signal = (2 + torch.sin(t / 25) + 0.7 * torch.randn(len(t), generator=chance, dtype=torch.float64)).tolist()
    drawn = figure(
        10,
        6.4,
        "A longer memory is smoother and later; without correction it also starts from zero",
        "Exponential averages m ← β·m + (1−β)·g, as an optimizer's first moment reads them.",
    )
    panels = drawn.subplot_mosaic([["signal", "signal"], ["start", "memory"]])
    panels["signal"].plot(signal, "o", ms=2.5, color=CURVE)
    for beta in BETAS:
        line = averaged(signal, Debiased(), beta)
        panels["signal"].plot(line, color=PALETTE[beta], lw=1.6)
    label(panels["signal"], 110, max(signal), "dots: the values", MUTED, va="top")
    panels["signal"].set_title("What is averaged, and its averages with bias correction")
    panels["signal"].set(xlabel="step", ylabel="value", xlim=(0, len(signal)))

    constant = [1.0] * 60
    panels["start"].axhline(1, color=CURVE, lw=2.5)
    facts: Facts = {}
    for beta in BETAS:
        raw = averaged(constant, Plain(), beta)
        panels["start"].plot(range(1, 61), raw, color=PALETTE[beta])
        level = 0.86 - 0.12 * BETAS.index(beta)  # each label on a line of its own
        middle = next((k for k, value in enumerate(raw) if value >= level - 0.05))
        label(panels["start"], middle + 1, level - 0.08, f"β = {beta}", PALETTE[beta], xytext=(7, 0))
        facts[f"beta {beta}: first read without correction, of a constant 1"] = number(raw[0])
    corrected = averaged(constant, Debiased(), max(BETAS))
    facts[f"beta {max(BETAS)}: the same with correction"] = number(corrected[0])
    label(panels["start"], 22, 1.0, "corrected: 1 from the first step on", MUTED, xytext=(0, 8))
    panels["start"].set_title("A constant 1, averaged without correction")
    panels["start"].set(xlabel="step", ylabel="average", xlim=(0, 60), ylim=(0, 1.14))

    for beta, (x, y) in zip(BETAS, ((2.2, 0.155), (7.5, 0.062), (17, 0.031), (40, 0.0175)), strict=True):
        weights = memory(beta, 120)
        panels["memory"].plot(weights, color=PALETTE[beta])
        half = next(k for k, w in enumerate(weights) if w <= weights[0] / 2)
        panels["memory"].plot([half], [weights[half]], "o", ms=6, color=PALETTE[beta])
        label(panels["memory"], x, y, f"β = {beta}: half after {half}", PALETTE[beta])
        facts[f"beta {beta}: newest value's weight"] = number(weights[0])
        facts[f"beta {beta}: window, 1/(1−β)"] = f"{1 / weights[0]:.0f} steps"
        facts[f"beta {beta}: half forgotten after"] = f"{half} steps (exactly {math.log(0.5) / math.log(beta):.1f})"
        facts[f"beta {beta}: share of the last 100 values"] = f"{sum(weights[:100]):.4f}"
    panels["memory"].set_title("How much a value still counts")
    panels["memory"].set(xlabel="steps ago", ylabel="weight", xlim=(-1, 100), ylim=(0, 0.21))
    return drawn, facts


def beta_hat(name: str, steps: Sequence[int], **given: float) -> list[float]:
    """The decay rate at each step t of v̂_t = β̂·v̂_(t−1) + (1−β̂)·g², from the law of an optimizer's second moment."""
    law = thalweg.get(name).recipe.second.law  # type: ignore[union-attr]
    h = {reference: hyper.default for reference, hyper in law.hypers().items()} | flatten(given)

    def read(t: int) -> tuple[float, float]:
        weights = law.weights(h, t, {})
        return weights.keep, weights.fix

    return [read(t)[0] * read(t)[1] / read(t - 1)[1] if t > 1 else 0.0 for t in steps]


@picture("beta_hat")
def beta_hats() -> tuple[Figure, Facts]:
    """Decay rates of the second moment in Adam, AdaX and Adafactor: where memory ends and where it grows."""
    steps = sorted({round(10 ** (k / 40)) for k in range(241)})
    lines = {
        "Adam": (COLOURS["adam"], "-", beta_hat("adam", steps)),
        "AdaX": (COLOURS["adax"], "--", beta_hat("adax", steps)),
        "Adafactor": (COLOURS["adafactor"], "-", beta_hat("adafactor", steps)),
    }
    drawn = figure(
        10,
        4.4,
        "Adam's memory stops at 1,000 steps, Adafactor's and AdaX's grow for ever",
        "The decay rate of v̂ ← β̂·v̂ + (1−β̂)·g² with bias correction inside: Adam β₂ = 0.999, AdaX β₂ = 0.0001, "
        r"Adafactor $1 - t^{-0.8}$.",
    )
    rate, window = drawn.subplots(1, 2)
    early = steps.index(100) + 1
    for name, (colour, style, values) in lines.items():
        rate.plot(steps[:early], values[:early], style, color=colour)
        windows = [(t, 1 / (1 - v)) for t, v in zip(steps, values, strict=True) if 1 - v > 1e-7]
        window.plot(*zip(*windows, strict=True), style, color=colour)
        label(window, *windows[-1], name, colour, xytext=(-8, -4) if name == "AdaX" else (-4, 9), ha="right")
    label(rate, 14, 0.93, "Adam, AdaX (dashed)", INK, xytext=(0, 9), ha="right")
    label(rate, 14, lines["Adafactor"][2][steps.index(14)], "Adafactor", COLOURS["adafactor"], xytext=(4, -9))
    whole = FuncFormatter(lambda value, _: f"{value:,.0f}")
    rate.set(xscale="log", xlabel="step t", ylabel="decay rate β̂", xlim=(1, 100), ylim=(0, 1.08))
    rate.set_title("The first 100 steps: nearly plain averages")
    window.set(xscale="log", yscale="log", xlabel="step t", ylabel="memory 1/(1−β̂), in steps", xlim=(1, 1e6))
    window.set_title("How far back they look")
    window.set_ylim(0.8, 1e8)
    for axis in (rate.xaxis, window.xaxis, window.yaxis):
        axis.set_major_formatter(whole)
        axis.set_tick_params(labelsize=8)
    facts = {}
    for t in (1, 2, 10, 100, 1000, 10_000, 100_000):
        for name, key in (("Adam", "adam"), ("AdaX", "adax"), ("Adafactor", "adafactor")):
            facts[f"{name}: β̂ at step {t:,}"] = f"{beta_hat(key, [t])[0]:.6f}"
    return drawn, facts
