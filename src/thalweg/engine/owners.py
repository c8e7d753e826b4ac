"""Whole matrices of which each process holds a part, dealt out: each process works on whole ones of its own.

Matrices of one shape that are shared out alike are sent to their owners, and what these make of them is sent back: a
process sends and receives as much as it holds. Without this each would gather all of them, and do the same work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from thalweg.sharding import Axes, Shard


class Deal:
    """``count`` parameters of one shape that are shared out along one axis, and which of them belong to whom."""

    def __init__(self, shard: Shard, count: int) -> None:
        from torch.distributed import get_rank, get_world_size

        assert shard.line is not None
        self.axis, self.group = shard.line
        processes = get_world_size(self.group)
        self.count = count
        self.owned = [range(process, count, processes) for process in range(processes)]
        self.mine = self.owned[get_rank(self.group)]
        length = shard.shape[self.axis]
        most = -(-length // processes)
        #: How much of the axis each process has.
        self.lengths = [max(0, min(most, length - process * most)) for process in range(processes)]

    def wholes(self, parts: Sequence[Tensor], axes: Axes) -> list[Tensor]:
        """All of the tensors that belong to this process; ``parts`` are what it holds of every one."""
        if self.axis not in axes:
            return [parts[i] for i in self.mine]
        place = axes.index(self.axis)
        shape = list(parts[0].shape)
        shapes = [[*shape[:place], length, *shape[place + 1 :]] for length in self.lengths]
        sent = [[parts[i] for i in owned] for owned in self.owned]
        received = self._exchange(sent, shapes, [self.mine] * len(sent), parts[0])
        return [torch.cat(pieces, place) for pieces in zip(*received, strict=True)]

    def parts(self, wholes: Sequence[Tensor], like: Tensor) -> list[Tensor]:
        """What this process holds of every tensor, each made by its owner; ``wholes`` are its own."""
        cut = [whole.split(self.lengths, self.axis) for whole in wholes]
        sent = [[pieces[process] for pieces in cut] for process in range(len(self.lengths))]
        received = self._exchange(sent, [list(like.shape)] * len(sent), self.owned, like)
        return [received[i % len(sent)][i // len(sent)] for i in range(self.count)]

    def everywhere(self, own: Sequence[Tensor]) -> list[Tensor]:
        """Every tensor, all of each, from those of the owners; each has at least one."""
        from torch.distributed import all_gather

        most = len(self.owned[0])
        stack = torch.stack([own[i % len(own)] for i in range(most)])  # the last may have one less
        stacks = [torch.empty_like(stack) for _ in self.owned]
        all_gather(stacks, stack, group=self.group)
        return [stacks[i % len(stacks)][i // len(stacks)] for i in range(self.count)]

    def _exchange(
        self, sent: Sequence[Sequence[Tensor]], shapes: Sequence[list[int]], which: Sequence[range], like: Tensor
    ) -> list[list[Tensor]]:
        """Send tensors to each process, and receive those of ``which`` from each, of its shape."""
        from torch.distributed import all_to_all_single

        out = torch.cat([t.reshape(-1) for tensors in sent for t in tensors] or [like.new_empty(0)])
        sizes = [len(some) * math.prod(shape) for some, shape in zip(which, shapes, strict=True)]
        found = out.new_empty(sum(sizes))
        all_to_all_single(found, out, sizes, [sum(t.numel() for t in tensors) for tensors in sent], group=self.group)
        pieces = zip(found.split(sizes), which, shapes, strict=True)
        return [[*piece.view(len(some), *shape)] for piece, some, shape in pieces]
