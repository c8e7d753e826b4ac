"""Who races: an optimizer's name with the hyper-parameters that are held fixed."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import thalweg
from thalweg.lab.errors import LabError, unknown

DEFAULT = (
    "sgd:momentum=0.9",
    "adam",
    "adamw",
    "nadam",
    "radam",
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

    @property
    def label(self) -> str:
        """How the contender is written in tables, and told apart in the results."""
        if not self.hyper:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value}' for key, value in self.hyper)})"

    def as_dict(self) -> dict[str, Any]:
        """For the configuration that a resumed race is checked against."""
        return {"label": self.label, "name": self.name, "hyper": dict(self.hyper), "lr": self.lr}


def find_entry(name: str) -> Any:
    """The registry's entry of a name or alias; `LabError` names the closest ones where there is none."""
    try:
        return thalweg.get(name)
    except KeyError:
        raise unknown("optimizer", name, thalweg.list_optimizers()) from None


def parse_contender(text: str) -> Contender:
    """Read ``name`` or ``name:key=value:key=value``; an `lr` given here moves the centre of the grid."""
    name, *pairs = text.strip().split(":")
    entry = find_entry(name)
    name, defaults = entry.name, entry.defaults
    hyper: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise LabError(f"write a hyper-parameter as {name}:key=value, not {pair!r}")
        if key not in defaults:
            raise unknown(f"hyper-parameter of {name}", key, defaults)
        try:
            hyper[key] = ast.literal_eval(value)
        except (SyntaxError, ValueError):
            hyper[key] = {"true": True, "false": False}.get(value.lower(), value)
    lr = hyper.pop("lr", defaults.get("lr"))
    if lr is not None and not (isinstance(lr, (int, float)) and lr > 0):
        raise LabError(f"the learning rate of {name} must be a number above 0, not {lr!r}")
    return Contender(name, tuple(sorted(hyper.items())), None if lr is None else float(lr))


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
