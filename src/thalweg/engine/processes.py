"""What processes that each hold a part of the parameters tell each other in a step.

A formula runs on the parts. At a barrier, what it reduces along an axis that is shared out is put together by the
processes, for all tensors of a chunk at once, and a function of whole matrices is given the whole, of whose result each
process takes its own part. Both concern the same tensors in the same order in every process, so a process joins in with
parts that have no elements, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import view
from thalweg.engine.axes import Follow, Unknown
from thalweg.engine.record import Kind, Structure, record, sample
from thalweg.recipe import Recipe
from thalweg.sharding import Shard
from thalweg.slots.base import Over


def reduced(t: Tensor, over: Over, how: str) -> Tensor:
    """As ``view.reduce``, of a part, which may be empty; a mean of processes' is its sum."""
    if how == "max" and not t.numel():
        like = view.reduce(t.new_empty([max(n, 1) for n in t.shape]), over, how)
        return torch.full_like(like, -math.inf)
    return view.reduce(t, over, how)


def over(numbers: Tensor, groups: Iterable[Any], how: str) -> Tensor:
    """Numbers put together by groups of processes, in place: the largest, or sums."""
    if groups:
        from torch.distributed import ReduceOp, all_reduce

        for group in groups:
            all_reduce(numbers, ReduceOp.MAX if how == "max" else ReduceOp.SUM, group=group)
    return numbers


def together(tensors: Sequence[Tensor], shards: Sequence[Shard], how: str, gone: Collection[int]) -> list[Tensor]:
    """The reductions along these axes from those of the parts, for means from sums."""
    flat = over(torch.cat([t.reshape(-1) for t in tensors]), shards[0].groups(gone), how)
    found = [piece.view(t.shape) for piece, t in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True)]
    return [t / shard.size(gone) for t, shard in zip(found, shards, strict=True)] if how == "mean" else found


@cache
def kinds(recipe: Recipe, places: tuple[tuple[str, str], ...], flags: Any, shape: tuple[int, ...]) -> list[list[Kind]]:
    """What the formula asks for, barrier by barrier, of a tensor of this shape that is shared out."""
    return record(recipe, list(places), Structure(flags, shape, native=True, sharded=(0,)), 1, None)[1]


@cache
def obstacle(recipe: Recipe, shape: tuple[int, ...]) -> str | None:
    """Why the step of a tensor of this shape cannot be taken by its parts; None if it can."""
    numbers, flags = sample(recipe)
    try:
        graph, asked = record(recipe, numbers, Structure(flags, shape, native=True, sharded=(0,)), 1, None)
        nodes = graph.module.graph.nodes
        known = dict(zip((n for n in nodes if n.op == "placeholder"), graph.axes, strict=True))
        follow = Follow(known.__getitem__)
        for node in nodes:
            if node.op != "output":
                follow(node)
    except Unknown as error:
        return str(error)
    unknown = any(None in kind.axes for some in asked for kind in some)
    return "it asks for something of other axes than its own" if unknown else None
