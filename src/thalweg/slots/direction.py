"""How the direction is bent once the averages have been taken."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.hyper import DECAY, EPS, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Request, Slot, matrices
from thalweg.slots.newton_schulz import QUINTIC, Coefficients, gram_newton_schulz, newton_schulz, polar_factor

#: Matrices in one parameter, stacked along its first axis.
PARTS = Hyper(1.0, 1.0)


def as_matrices(stack: Tensor, parts: int) -> Tensor:
    """A stack ``(batch, *shape)`` as matrices ``(batch*parts, rows, columns)``.

    ``parts`` matrices stand one after the other along the first axis of each shape; where that uses the axis up, as in
    a stack of experts, the next axis holds the rows. Axes after the rows are flattened into the columns.
    """
    batch, *shape = stack.shape
    return stack.reshape(batch * parts, *each_shape(shape, parts)).flatten(2)


def each_shape(shape: Sequence[int], parts: int) -> tuple[int, ...]:
    """The shape of each of ``parts`` matrices in a parameter of that shape; see ``as_matrices``."""
    first, *rest = shape
    if first % parts:
        raise ValueError(f"parts={parts} does not divide the first axis of a parameter of shape {tuple(shape)}")
    return tuple(rest) if 1 < parts == first else (first // parts, *rest)


@dataclass(frozen=True, repr=False)
class Sign(Slot):
    """Every coordinate moves by the same amount."""

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        return u.sign()

    def equation(self, x: str = "g") -> str:
        return "u = sign(u)"


@dataclass(frozen=True, repr=False)
class Orthogonal(Slot):
    """Muon's direction: the matrix with its singular values set to (about) one by Newton-Schulz iterations.

    ``dtype``: "auto" computes in bfloat16 on an accelerator and in the parameter's compute dtype on the CPU.
    ``exact`` takes the singular value decomposition instead, for tests and teaching.
    """

    scope: ClassVar[str] = "matrix"
    asks: ClassVar[bool] = True
    steps: int = 5
    coefficients: Coefficients = QUINTIC
    dtype: str = "auto"
    safety: float = 1.0
    exact: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {"eps": Hyper(1e-7, EPS.low, EPS.high), "parts": PARTS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"eps": h["eps"], "parts": h["parts"]}

    def _orthogonal(self, form: Callable[..., Tensor], stack: Tensor, eps: float, parts: float) -> Tensor:
        each = as_matrices(stack, int(parts))
        if self.exact:
            return polar_factor(each).reshape(stack.shape)
        dtype = getattr(torch, self.dtype, None) or (stack.dtype if stack.device.type == "cpu" else torch.bfloat16)
        return form(each, self.steps, self.coefficients, eps, dtype, self.safety).reshape(stack.shape)

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        published, fast = (partial(self._orthogonal, form) for form in (newton_schulz, gram_newton_schulz))
        return (yield matrices(published, u, fast=fast, given=(h.eps, h.parts)))

    def equation(self, x: str = "g") -> str:
        if self.exact:
            return "U S V^T = svd(u) ; u = U V^T"
        return (
            f"X = u/(|u| + eps) ; {self.steps} times: A = X X^T, X <- a*X + (b*A + c*A^2)*X ; u = X"
            "   (axes after the first are flattened)"
        )


@dataclass(frozen=True, repr=False)
class PlusDecay(Slot):
    """LAMB's decay: weight_decay*p joins the direction before the layer's step is scaled."""

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h["weight_decay"]}

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        return mix(1, u, h.weight_decay, x.param)

    def equation(self, x: str = "g") -> str:
        return "u = u + weight_decay*p"
