"""Products of matrices, by the faster of the two libraries that torch has for them on a CPU."""

from __future__ import annotations

import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thalweg.processor import is_intels

#: The side from which a float32 product goes to oneDNN, where MKL would not use the processor's longest vectors.
LARGE = 128
#: Elements of such a product that are computed at a time where they go to memory that is there.
PIECE = 1 << 20


@cache
def _onednn() -> Callable[[Tensor, Tensor], Tensor] | None:
    """oneDNN's ``x @ y`` of float32, where it is faster: MKL takes vectors of 32 bytes on processors not Intel's."""
    if platform.machine() != "x86_64" or "AVX512" not in torch.backends.cpu.get_cpu_capability() or is_intels():
        return None
    try:
        linear: Any = torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):
        return None  # a torch without it
    return lambda x, y: linear(x, y.mT, None, "none", [], "")


def wants_rows(x: Tensor) -> bool:
    """Whether parts of a matrix's products are taken faster where its rows lie in memory one after the other."""
    if _onednn() is None:
        return False
    return min(x.shape[-2:]) >= LARGE and x.dtype == torch.float32 and x.device.type == "cpu"


def _taken(x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """What multiplies two matrices, or stacks of one, instead of torch's operator, if anything does.

    Of what does not lie in memory in one piece oneDNN makes a thousandth of its speed.
    """
    if not wants_rows(x) or x.dtype != y.dtype or min(y.shape[-2:]) < LARGE:
        return None
    if x.ndim == 3 and len(x) == len(y) == 1:
        x, y = x[0], y[0]
    return _onednn() if x.ndim == 2 and all(t.is_contiguous() or t.mT.is_contiguous() for t in (x, y)) else None


def product(x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
    """``x @ y``, of matrices or stacks of them.

    Example:
        >>> import torch
        >>> from thalweg.slots.products import product
        >>> product(torch.eye(2), torch.ones(2, 1))
        tensor([[1.],
                [1.]])
    """
    taken = _taken(x, y)
    if taken is not None and x.ndim == 3:
        return product(x[0], y[0], None if out is None else out[0])[None]
    if taken is None:
        return torch.matmul(x, y, out=out)
    if out is None:
        return taken(x, y)
    for rows in _pieces(out):
        out[rows] = taken(x[rows], y)
    return out


def add_product(
    z: Tensor, x: Tensor, y: Tensor, beta: float = 1.0, alpha: float = 1.0, out: Tensor | None = None
) -> Tensor:
    """``beta*z + alpha*x@y``, of matrices or stacks of them.

    Example:
        >>> import torch
        >>> from thalweg.slots.products import add_product
        >>> add_product(torch.ones(1, 1), torch.ones(1, 2), torch.ones(2, 1), beta=2.0, alpha=3.0)
        tensor([[8.]])
    """
    taken = _taken(x, y)
    if taken is not None and x.ndim == 3:
        return add_product(z[0], x[0], y[0], beta, alpha, None if out is None else out[0])[None]
    if taken is None:
        return (torch.addmm if x.ndim == 2 else torch.baddbmm)(z, x, y, beta=beta, alpha=alpha, out=out)
    out = torch.empty_like(z) if out is None else out
    for rows in _pieces(out):
        found = taken(x[rows], y)
        torch.add(found if alpha == 1 else found.mul_(alpha), z[rows], alpha=beta, out=out[rows])
    return out


def _pieces(out: Tensor) -> list[slice]:
    """Rows whose product stays in a cache until it is where it belongs: oneDNN puts it into memory of its own."""
    step = max(LARGE, PIECE // out.shape[1])
    return [slice(start, start + step) for start in range(0, len(out), step)]
