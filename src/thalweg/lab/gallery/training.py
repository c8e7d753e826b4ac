"""Training on the digits: warm-up and its absence, histograms with and without a long tail, the latent map."""

from __future__ import annotations

from itertools import islice

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import thalweg
from thalweg.lab.gallery.style import (
    BLUE,
    CYCLE,
    GREEN,
    MUTED,
    ORANGE,
    Facts,
    figure,
    label,
    number,
    picture,
)
from thalweg.lab.tasks.base import Task
from thalweg.lab.tasks.digits import build_mlp, build_tail, load_splits
from thalweg.lab.tasks.supervised import Supervised, classification
from thalweg.lab.tasks.vae import Autoencoding, build_vae
from thalweg.schedules import Constant, Schedule, UntunedLinear

WIDTH, DEPTH, RATE, STEPS, WARM, SEEDS = 64, 3, 0.1, 150, 80, 3
SETTLED = 100
"""Steps of training before the histograms are taken."""


class Block(nn.Module):
    """Two layers added to their input, with the norm after the sum, as in the first transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.inner(x))


def network() -> nn.Module:
    """A few such blocks on the pixels of a digit."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH), *[Block() for _ in range(DEPTH)], nn.Linear(WIDTH, 10))


def losses(plan: Schedule, seed: int) -> list[float]:
    """The training loss at every step under Adam with this schedule."""
    attempt = Supervised(seed, load_splits(), network, classification, 64)
    optimizer = thalweg.Adam(attempt.model.parameters(), lr=RATE)
    scheduler = plan.attach(optimizer)
    found = []
    for batch in islice(attempt.batches(), STEPS):
        optimizer.zero_grad()
        loss = attempt.loss(batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
        found.append(loss.item())
    return found


@picture("warmup")
def warmup() -> tuple[Figure, Facts]:
    """Warm-up and its absence: a deep network under Adam at a high learning rate."""
    plans = {
        "no warm-up": (Constant(), ORANGE),
        f"{WARM} steps of linear warm-up": (Constant().warmup(WARM), BLUE),
        "untuned linear warm-up": (UntunedLinear(0.999), GREEN),
    }
    runs = {name: [losses(plan, seed) for seed in range(SEEDS)] for name, (plan, _) in plans.items()}
    drawn = figure(
        9,
        5.6,
        "Without warm-up Adam breaks this network at once; with it, the same rate trains",
        f"Adam at learning rate {RATE:g} on {DEPTH} residual blocks with the norm after the sum, handwritten digits; "
        f"{SEEDS} seeds each.\nLoss averaged over the last 5 steps; 2.30 is what guessing costs.",
    )
    course, rate = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    facts = {}
    for name, (plan, colour) in plans.items():
        for values in runs[name]:
            smooth = torch.tensor(values).unfold(0, 5, 1).mean(1).tolist()
            course.plot(range(4, STEPS), smooth, color=colour, lw=1.3)
        rate.plot([RATE * f for f in plan.values(STEPS)], color=colour)
        ends = sorted(sum(values[-20:]) / 20 for values in runs[name])
        facts[f"{name}: mean loss of the last 20 steps, by seed"] = ", ".join(f"{end:.3f}" for end in ends)
        facts[f"{name}: largest loss of a step, by seed"] = ", ".join(f"{max(v):.1f}" for v in runs[name])
    for name, (x, y) in zip(plans, ((60, 2.62), (38, 1.4), (100, 0.72)), strict=True):
        label(course, x, y, name, plans[name][1])
    course.set(ylabel="training loss, nats", ylim=(0, 6))
    rate.set(xlabel="step", ylabel="learning rate", xlim=(0, STEPS))
    return drawn, facts


def numbers(task: Task) -> tuple[Tensor, Tensor]:
    """All parameters after some training with Adam, and the gradients of the next ten batches."""
    attempt = task.build(0)
    optimizer = thalweg.Adam(attempt.model.parameters(), lr=3e-3)
    gradients = []
    for k, batch in enumerate(islice(attempt.batches(), SETTLED + 10)):
        optimizer.zero_grad()
        attempt.loss(batch).backward()
        if k < SETTLED:
            optimizer.step()
        else:
            gradients += [p.grad.flatten() for p in attempt.model.parameters() if p.grad is not None]
    return nn.utils.parameters_to_vector(attempt.model.parameters()).detach(), torch.cat(gradients)


def tail(values: Tensor) -> tuple[float, float]:
    """Two measures of a tail: excess kurtosis (0 for a normal distribution), and the largest in standard deviations."""
    spread = values.double() - values.double().mean()
    return ((spread**4).mean() / spread.square().mean() ** 2 - 3).item(), (spread.abs().max() / spread.std()).item()


@picture("histograms")
def histograms() -> tuple[Figure, Facts]:
    """Histograms of parameters and gradients, on balanced classes and on a long tail of rare ones."""
    drawn = figure(
        10,
        6,
        "Parameters have no tails to speak of, gradients have long ones, and rare classes lengthen them",
        f"A perceptron on handwritten digits after {SETTLED} steps of Adam; gradients of ten batches. "
        "Grey: a normal distribution of the same spread.",
    )
    facts: Facts = {}
    panels = drawn.subplots(2, 2)
    kinds = (("parameters", BLUE), ("gradients", ORANGE))
    for row, (task, words) in zip(
        panels, ((build_mlp(), "balanced classes"), (build_tail(), "classes up to 100 times rarer")), strict=True
    ):
        for axes, (kind, colour), values in zip(row, kinds, numbers(task), strict=True):
            units = ((values - values.mean()) / values.std()).double()
            kurtosis, largest = tail(values)
            reach = 6 if kind == "parameters" else 50
            edges = torch.linspace(-reach, reach, 121, dtype=torch.float64)
            counts = torch.histc(units, 120, -reach, reach) / len(units)
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.85)
            middle = (edges[1:] + edges[:-1]) / 2
            normal = torch.distributions.Normal(0.0, 1.0)
            axes.plot(middle, normal.cdf(edges[1:]) - normal.cdf(edges[:-1]), color=MUTED, lw=1.5)
            axes.set(yscale="log", ylim=(2e-6, 1.5), xlim=(-reach, reach))
            axes.set_title(f"{kind}, {words}")
            axes.text(
                0.98,
                0.95,
                f"excess kurtosis {number(kurtosis)}\nlargest: {largest:.0f} standard deviations",
                transform=axes.transAxes,
                ha="right",
                va="top",
                size=9,
            )
            facts[f"{kind}, {words}: excess kurtosis"] = number(kurtosis)
            facts[f"{kind}, {words}: largest, in standard deviations"] = f"{largest:.1f}"
            axes.set_xlabel("standard deviations from the mean")
    for axes in panels[:, 0]:
        axes.set_ylabel("share in a bin")
    return drawn, facts


