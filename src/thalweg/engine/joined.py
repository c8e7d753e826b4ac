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
    return small and work.rule.recipe.scope == "element" and not work.layout.codecs and work.seed is None


class Joined:
    """One set of small tensors in one memory: parameters and gradients for the time of a step, state for good.

    State that another set has joined already stays where it is, and is copied like parameters.
    """

    def __init__(self, works: list[Work]) -> None:
        first = works[0]
        sizes = [w.param.numel() for w in works]
        total = sum(sizes)
        params = [w.param.data for w in works]
        self.param = first.param.new_empty(total)
        self.grad = first.grad.new_empty(total)
        self.state = [s.new_empty(total) for s in first.state]
        self.copied = [(params, self.param, self.param.split(sizes))]
        for i, buffer in enumerate(self.state):
            tensors, parts = [w.state[i] for w in works], buffer.split(sizes)
            if all(s.untyped_storage().nbytes() == s.nbytes for s in tensors):
                torch.cat(tensors, out=buffer)
                for tensor, part in zip(tensors, parts, strict=True):
                    tensor.set_(part)
            else:
                self.copied.append((tensors, buffer, parts))

    def load(self, grads: list[Tensor]) -> None:
        """Copy in what is not kept here."""
        torch.cat(grads, out=self.grad)
        for tensors, buffer, _ in self.copied:
            torch.cat(tensors, out=buffer)

    def store(self) -> None:
        """Copy back what is not kept here."""
        for tensors, _, parts in self.copied:
            torch._foreach_copy_(tensors, parts)
