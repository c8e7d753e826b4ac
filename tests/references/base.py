"""The common frame of the references: who has a gradient, how often a tensor was updated, the sign of the gradient."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Slot:
    """One parameter tensor: value ``p``, gradient ``g`` of this step, number ``t`` of updates so far, and state."""

    def __init__(self, value: ArrayLike) -> None:
        self.p: Array = np.array(value, dtype=np.float64)
        self.g: Array = np.zeros_like(self.p)
        self.t = 0
        self.state: dict[str, Array] = {}

    def get(self, name: str, start: float = 0.0) -> Array:
        """The state array `name`, filled with `start` where it does not exist yet."""
        return self.state.setdefault(name, np.full(self.p.shape, start))

    def ema(self, name: str, x: Array, beta: float) -> Array:
        """Replace the average s of that name, 0 at first, by beta*s + (1 - beta)*x and return it."""
        self.state[name] = beta * self.get(name) + (1 - beta) * x
        return self.state[name]


class Reference:
    """Base class: float64 arrays in, float64 arrays out, one parameter group.

    A subclass lists its hyper-parameters in ``defaults`` and writes `update`, which returns the new value of one
    tensor. Methods that need the whole model override `prepare`, called once per step with every tensor that has a
    gradient. All hyper-parameters are read from ``hyper`` at each step, so a test may change them between steps.

    Rules common to all references:

    - a gradient of None leaves value, state and count of the tensor alone; a gradient of zeros is a step;
    - ``maximize=True`` replaces g by -g before anything else, so weight decay still shrinks the weights;
    - ``t`` counts the updates of each tensor by itself and starts at 1;
    - whole-model sums run over the tensors that have a gradient in this step, and whole-model counters advance in every
      step in which at least one tensor has one.
    """

    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, params: Sequence[ArrayLike], **hyper: Any) -> None:
        known = {**self.defaults, "maximize": False}
        unknown = sorted(set(hyper) - set(known))
        if unknown:
            raise TypeError(f"{type(self).__name__} has no hyper-parameter {', '.join(unknown)}")
        self.hyper: dict[str, Any] = {**known, **hyper}
        self.slots = [Slot(p) for p in params]
        self.check()

    @property
    def params(self) -> list[Array]:
        """The current values, one array per tensor."""
        return [slot.p for slot in self.slots]

    def step(self, grads: Sequence[ArrayLike | None], loss: float | None = None) -> None:
        """One step with the gradients at the current parameters; `loss` is used by loss-driven methods only."""
        sign = -1.0 if self.hyper["maximize"] else 1.0
        active = []
        for slot, grad in zip(self.slots, grads, strict=True):
            if grad is None:
                continue
            if np.shape(grad) != slot.p.shape:
                raise ValueError(f"gradient of shape {np.shape(grad)} for a tensor of shape {slot.p.shape}")
            slot.g = sign * np.array(grad, dtype=np.float64)
            active.append(slot)
        if not active:
            return
        self.check_step(loss)
        for slot in active:
            slot.t += 1
        self.prepare(active, loss)
        for slot in active:
            slot.p = np.asarray(self.update(slot, slot.p, slot.g, slot.t))

    def check(self) -> None:
        """Reject hyper-parameters or shapes for which the method is not defined."""

    def check_step(self, loss: float | None) -> None:
        """Reject a step that is not allowed, before anything has changed."""

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        """Whole-model part of the step; nothing for methods that treat each tensor by itself."""

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        """The new value of the tensor whose value is p and whose gradient is g at its t-th update."""
        raise NotImplementedError


def norm(x: Array) -> float:
    """Euclidean norm of all entries together."""
    return float(np.sqrt(np.sum(x * x)))


def rms(x: Array) -> float:
    """Root of the mean square of all entries."""
    return float(np.sqrt(np.mean(x * x)))
