"""Who races: an optimizer's name with the hyper-parameters that are held fixed."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import thalweg
from thalweg.lab.errors import LabError, unknown

DEFAULT = (
    "sgd:momentum=0.9",
    "adamw",
    "adam",
    "nadam",
    "radam",
    "adabelief",
    "ademamix",
    "lion",
    "lamb",
    "adafactor",
    "muon",
    "schedulefree_adamw",
)


@dataclass(frozen=True)
class Contender:
    """One line of the ranking."""

    name: str
    hyper: tuple[tuple[str, Any], ...] = ()
    lr: float | None = None
    """The centre of the learning-rate grid; None where the optimizer sets its own rate and has no grid."""
    decay: float | None = None
    """The default weight decay; None where the optimizer has none, or where it is held fixed in `hyper`."""

    @property
    def label(self) -> str:
        """How the contender is written in tables, and told apart in the results."""
        if not self.hyper:
            return self.name
        words = (f"{key}={'+'.join(value) if key == 'techniques' else value}" for key, value in self.hyper)
        return f"{self.name}({', '.join(words)})"

    @property
    def baseline(self) -> bool:
        """Whether this is SGD with momentum or AdamW, which are tuned at least as much as every other contender."""
        return self.name == "adamw" or (self.name == "sgd" and dict(self.hyper).get("momentum", 0) > 0)

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """What hyper-parameters are before any search, by name; ``betas.0`` is the first of ``betas``."""
        known = {**thalweg.get(self.name).defaults, **dict(self.hyper), "lr": self.lr, "weight_decay": self.decay}
        found = {}
        for name in names:
            base, dot, index = name.partition(".")
            found[name] = known[base][int(index)] if dot else known.get(base)
        return {name: value for name, value in found.items() if value is not None}

    def distance(self, point: Iterable[tuple[str, Any]]) -> float:
        """How far a configuration is from the default: decades of learning rate, and 0.1 for another decay."""
        at = dict(point)
        decades = abs(math.log10(at["lr"] / self.lr)) if self.lr and at.get("lr") else 0.0
        return round(decades, 2) + 0.1 * (at.get("weight_decay", self.decay) != self.decay)

    def as_dict(self) -> dict[str, Any]:
        """For the configuration that a resumed race is checked against."""
        return {"label": self.label, "name": self.name, "hyper": dict(self.hyper), "lr": self.lr, "decay": self.decay}


def find_entry(name: str) -> Any:
    """The registry's entry of a name or alias; `LabError` names the closest ones where there is none."""
    try:
        return thalweg.get(name)
    except KeyError:
        raise unknown("optimizer", name, thalweg.list_optimizers()) from None


#: Options of every optimizer that a contender may have as well.
SHARED = ("state", "rounding", "techniques")


def parse_contender(text: str) -> Contender:
    """Read ``name`` or ``name:key=value:key=value``; several techniques are joined by a plus.

    An `lr` given here moves the centre of the grid; a `weight_decay` given here is held fixed and not searched.
    """
    name, *pairs = text.strip().split(":")
    entry = find_entry(name)
    name, defaults = entry.name, entry.defaults
    hyper: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise LabError(f"write a hyper-parameter as {name}:key=value, not {pair!r}")
        if key not in defaults and key not in SHARED:
            raise unknown(f"hyper-parameter of {name}", key, [*defaults, *SHARED])
        hyper[key] = tuple(value.split("+")) if key == "techniques" else parse_value(value)
    lr = hyper.pop("lr", defaults.get("lr"))
    if lr is not None and not (isinstance(lr, (int, float)) and lr > 0):
        raise LabError(f"the learning rate of {name} must be a number above 0, not {lr!r}")
    decay = None if "weight_decay" in hyper else defaults.get("weight_decay")
    return Contender(
        name,
        tuple(sorted(hyper.items())),
        None if lr is None else float(lr),
        None if decay is None else float(decay),
    )


def parse_value(text: str) -> Any:
    """A hyper-parameter's value: Python's literals, true and false in any case, and words as they are."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return {"true": True, "false": False}.get(text.lower(), text)


def parse_contenders(texts: Iterable[str]) -> tuple[Contender, ...]:
    """Read a list, refusing the same contender twice (their runs could not be told apart)."""
    contenders = tuple(parse_contender(text) for text in texts if text.strip())
    labels = [contender.label for contender in contenders]
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise LabError(f"named more than once: {', '.join(repeated)}")
    if not contenders:
        raise LabError("no optimizer named; `thalweg list` shows them")
    return contenders
