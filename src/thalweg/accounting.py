"""Bytes per parameter of an optimizer's state, and of training in each precision; counted, not looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thalweg import storage
from thalweg.registry import get

if TYPE_CHECKING:
    from thalweg.optimizer import Optimizer


@dataclass(frozen=True)
class Memory:
    """What training holds in memory, in bytes by role; activations are not counted. ``print`` shows a table."""

    parameters: int
    """How many numbers are trained."""
    weights: int
    gradients: int
    """Of all parameters that require one, whether it exists at the moment or not."""
    state: dict[str, int]
    """By role, scales of blocks apart (``exp_avg``, ``exp_avg_scale``); also what the first step has yet to make."""

    @property
    def per_parameter(self) -> float:
        """Bytes of state per parameter."""
        return sum(self.state.values()) / max(self.parameters, 1)

    @property
    def total(self) -> int:
        """Bytes of weights, gradients and state."""
        return self.weights + self.gradients + sum(self.state.values())

    def __str__(self) -> str:
        rows = [("weights", self.weights), ("gradients", self.gradients), *self.state.items(), ("total", self.total)]
        wide = max(len(name) for name, _ in rows)
        lines = [f"{'':{wide}}  {'bytes':>15}  per parameter"]
        each = max(self.parameters, 1)
        lines += [f"{name:{wide}}  {held:>15,}  {held / each:>13.3f}" for name, held in rows]
        return "\n".join(lines)


def memory(optimizer: Optimizer) -> Memory:
    """What training with this optimizer holds: weights, gradients and every kind of state; see ``Optimizer.memory``."""
    parameters = weights = gradients = 0
    state: dict[str, int] = {}
    for group in optimizer.param_groups:
        recipe = optimizer.recipe_of(group)
        for p in group["params"]:
            parameters += p.numel()
            weights += p.nbytes
            gradients += p.nbytes * p.requires_grad
            for role, held in storage.sizes(p, recipe, optimizer.layout_of(p, group)).items():
                state[role] = state.get(role, 0) + held
    return Memory(parameters, weights, gradients, state)


@dataclass(frozen=True)
class Precision:
    """One way to hold weights, gradients and state; bytes per parameter, activations not counted."""

    name: str
    weights: int
    gradients: int
    master: int
    state_item: int
    """Bytes of one number of state."""

    def total(self, state_bytes: float) -> float:
        """All bytes, for an optimizer that keeps ``state_bytes`` per parameter in float32."""
        return self.weights + self.gradients + self.master + state_bytes * self.state_item / 4


#: The set-ups in use. The first two are what this library runs as it is; the others are those of training frameworks.
PRECISIONS = (
    Precision("float32, or autocast (half copies of weights live in the forward pass only)", 4, 4, 0, 4),
    Precision("bfloat16 weights and gradients, float32 state (rounding='stochastic')", 2, 2, 0, 4),
    Precision("half weights and gradients, float32 master weights", 2, 2, 4, 4),
    Precision("half weights, float32 gradients and master weights", 2, 4, 4, 4),
    Precision("half weights, half and float32 gradients, float32 master weights", 2, 6, 4, 4),
    Precision("bfloat16 throughout (averages stall: see the stall warning)", 2, 2, 0, 2),
)


def state_bytes(name: str, shape: tuple[int, ...] = (512, 1024)) -> float:
    """Bytes of float32 state per parameter that a registered optimizer keeps for a parameter of that shape.

    Example:
        >>> import thalweg
        >>> thalweg.accounting.state_bytes("adamw"), thalweg.accounting.state_bytes("lion")
        (8.0, 4.0)
    """
    return get(name).recipe.state_bytes(shape)


def precision_table(name: str, shape: tuple[int, ...] = (512, 1024)) -> list[tuple[str, float]]:
    """Every set-up with its bytes per parameter under a registered optimizer.

    Example:
        >>> import thalweg
        >>> thalweg.accounting.precision_table("adamw")[0][1]
        16.0
    """
    kept = state_bytes(name, shape)
    return [(precision.name, precision.total(kept)) for precision in PRECISIONS]
