"""What the pictures share: one calm style, a colour for each optimizer, and how a picture is kept."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

Facts = dict[str, str]
"""What there is to know in numbers: its name and its value, as computed for the picture."""

INK, MUTED, CURVE, FAINT, PAPER = "#22262b", "#667079", "#c3c9ce", "#e6e9eb", "#ffffff"
#: Okabe and Ito's colours, told apart by colour-blind readers as well, and two greys.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GOLD = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b2182b",
    "#aa4499",
    "#4aa3df",
    "#b58900",
)
BROWN, GREY = "#7f5539", "#7a7f85"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, GOLD, SKY, RED, BROWN, GREY, INK)
#: The optimizers that several pictures show; each keeps its colour everywhere.
COLOURS = {
    "sgd": GREY,
    "momentum": BLUE,
    "adagrad": GREEN,
    "rmsprop": GOLD,
    "adam": ORANGE,
    "adamw": ORANGE,
    "adax": PURPLE,
    "adafactor": SKY,
    "newton": INK,
}
#: Pixels per inch; widths are in inches, so a picture is at most 1,000 pixels wide.
DPI = 100

RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "thalweg",
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


class Film(NamedTuple):
    """An animation: its frames, and how long each is shown in milliseconds."""

    frames: Sequence[Image.Image]
    milliseconds: Sequence[int]


@dataclass(frozen=True)
class Picture:
    """One picture of the gallery: what it shows in a line, and the function that computes and draws it."""

    name: str
    title: str
    draw: Callable[[], tuple[Figure | Film, Facts]]
    suffix: str


PICTURES: dict[str, Picture] = {}


def picture(name: str, suffix: str = "png") -> Callable[[Any], Any]:
    """Function decorator: add a picture to the gallery; its docstring's first line is the title in lists."""

    def add(draw: Any) -> Any:
        PICTURES[name] = Picture(name, (draw.__doc__ or name).splitlines()[0].rstrip("."), draw, suffix)
        return draw

    return add


def make(name: str, out: Path) -> tuple[Path, Facts]:
    """Compute and draw a picture, and write it to ``out``; its file and its numbers are returned.

    Where ``out`` holds the picture's page, ``NAME.md``, the page's table of numbers is brought up to date.

    Raises:
        KeyError: no picture has that name.
    """
    one = PICTURES[name]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.{one.suffix}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small problems run faster so, and to the last bit alike on any number of cores
    try:
        with mpl.rc_context(RC):
            drawn, facts = one.draw()
            pixels = drawn if isinstance(drawn, Film) else flattened(drawn)
    finally:
        torch.set_num_threads(threads)
    if isinstance(pixels, Film):
        first, *rest = pixels.frames
        first.save(path, save_all=True, append_images=rest, duration=list(pixels.milliseconds), loop=0, optimize=True)
    else:
        pixels.save(path, optimize=True)
    page = out / f"{name}.md"
    if page.exists():
        page.write_text(with_facts(page.read_text(), facts))
    return path, facts


def with_facts(page: str, facts: Facts) -> str:
    """A page with its table of numbers replaced; it stands between the heading "Numbers" and the next one."""
    table = "\n".join(["| what | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])
    return re.sub(r"(?<=\n## Numbers\n\n).*?(?=\n\n## )", lambda _: table, page, flags=re.DOTALL)


def figure(width: float, height: float, title: str, note: str) -> Figure:
    """A figure of that size in inches whose title states the finding; the note below it says what is drawn."""
    head = (0.62 + 0.2 * note.count("\n")) / height
    layout = ConstrainedLayoutEngine(rect=(0, 0, 1, 1 - head), w_pad=0.08, h_pad=0.08)
    made = Figure((width, height), dpi=DPI, layout=layout)
    FigureCanvasAgg(made)
    made.text(0.012, 1 - 0.1 / height, title, size=13, weight="bold", va="top")
    made.text(0.012, 1 - 0.36 / height, note, size=9.5, color=MUTED, va="top", linespacing=1.35)
    return made


def image(drawn: Figure) -> Image.Image:
    """The figure as pixels."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=DPI)
    return Image.open(buffer).convert("RGB")


def flattened(drawn: Figure, colours: int = 256) -> Image.Image:
    """The figure with a palette, a third of the size on disk and no different to the eye."""
    return image(drawn).quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def label(axes: Axes, x: float, y: float, words: str, colour: str, **place: Any) -> None:
    """Words beside a line, in its colour, in place of a legend."""
    given = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "ha": "left", "size": 9.5, **place}
    axes.annotate(words, (x, y), color=colour, annotation_clip=False, **given)


def plain(axes: Axes) -> None:
    """Without grid and ticks, for pictures within the picture."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])


def number(value: float, digits: int = 3) -> str:
    """A number for people: three significant digits, thousands with commas, small ones as powers of ten."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        text = f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"
        return text.replace("-", "−")
    return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
