"""Newton-Schulz: the nearest orthogonal matrix by matrix products alone, as published and in fewer products."""

from __future__ import annotations

import torch
from torch import Tensor

from thalweg.engine import scratch
from thalweg.slots.products import add_product, product
from thalweg.slots.symmetric import BLOCKED, gram, symmetric

#: Coefficients (a, b, c) of successive iterations X <- a*X + (b*A + c*A*A)*X with A = X*X^T; the last one repeats.
Coefficients = tuple[tuple[float, float, float], ...]

QUINTIC: Coefficients = ((3.4445, -4.7750, 2.0315),)

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
POLAR_EXPRESS: Coefficients = (*((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in _POLAR), (1.875, -1.25, 0.375))

#: A list of five for X/(1.02*|X| + 1e-6), as used in speed runs (github.com/KellerJordan/modded-nanogpt); its own
#: safety factor of 1.02 is worked into all rows but the last.
MODDED_NANOGPT: Coefficients = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
#: The lists by the names that Muon knows them by.
COEFFICIENTS = {"polar_express": POLAR_EXPRESS, "modded_nanogpt": MODDED_NANOGPT}

#: The longer side over the shorter one from which iterations on the Gram matrix take fewer products.
OBLONG = 1.5
#: How far rounding of a Gram matrix may grow in iterations that share it: from the first one on, and from a later one,
#: where the matrix is larger beside its small eigenvalues. Measured: docs/benchmarks.md.
GROWTH = (150.0, 50.0)


def newton_schulz(
    stack: Tensor, steps: int, coefficients: Coefficients, eps: float, dtype: torch.dtype, safety: float = 1.0
) -> Tensor:
    """The nearest orthogonal matrices to a stack ``(batch, rows, columns)``, approximately, as the papers write it.

    ``coefficients`` are used in turn and the last one repeats. ``safety`` multiplies the norm.
    """
    x = _normalised(stack, eps, safety, dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    for a, b, c in _each(coefficients, steps):
        g = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(g, g, g, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(stack.dtype)


def gram_newton_schulz(
    stack: Tensor, steps: int, coefficients: Coefficients, eps: float, dtype: torch.dtype, safety: float = 1.0
) -> Tensor:
    """What ``newton_schulz`` gives, in fewer products.

    An iteration is X <- Q*X with Q = a*I + b*G + c*G*G and G = X*X^T, n x n for the shorter side n. The next G is
    Q*G*Q, and a run of iterations is X <- P*X with P the product of their Q: only two products of a run touch the
    longer side. All those matrices are polynomials of one G, so they commute and are symmetric. Rounding of G grows by
    up to a*a with each iteration that shares it, relative to the smallest eigenvalues, so runs are short
    (``GROWTH``): three iterations and two, for Muon's five.
    """
    x = _normalised(stack, eps, safety, dtype)
    if stack.device.type == "cpu" and min(x.shape[-2:]) >= BLOCKED:
        each = [_iterate(matrix, steps, coefficients) for matrix in x]
        x = torch.stack(each) if len(each) > 1 else each[0][None]
    else:
        x = _iterate(x, steps, coefficients)
    return x if x.dtype == stack.dtype else _like(stack, stack.dtype).copy_(x)


def _normalised(stack: Tensor, eps: float, safety: float, dtype: torch.dtype) -> Tensor:
    # Two sums in turn: one over a whole matrix in float32 is off by 4e-5 for a million elements.
    norm = torch.linalg.vector_norm(torch.linalg.vector_norm(stack, dim=-1, keepdim=True), dim=-2, keepdim=True)
    return torch.div(stack, norm * safety + eps, out=_like(stack, dtype))


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return scratch.empty(tuple(x.shape), dtype, x.device)


def _each(coefficients: Coefficients, steps: int) -> Coefficients:
    return (*coefficients, *coefficients[-1:] * (steps - len(coefficients)))[:steps]


def runs(coefficients: Coefficients, oblong: bool) -> list[Coefficients]:
    """Successive iterations in runs that share a Gram matrix; a run of one is the published form.

    Example:
        >>> from thalweg.slots.newton_schulz import QUINTIC, runs
        >>> [len(run) for run in runs(QUINTIC * 5, True)], [len(run) for run in runs(QUINTIC * 5, False)]
        ([3, 2], [1, 1, 1, 1, 1])
    """
    found: list[list[tuple[float, float, float]]] = []
    growth = 0.0
    for row in coefficients:
        if not found or not oblong or growth > GROWTH[len(found) > 1]:
            found.append([])
            growth = 1.0
        found[-1].append(row)
        growth *= row[0] ** 2
    return [tuple(run) for run in found]


def _iterate(x: Tensor, steps: int, coefficients: Coefficients) -> Tensor:
    """The iterations on one matrix or a stack of them, of norm one at most; a tall one is multiplied from the right."""
    rows, columns = x.shape[-2:]
    tall = rows > columns
    for run in runs(_each(coefficients, steps), max(rows, columns) >= OBLONG * min(rows, columns)):
        g = gram(x.mT if tall else x)
        p = None
        for a, b, c in run[:-1]:
            q = symmetric(g, g, g, b, c)
            half = symmetric(q, g, g, a)
            p = _plus(q, a) if p is None else symmetric(q, p, p, a)
            g = symmetric(half, q, half, a)
        a, b, c = run[-1]
        q = symmetric(g, g, g, b, c)
        if p is None:
            pair = (x, q.mT) if tall else (q, x)  # symmetric; its columns are read
            x = add_product(x, *pair, beta=a, out=_like(x, x.dtype))
        else:
            p = symmetric(q, p, p, a)
            pair = (x, p.mT) if tall else (p, x)
            x = product(*pair, out=_like(x, x.dtype))
    return x


def _plus(q: Tensor, a: float) -> Tensor:
    """``a*I + q``."""
    q = q.clone()
    q.diagonal(dim1=-2, dim2=-1).add_(a)
    return q


def polar_factor(stack: Tensor) -> Tensor:
    """U V^T of the singular value decomposition, exactly: the limit that Newton-Schulz approaches."""
    u, _, vh = torch.linalg.svd(stack, full_matrices=False)
    return u @ vh
