"""Completing symmetric matrices of which half was computed, and making them of products in blocks."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from thalweg.engine.native import build

#: Rows that torch copies at a time where there is no compiler.
ROWS = 192
#: Rows of a block are a multiple of this.
UNIT = 64


@cache
def _code() -> Callable[..., Any] | None:
    if not build.supported():
        return None
    try:
        return build.shipped("mirror.cpp")
    except build.BuildError:
        return None


def mirror(matrix: Tensor) -> Tensor:
    """The matrix, contiguous and on the CPU, with what lies above its diagonal copied below it.

    Example:
        >>> import torch
        >>> from thalweg.engine.native.mirror import mirror
        >>> mirror(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        tensor([[1., 2.],
                [2., 3.]])
    """
    n = len(matrix)
    code = _code()
    if code is not None:
        code(n, matrix.element_size(), matrix.data_ptr(), None, None, None, None)
        return matrix
    for i in range(0, n, ROWS):
        rows = slice(i, i + ROWS)
        matrix[rows, :i] = matrix[:i, rows].mT
        matrix[rows, rows] = matrix[rows, rows].triu() + matrix[rows, rows].triu(1).mT
    return matrix


def assemble(products: list[Tensor], z: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """``alpha*p + beta*z``, of float32 and symmetric, from the rows of blocks of ``p``, each from its diagonal on.

    All but the last have as many rows, a multiple of ``UNIT``.

    Example:
        >>> import torch
        >>> from thalweg.engine.native.mirror import assemble
        >>> assemble([torch.tensor([[1.0, 2.0], [9.0, 3.0]])], torch.eye(2), beta=10.0)
        tensor([[11.,  2.],
                [ 2., 13.]])
    """
    n = products[0].shape[1]
    out = products[0].new_empty(n, n)
    code = _code()
    if code is not None:
        pointers = (ctypes.c_void_p * len(products))(*(p.data_ptr() for p in products))
        numbers = (ctypes.c_float * 2)(alpha, beta)
        z = None if z is None else z.contiguous()
        code(n, 4, out.data_ptr(), pointers, len(products[0]), None if z is None else z.data_ptr(), numbers)
        return out
    start = 0
    for p in products:
        rows, rest = slice(start, start + len(p)), slice(start, None)
        out[rows, rest] = p * alpha if z is None else p * alpha + z[rows, rest] * beta
        start += len(p)
    return mirror(out)
