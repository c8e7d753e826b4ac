"""Products of matrices that are known to be symmetric: on a CPU half of a large one is computed, the rest copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

#: The side from which only blocks from the diagonal on are computed, and how many rows of blocks.
BLOCKED, BLOCK_ROWS = 512, 4


def symmetric(x: Tensor, y: Tensor, z: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """``beta*z + alpha*x@y``, which is symmetric, of matrices or stacks of them.

    Example:
        >>> import torch
        >>> from thalweg.slots.symmetric import symmetric
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> symmetric(x, x.mT, torch.eye(2), beta=2)
        tensor([[ 7., 11.],
                [11., 27.]])
    """
    *batch, n, _ = x.shape
    if x.device.type != "cpu" or n < BLOCKED:
        if z is None:
            return x @ y if alpha == 1 else x @ y * alpha
        return (torch.baddbmm if batch else torch.addmm)(z, x, y, beta=beta, alpha=alpha)
    out = x.new_empty(*batch, n, n)
    if not batch:
        return _in_blocks(out, x, y, z, beta, alpha)
    for i in range(len(out)):
        _in_blocks(out[i], x[i], y[i], None if z is None else z[i], beta, alpha)
    return out


def _in_blocks(out: Tensor, x: Tensor, y: Tensor, z: Tensor | None, beta: float, alpha: float) -> Tensor:
    from thalweg.engine.native.mirror import mirror

    size = ceil(len(out) / BLOCK_ROWS)
    for i in range(0, len(out), size):
        rows, rest = slice(i, i + size), slice(i, None)
        like = out if z is None else z
        torch.addmm(like[rows, rest], x[rows], y[:, rest], beta=beta, alpha=alpha, out=out[rows, rest])
    return mirror(out)


@dataclass(frozen=True)
class OfGram:
    """A function of matrices by way of the smaller of their Gram matrices: ``function`` takes a stack of those.

    Axes after a matrix's second are flattened. That of a long matrix is a sum over its rows, so an engine may hand them
    over in pieces.

    Example:
        >>> import torch
        >>> from thalweg.slots.symmetric import OfGram
        >>> squares = OfGram(lambda gram: gram.diagonal(dim1=-2, dim2=-1).sum(-1))
        >>> x = torch.arange(6.0).reshape(3, 2)
        >>> squares(x[None]), squares.of_rows([x[:2], x[2:]])
        (tensor([55.]), tensor([55.]))
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, stack: Tensor) -> Tensor:
        matrix = stack.flatten(2)
        if matrix.shape[-2] > matrix.shape[-1]:
            matrix = matrix.mT
        if len(matrix) == 1:
            matrix = matrix[0]  # a stack of one is copied where it is turned
        gram = symmetric(matrix, matrix.mT)
        return self.function(gram.reshape(len(stack), *gram.shape[-2:]))

    def of_rows(self, pieces: Iterable[Tensor]) -> Tensor:
        """The same of one matrix that has more rows than columns, from pieces of its rows."""
        gram: Tensor | None = None
        for rows in pieces:
            gram = symmetric(rows.mT, rows, gram, beta=1)
        assert gram is not None
        return self.function(gram[None])
