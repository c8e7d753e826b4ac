"""Bytes per parameter of an optimizer's state, and of training in each precision; counted, not looked up."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.registry import get


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
