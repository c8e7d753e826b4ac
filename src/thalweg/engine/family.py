"""Families of kernels: what parameters must have in common to share compiled code, whichever compiler makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from thalweg.engine import functions
from thalweg.engine.record import Graph, Kind, Structure, record
from thalweg.recipe import Recipe


class Unsupported(Exception):
    """A graph with something that a writer of kernels has no text for; another compiler may have it."""


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


def graphs(key: Key) -> tuple[int | None, ...]:
    """The graphs of a family: those of its barriers in their order, and the update's."""
    return (*range(len(barriers(key))), None)


def recorded(key: Key, barrier: int | None) -> tuple[Graph, list[Kind], int]:
    """The graph of a barrier or of the update for kernels of our own, what it is asked, and how many numbers it has."""
    graph = record(key.recipe, list(key.places), key.structure, 1, barrier)[0]
    if key.memory[1] != torch.float64:
        functions.expand(graph.module.graph)
    return graph, [] if barrier is None else barriers(key)[barrier], len(key.places) + key.structure.layout.seeded


def tensors(key: Key) -> list[tuple[tuple[str, ...], torch.dtype]]:
    """The tensors of each parameter, in the order of their pointers: a short key of each, and its dtype."""
    _, param, grad, *state = key.memory
    roles = zip(key.structure.layout.roles, state, strict=True)
    return [(("param",), param), (("grad",), grad), *((("state", role), dtype) for role, dtype in roles)]


def writable(key: Key, source: Callable[[Key, int | None], Any]) -> bool:
    """Whether a writer has text for all of a family's graphs."""
    try:
        for barrier in graphs(key):
            source(key, barrier)
    except Unsupported:
        return False
    return True


#: Graphs compiled by this process so far.
compiled = 0


def count_one() -> None:
    """Note that one more graph has been compiled."""
    global compiled
    compiled += 1
