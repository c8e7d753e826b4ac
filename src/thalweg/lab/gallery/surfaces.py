"""Every optimizer on three surfaces: a curved valley, a saddle and a ravine. Animated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import thalweg
from thalweg.lab.gallery.style import CURVE, CYCLE, FAINT, INK, MUTED, Facts, Film, figure, image, number, picture

#: The optimizers by what is new in them; the place in its row gives each its colour.
FAMILIES = {
    "One rate for all": "sgd sgds asgd dog ldog larc lars nsgda",
    "Sums and means of squares": "rmsprop adagrad adadelta rmspropv2 amos rprop",
    "Adam and its decays": "adam adamw adams adamax adamcpr adamw2 adama sparseadam",
    "Adam's first moment": "nadam pnm adapnm ademamix am_msgd am_adamw adamnorm diffgrad diffgradnorm",
    "Adam's second moment": "adax adabelief adabeliefnorm adamomentum adopt sadam adam_atan2 mars",
    "Small state": "adafactor adafactor_bv adafactor_torch adammini sm3 smmf lion soap",
    "Warm-up and steadiness": "radam radamnorm adamwarmup stableadamw lamb adagl fcgd",
    "Without a tuned rate": "prodigy dadapt_adam momo momo_adam adalo "
    "schedulefree_sgd schedulefree_adamw schedulefree_radam",
}
#: Those that a point on a plane says nothing about, and why.
LEFT_OUT = {"muon": "it needs matrices; a point on the plane would be stepped by AdamW"}
FRAMES = 36
SMALLEST = -12
Place = tuple[float, float]
Rows = dict[str, list[tuple[str, list[Place], float]]]


@dataclass(frozen=True)
class Surface:
    """A function of the plane, where to begin, what to look at and how many steps to take."""

    title: str
    height: Callable[[Tensor, Tensor], Tensor]
    start: Place
    window: tuple[float, float, float, float]
    goal: Place | None
    steps: int
    note: str


SURFACES = {
    "valley": Surface(
        "in a valley",
        lambda x, y: (1 - x).square() + 100 * (y - x.square()).square(),
        (-1.2, 1.0),
        (-1.7, 1.6, -0.6, 1.9),
        (1.0, 1.0),
        150,
        "Rosenbrock's valley (1 − x)² + 100·(y − x²)²: down its walls is easy, along its floor is the work.",
    ),
    "saddle": Surface(
        "at a saddle",
        lambda x, y: (x.square() - 1).square() / 4 + y.square() / 2 + 0.02 * y,
        (0.01, 1.5),
        (-1.7, 1.7, -1.0, 1.8),
        (1.0, -0.02),
        60,
        "A saddle at the origin, (x² − 1)²/4 + y²/2 + y/50, met nearly straight on: x begins at 0.01.",
    ),
    "ravine": Surface(
        "in a ravine",
        lambda x, y: (x + y).square() / 100 + (x - y).square(),
        (-2.2, -1.2),
        (-2.6, 1.2, -2.4, 1.4),
        (0.0, 0.0),
        60,
        "A ravine at 45 degrees, a hundred times steeper across than along: (x − y)² + (x + y)²/100.",
    ),
}


def path(name: str, surface: Surface, lr: float | None) -> list[Place]:
    """Where an optimizer is at first and after each step; it ends early where the numbers do."""
    p = torch.nn.Parameter(torch.tensor(surface.start))
    given = {} if lr is None else {"lr": lr}
    optimizer = thalweg.create(name, [("point", p)], engine="reference", **given)
    places = [surface.start]
    for _ in range(surface.steps):
        optimizer.zero_grad()
        loss = surface.height(*p)
        loss.backward()
        optimizer.step(loss=loss.detach())
        place = (p[0].item(), p[1].item())
        if not all(math.isfinite(c) and abs(c) < 1e6 for c in place):
            break
        places.append(place)
    return places


def height(surface: Surface, place: Place) -> float:
    """The surface's height at a place."""
    return surface.height(*torch.tensor(place, dtype=torch.float64)).item()


@cache
def best(name: str, which: str) -> tuple[list[Place], float]:
    """The path at the best learning rate, and how high it ends.

    The rate is searched by factors of √10, from 0.1 on, until neither neighbour ends lower. An optimizer that has no
    learning rate runs as it is.
    """
    surface = SURFACES[which]
    if thalweg.get(name).defaults.get("lr") is None:
        places = path(name, surface, None)
        return places, height(surface, places[-1])

    @cache
    def at(k: int) -> tuple[float, list[Place]]:
        places = path(name, surface, 10 ** (k / 2))
        return (height(surface, places[-1]) if len(places) > surface.steps else math.inf), places

    here = -2
    while (lowest := min((here, here - 1, here + 1), key=lambda k: at(k)[0])) != here or math.isinf(at(here)[0]):
        here = lowest if lowest != here else here - 1
        if here < SMALLEST:
            raise ArithmeticError(f"{name} leaves the {which} at every learning rate down to {10 ** (here / 2):.0e}")
    low, places = at(here)
    return places, low


