"""Parameters of which each process holds a part (``DTensor``, as ``fully_shard`` makes), and what goes with them."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

#: Of each axis of a tensor, which of its parameter's axes it is, None for one of another length.
Axes = tuple[int | None, ...]

#: All axes of a parameter, however many it has.
EVERY = range(sys.maxsize)


@dataclass(frozen=True)
class Shard:
    """What of a parameter of ``shape`` this process holds: how it is placed along each dimension of a mesh of them."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: tuple[int, ...]

    @property
    def fellows(self) -> tuple[Any, ...]:
        """Equal for parameters that are shared out alike."""
        return self.mesh, self.placements

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """The axes that are shared out."""
        return tuple(sorted({p.dim for p in self.placements if p.is_shard()}))

    @property
    def index(self) -> int:
        """Which part this is; copies of a part have the same."""
        found = 0
        for dim, placement in enumerate(self.placements):
            if placement.is_shard():
                found = found * self.mesh.size(dim) + self.mesh.get_local_rank(dim)
        return found

    @cached_property
    def line(self) -> tuple[int, Any] | None:
        """The axis that is shared out and the group of processes that do, where that is one, and piece after piece."""
        from torch.distributed.tensor import Shard as Pieces

        found = [(dim, p) for dim, p in enumerate(self.placements) if p.is_shard()]
        if len(found) != 1 or type(found[0][1]) is not Pieces:
            return None
        ((dim, placement),) = found
        return placement.dim, self.mesh.get_group(dim)

    @property
    def processes(self) -> int:
        """How many processes share it out."""
        return math.prod(self.mesh.size(dim) for dim, p in enumerate(self.placements) if p.is_shard())

    def groups(self, gone: Collection[int]) -> tuple[Any, ...]:
        """The groups of processes that put their parts together to reduce these axes, one after the other."""
        dims = (dim for dim, p in enumerate(self.placements) if p.is_shard() and p.dim in gone)
        return tuple(self.mesh.get_group(dim) for dim in dims)

    def size(self, gone: Collection[int]) -> int:
        """How many elements are reduced to one along these axes."""
        return math.prod(n for axis, n in enumerate(self.shape) if axis in gone)

    def placed(self, axes: Axes) -> list[Any]:
        """How a tensor with these axes of the parameter is placed: shared out along those, the same everywhere else."""
        from torch.distributed.tensor import Replicate

        there = (p.is_shard() and p.dim in axes for p in self.placements)
        pairs = zip(self.placements, there, strict=True)
        return [_along(p, axes.index(p.dim)) if along else Replicate() for p, along in pairs]

    def joined(self, local: Tensor, axes: Axes) -> Any:
        """The ``DTensor`` of which a tensor with these axes is this process's part."""
        from torch.distributed.tensor import DTensor

        lengths = zip(axes, local.shape, strict=True)
        shape = torch.Size(n if axis is None else self.shape[axis] for axis, n in lengths)
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(local, self.mesh, self.placed(axes), run_check=False, shape=shape, stride=stride)

    def whole(self, local: Tensor, axes: Axes) -> Tensor:
        """All of a tensor with these axes, brought here."""
        return local if set(axes).isdisjoint(self.axes) else self.joined(local, axes).full_tensor()

    def own(self, whole: Tensor, axes: Axes) -> Tensor:
        """This process's part of a tensor with these axes."""
        return local(distributed(whole, self.mesh, self.placed(axes)))


def _along(placement: Any, axis: int) -> Any:
    """The placement, with another axis shared out."""
    if axis == placement.dim:
        return placement
    parts = {"split_factor": placement.split_factor} if hasattr(placement, "split_factor") else {}
    return type(placement)(axis, **parts)


def local(t: Any) -> Tensor:
    """What this process holds of a tensor: of a ``DTensor`` its part."""
    if not is_sharded(t):
        return t
    found = t.to_local()
    return found.wait() if hasattr(found, "wait") else found


def is_sharded(t: Any) -> bool:
    """Whether this process holds a part of the tensor."""
    return type(t) is not Parameter and hasattr(t, "to_local")


def placed_like(like: Any, value: Any) -> Any:
    """A tensor placed as another one is; what is not shared out yet is the same in every process."""
    if not is_sharded(like) or is_sharded(value):
        return value
    return distributed(value.to(like.device), like.device_mesh, like.placements)


def distributed(whole: Tensor, mesh: Any, placements: Sequence[Any]) -> Any:
    """A tensor that is the same in every process as a ``DTensor`` with these placements; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    there = DTensor.from_local(whole, mesh, [Replicate()] * len(placements), run_check=False)
    return there.redistribute(placements=placements)
