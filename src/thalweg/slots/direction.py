"""How the direction is bent once the averages have been taken."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.hyper import DECAY, EPS, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Request, Slot, matrices

#: Coefficients (a, b, c) of one Newton-Schulz iteration X <- a*X + (b*A + c*A*A)*X with A = X*X^T.
QUINTIC: tuple[tuple[float, float, float], ...] = ((3.4445, -4.7750, 2.0315),)

# Polar Express (arXiv 2505.16932): the best quintic for each iteration in turn, divided by the published safety
# factor 1.01, 1.01^3, 1.01^5 that keeps rounding from pushing a singular value past one.
_POLAR = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
)
POLAR_EXPRESS = (*((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR), (1.875, -1.25, 0.375))


#: Matrices in one parameter, stacked along its first axis.
PARTS = Hyper(1.0, 1.0)

#: A list of five for X/(1.02*|X| + 1e-6), as used in speed runs (github.com/KellerJordan/modded-nanogpt); its own
#: safety factor of 1.02 is worked into all rows but the last.
MODDED_NANOGPT = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
#: The lists by the names that Muon knows them by.
COEFFICIENTS = {"polar_express": POLAR_EXPRESS, "modded_nanogpt": MODDED_NANOGPT}


def newton_schulz(
    stack: Tensor,
    steps: int,
    coefficients: tuple[tuple[float, float, float], ...],
    eps: float,
    dtype: torch.dtype,
    safety: float = 1.0,
) -> Tensor:
    """The nearest orthogonal matrices to a stack ``(batch, rows, columns)``, approximately, by matrix products alone.

    ``coefficients`` are used in turn and the last one repeats.
    """
    x = stack.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) * safety + eps)
    for i in range(steps):
        a, b, c = coefficients[min(i, len(coefficients) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(stack.dtype)


def polar_factor(stack: Tensor) -> Tensor:
    """U V^T of the singular value decomposition, exactly: the limit that Newton-Schulz approaches."""
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    return u @ vh


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
    steps: int = 5
    coefficients: tuple[tuple[float, float, float], ...] = QUINTIC
    dtype: str = "auto"
    safety: float = 1.0
    exact: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {"eps": Hyper(1e-7, EPS.low, EPS.high), "parts": PARTS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"eps": h["eps"], "parts": h["parts"]}

    def _function(self, eps: float, parts: float) -> Callable[[Tensor], Tensor]:
        def function(stack: Tensor) -> Tensor:
            each = as_matrices(stack, int(parts))
            if self.exact:
                return polar_factor(each).reshape(stack.shape)
            dtype = getattr(torch, self.dtype, None) or (stack.dtype if stack.device.type == "cpu" else torch.bfloat16)
            return newton_schulz(each, self.steps, self.coefficients, eps, dtype, self.safety).reshape(stack.shape)

        return function

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        return (yield matrices(self._function(h.eps, h.parts), u))

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
