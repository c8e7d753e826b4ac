"""Lookahead, a wrapper around any of the other references."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Reference


class Lookahead:
    """Lookahead (arXiv 1907.08610) around an inner reference, without any treatment of its momentum.

    ::

        slow = p before the first update of the tensor
        every k-th update of the tensor, after the inner step:  slow = slow + alpha*(p - slow) ;  p = slow

    Updates are counted for each tensor. ``hyper`` is the inner one, so a change of its lr acts on the inner optimizer.
    """

    def __init__(self, inner: Reference, k: int = 5, alpha: float = 0.5) -> None:
        if k < 1 or not 0 < alpha <= 1:
            raise ValueError("Lookahead needs k >= 1 and 0 < alpha <= 1")
        self.inner = inner
        self.k = k
        self.alpha = alpha
        self.slow: dict[int, Array] = {}

    @property
    def hyper(self) -> dict[str, Any]:
        """The hyper-parameters of the inner optimizer."""
        return self.inner.hyper

    @property
    def params(self) -> list[Array]:
        """The current values, one array per tensor."""
        return self.inner.params

    def step(self, grads: Sequence[ArrayLike | None], loss: float | None = None) -> None:
        """One inner step, followed by the pull towards the slow weights where it is due."""
        active = [i for i, grad in enumerate(grads) if grad is not None]
        for i in active:
            self.slow.setdefault(i, self.inner.slots[i].p.copy())
        self.inner.step(grads, loss)
        for i in active:
            slot = self.inner.slots[i]
            if slot.t % self.k == 0:
                slot.p = self.slow[i] = np.asarray(self.slow[i] + self.alpha * (slot.p - self.slow[i]))