def families() -> dict[str, list[str]]:
    """The families with their members; an optimizer of the library that none of them has is an error."""
    found = {title: members.split() for title, members in FAMILIES.items()}
    everything = map(thalweg.get, thalweg.list_optimizers())
    own = {entry.name for entry in everything if entry.cls.__module__.startswith("thalweg.optimizers.")}
    missing = own - {m for row in found.values() for m in row} - LEFT_OUT.keys()
    if missing:
        raise LookupError(f"no family of the gallery's surfaces has {sorted(missing)}; add them to FAMILIES")
    return found


def film(which: str) -> tuple[Film, Facts]:
    """The paths of all families over one surface, step by step."""
    surface = SURFACES[which]
    rows = {title: [(name, *best(name, which)) for name in members] for title, members in families().items()}
    everyone = sorted((low, name) for row in rows.values() for name, _, low in row)
    facts = {"optimizers shown": str(len(everyone)), "steps": str(surface.steps)}
    facts["height at the start"] = number(height(surface, surface.start))
    lowest, leader = everyone[0]
    facts["lowest after all steps"] = f"{leader}, at height {number(lowest)}"
    for near in (1e-6, 1e-3, 0.1):
        within = sum(low - lowest < near for low, _ in everyone)
        facts[f"optimizers that end within {near:g} of it"] = str(within)
    facts["median height after all steps"] = number(everyone[len(everyone) // 2][0])
    frames = [_frame(surface, rows, round(surface.steps * (k / FRAMES) ** 1.6)) for k in range(FRAMES + 1)]
    palette = frames[-1].quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    quantized = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    return Film(quantized, [900] + [110] * (FRAMES - 1) + [3500]), facts


def _frame(surface: Surface, rows: Rows, now: int) -> Image.Image:
    drawn: Figure = figure(
        9.6,
        6.1,
        f"{sum(map(len, rows.values()))} optimizers {surface.title}, each at its best learning rate",
        f"{surface.note}\nNames in the order of how low they end. Step {now} of {surface.steps}.",
    )
    left, right, low, high = surface.window
    x, y = torch.meshgrid(torch.linspace(left, right, 160), torch.linspace(low, high, 160), indexing="xy")
    z = surface.height(x, y)
    levels = torch.quantile(z.flatten(), torch.linspace(0.02, 0.95, 11)).unique().tolist()
    for axes, (title, row) in zip(drawn.subplots(2, 4).flat, rows.items(), strict=True):
        axes.contour(x, y, z, levels=levels, colors=FAINT, linewidths=0.9)
        axes.set_title(title, size=8.5, weight="bold")
        for k, (_, places, _) in enumerate(row):
            until = places[: now + 1]
            axes.plot(*zip(*until, strict=True), color=CYCLE[k], lw=1.1, solid_joinstyle="round")
            axes.plot(*until[-1], "o", color=CYCLE[k], ms=4, mec="white", mew=0.5, zorder=4)
        if surface.goal:
            axes.plot(*surface.goal, "*", color=INK, ms=9, mec="white", mew=0.6, zorder=5)
        axes.set(xlim=(left, right), ylim=(low, high), xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_color(CURVE)
        order = sorted(range(len(row)), key=lambda k: row[k][2])
        for place, k in enumerate(order):
            column, line = place % 2, place // 2
            axes.text(
                0.01 + 0.5 * column,
                -0.03 - 0.085 * line,
                row[k][0],
                transform=axes.transAxes,
                size=7,
                color=CYCLE[k],
                va="top",
            )
        axes.text(0, -0.03 - 0.085 * 5, " ", transform=axes.transAxes, size=7, va="top", color=MUTED)
    return image(drawn)


@picture("trajectories_valley", "gif")
def valley() -> tuple[Film, Facts]:
    """All optimizers in Rosenbrock's curved valley, animated."""
    return film("valley")


@picture("trajectories_saddle", "gif")
def saddle() -> tuple[Film, Facts]:
    """All optimizers at a saddle that they meet nearly straight on, animated."""
    return film("saddle")


@picture("trajectories_ravine", "gif")
def ravine() -> tuple[Film, Facts]:
    """All optimizers in a ravine that lies across the axes, animated."""
    return film("ravine")
