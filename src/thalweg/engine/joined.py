"""Small 1-D tensors (biases, norms) that travel through a kernel as one.

A model has many of them and they hold next to nothing, yet each costs a kernel its fixed part. Copied end to end before
the call and back after it, a hundred cost what one does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.engine.work import Work

#: The largest tensor that is joined: copying it must cost less than a tensor's fixed part.
SMALL = 1 << 13


def joinable(work: Work) -> bool:
    """Whether the tensor may be joined with others that follow the same rule: element-wise, 1-D and small."""
    small = work.param.ndim == 1 and work.param.numel() <= SMALL
    return small and work.rule.recipe.scope == "element" and work.seed is None


class Joined:
    """The buffers of one set of small tensors; they hold values only while a step is taken."""

    def __init__(self, works: list[Work]) -> None:
        first = works[0]
        total = sum(w.param.numel() for w in works)
        self.sizes = [w.param.numel() for w in works]
        self.params = [w.param.data for w in works]
        self.states = [[w.state[i] for w in works] for i in range(len(first.state))]
        self.param = first.param.new_empty(total)
        self.grad = first.grad.new_empty(total)
        self.state = [s.new_empty(total) for s in first.state]

    def load(self, grads: list[Tensor]) -> None:
        """Copy parameters, gradients and state in."""
        torch.cat(grads, out=self.grad)
        torch.cat(self.params, out=self.param)
        for tensors, buffer in zip(self.states, self.state, strict=True):
            torch.cat(tensors, out=buffer)

    def store(self) -> None:
        """Copy parameters and state back."""
        torch._foreach_copy_(self.params, self.param.split(self.sizes))
        for tensors, buffer in zip(self.states, self.state, strict=True):
            torch._foreach_copy_(tensors, buffer.split(self.sizes))
