"""Hyper-parameters: what is legal, and how a parameter group presents its numbers to the slots.

A *reference* names one number of a group: ``"lr"``, or ``"betas.1"`` for the second entry of the tuple ``betas``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch


@dataclass(frozen=True)
class Hyper:
    """A number that a slot reads from its parameter group: its default and its legal range."""

    default: float | None
    low: float = 0.0
    high: float = math.inf
    open_low: bool = False
    open_high: bool = True

    @property
    def range(self) -> str:
        """The legal range in words, such as ``0 <= x < 1``."""
        left = f"{self.low:g} {'<' if self.open_low else '<='} " if self.low > -math.inf else ""
        right = f" {'<' if self.open_high else '<='} {self.high:g}" if self.high < math.inf else ""
        return f"{left}x{right}" if left or right else "any finite number"

    def check(self, name: str, value: Any) -> float | torch.Tensor | None:
        """Return ``value`` as a plain number (a one-element tensor stays one), or raise naming what is wrong."""
        if value is None and self.default is None:
            return None
        if isinstance(value, torch.Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name} must hold one number, got a tensor of shape {tuple(value.shape)}")
            number = float(value)
        elif isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number ({self.range}), got {value!r} of type {type(value).__name__}")
        else:
            number = float(value)
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        if not (math.isfinite(number) and above and below):
            raise ValueError(f"Invalid {name}: {number!r}; legal is a finite number with {self.range}")
        return value if isinstance(value, torch.Tensor) else number


BETA = Hyper(0.9, 0.0, 1.0)
RATE = Hyper(1e-3)
EPS = Hyper(1e-8)
DECAY = Hyper(0.0)
ANY = Hyper(0.0, -math.inf)


#: A number that a slot holds itself, or the reference of one in the parameter group.
Number = float | str


def referred(number: Number, hyper: Hyper) -> dict[str, Hyper]:
    """A slot's entry in ``hypers()`` for such a number: nothing where the slot holds it itself."""
    return {number: hyper} if isinstance(number, str) else {}


def value(h: Mapping[str, Any], number: Number) -> float:
    """The number itself, or what the group holds under its reference."""
    return h[number] if isinstance(number, str) else number


def check(name: str, number: Number, hyper: Hyper) -> None:
    """Raise if a number that the slot holds itself is not legal."""
    if not isinstance(number, str):
        hyper.check(name, number)


def join(references: Mapping[str, Hyper]) -> dict[str, Any]:
    """Group-shaped defaults: ``{"betas.0": .9, "betas.1": .99}`` becomes ``{"betas": (.9, .99)}``.

    An entry that nothing reads (a recipe without a first moment reads only betas.1) stands as 0.
    """
    joined: dict[str, Any] = {}
    for reference, hyper in sorted(references.items()):
        name, _, index = reference.partition(".")
        if not index:
            joined[name] = hyper.default
            continue
        before = joined.get(name, ())
        joined[name] = (*before, *[0.0] * (int(index) - len(before)), hyper.default)
    return joined


def validate(group: Mapping[str, Any], references: Mapping[str, Hyper]) -> dict[str, Any]:
    """The values of ``references`` in ``group``, checked; tuples are checked entry by entry."""
    checked: dict[str, Any] = {}
    for name, default in join(references).items():
        value = group[name]
        if not isinstance(default, tuple):
            checked[name] = references[name].check(name, value)
            continue
        if not isinstance(value, (tuple, list)) or not len(default) <= len(value) <= max(len(default), 2):
            raise ValueError(f"Invalid {name}: {value!r}; legal is a tuple of {len(default)} numbers")
        checked[name] = tuple(
            references.get(f"{name}.{i}", ANY).check(f"{name}[{i}]", entry) for i, entry in enumerate(value)
        )
    return checked


def flatten(group: Mapping[str, Any]) -> dict[str, Any]:
    """One number per reference, as slots read them: tensors become floats, tuples become ``name.0, name.1``."""
    return {
        name: float(x) if isinstance(x, torch.Tensor) and x.numel() == 1 else x for name, x in spread(group).items()
    }


def spread(group: Mapping[str, Any]) -> dict[str, Any]:
    """The same with tensors as they are."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, (tuple, list)) and name != "params":
            flat |= {f"{name}.{i}": entry for i, entry in enumerate(value)}
        else:
            flat[name] = value
    return flat


def suggest(name: str, legal: Iterable[str]) -> str:
    """The tail of an error message: the nearest legal names, and all of them."""
    legal = sorted(legal)
    close = difflib.get_close_matches(name, legal, n=2)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} Legal here: {', '.join(legal)}."