def trained_autoencoder(steps: int | None = None) -> Autoencoding:
    """The task ``vae``'s autoencoder after its budget of steps with Adam."""
    task = build_vae()
    attempt = Autoencoding(0)
    optimizer = thalweg.Adam(attempt.model.parameters(), lr=3e-3)
    for batch in islice(attempt.batches(), 3 * task.steps if steps is None else steps):
        optimizer.zero_grad()
        attempt.loss(batch).backward()
        optimizer.step()
    return attempt


@picture("latent_map")
def latent_map() -> tuple[Figure, Facts]:
    """The latent map of a variational autoencoder: where the digits lie on the plane, and what lies between them."""
    attempt = trained_autoencoder()
    places, digits = attempt.latents("test")
    drawn = figure(
        10,
        5.5,
        "Two numbers a digit: alike digits lie side by side, and between them lie digits that no one wrote",
        "A variational autoencoder trained with Adam on images without labels. Left: where it puts test images. "
        "Right: what it draws at each place.",
    )
    scatter, drawn_digits = drawn.subplots(1, 2)
    for digit in range(10):
        here = places[digits == digit]
        scatter.plot(*here.T, "o", ms=4, color=CYCLE[digit], alpha=0.75, mec="white", mew=0.3)
        middle = here.median(0).values
        scatter.text(
            *middle.tolist(),
            str(digit),
            size=15,
            weight="bold",
            ha="center",
            va="center",
            color=CYCLE[digit],
            bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": CYCLE[digit], "alpha": 0.9},
        )
    reach, side = 2.2, 13
    scatter.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    scatter.set(xlabel="first latent number", ylabel="second latent number")
    axis = torch.linspace(-reach, reach, side + 1)
    axis = (axis[1:] + axis[:-1]) / 2
    with torch.no_grad():
        images = attempt.model.decode(torch.cartesian_prod(axis, axis)).view(side, side, 8, 8)
        bound = attempt.evaluate("test")["loss"]
    sheet = _sheet(images)
    drawn_digits.imshow(sheet, cmap="Greys", extent=(-reach, reach, -reach, reach), interpolation="nearest")
    drawn_digits.set(xlabel="first latent number", ylabel="second latent number")
    drawn_digits.grid(False)
    near = torch.cdist(places, places).fill_diagonal_(torch.inf).topk(5, largest=False).indices
    agree = (digits[near].mode(1).values == digits).float().mean().item()
    facts = {
        "numbers that describe an image of 64 pixels": str(places.shape[1]),
        "test images shown": str(len(places)),
        "negative evidence lower bound on test images": f"{bound:.1f} nats an image",
        "test images whose five nearest on the map are mostly of their digit": f"{agree:.0%}",
    }
    return drawn, facts


def _sheet(images: Tensor) -> Tensor:
    """Images by (x, y) as one image, y upwards, with a gap between them."""
    images = nn.functional.pad(images, (1, 1, 1, 1))
    across, up, height, width = images.shape
    return images.flip(1).permute(1, 2, 0, 3).reshape(up * height, across * width)
