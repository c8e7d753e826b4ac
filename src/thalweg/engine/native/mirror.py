"""Completing symmetric matrices of which half was computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from torch import Tensor

from thalweg.engine.native import build

#: Rows that torch copies at a time where there is no compiler.
ROWS = 192


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
