"""Families of kernels: what parameters must have in common to share compiled code, whichever compiler makes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from thalweg.engine.record import Kind, Structure, record
from thalweg.recipe import Recipe


class NotCompiled(RuntimeError):
    """A graph that a compiler refused, or that would not fit every size; nothing has run."""


@dataclass(frozen=True)
class Key:
    """Everything that shapes a family of kernels; equal keys share compiled code, across optimizers too."""

    recipe: Recipe
    places: tuple[tuple[str, str], ...]
    structure: Structure
    count: int  # tensors that a recorded graph takes
    memory: tuple[Any, ...]  # device, dtypes, and for inductor which axes are of length one: what code is made for


@cache
def barriers(key: Key) -> list[list[Kind]]:
    """The barriers that kernels of this key stop at."""
    return record(key.recipe, list(key.places), key.structure, 1, None)[1]


#: Graphs compiled by this process so far.
compiled = 0


def count_one() -> None:
    """Note that one more graph has been compiled."""
    global compiled
    compiled += 1
