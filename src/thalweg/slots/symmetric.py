"""Products of matrices that are known to be symmetric: on a CPU half of a large one is computed, the rest copied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from thalweg.slots.products import add_product, product, wants_rows

#: The side from which only blocks from the diagonal on are computed, and how many rows of blocks.
BLOCKED, BLOCK_ROWS = 512, 4
#: The side up to which oneDNN's products, which have memory of their own, are put together when all are there, and how
#: many rows of blocks then.
TOGETHER, ASSEMBLED_ROWS = 1024, 3
#: Columns over rows up to which a matrix is copied where its rows do not lie together; of a longer one, such as an
#: embedding's, MKL's product is as fast.
COPIED = 4


def symmetric(x: Tensor, y: Tensor, z: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """``beta*z + alpha*x@y``, which is symmetric as ``x`` and ``y`` are, of matrices or stacks of them.

    Example:
        >>> import torch
        >>> from thalweg.slots.symmetric import symmetric
        >>> x = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> symmetric(x, x, torch.eye(2), beta=2)
        tensor([[7., 4.],
                [4., 7.]])
    """
    return _product(x, y, y, z, beta, alpha)


def gram(x: Tensor, z: Tensor | None = None, beta: float = 0.0, alpha: float = 1.0) -> Tensor:
    """``beta*z + alpha*x@x.mT`` of a matrix or a stack of them.

    Example:
        >>> import torch
        >>> from thalweg.slots.symmetric import gram
        >>> gram(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[ 5., 11.],
                [11., 25.]])
    """
    if wants_rows(x) and x.shape[-1] <= COPIED * x.shape[-2]:
        x = x.contiguous()
    return _product(x, x.mT, x, z, beta, alpha)


def _product(x: Tensor, y: Tensor, turned: Tensor, z: Tensor | None, beta: float, alpha: float) -> Tensor:
    """``turned`` is ``y.mT``, some of whose rows lie together."""
    *batch, n, _ = x.shape
    if x.device.type != "cpu" or n < BLOCKED:
        if z is None:
            return product(x, y) if alpha == 1 else product(x, y) * alpha
        return add_product(z, x, y, beta, alpha)
    if not batch:
        return _in_blocks(x, turned, z, beta, alpha)
    each = [_in_blocks(x[i], turned[i], None if z is None else z[i], beta, alpha) for i in range(len(x))]
    return torch.stack(each) if len(each) > 1 else each[0][None]


def _in_blocks(x: Tensor, turned: Tensor, z: Tensor | None, beta: float, alpha: float) -> Tensor:
    from thalweg.engine.native.mirror import UNIT, assemble, mirror

    together = wants_rows(x) and len(x) <= TOGETHER
    size = ceil(len(x) / ((ASSEMBLED_ROWS if together else BLOCK_ROWS) * UNIT)) * UNIT
    blocks = [(slice(i, i + size), slice(i, None)) for i in range(0, len(x), size)]
    if together:
        return assemble([product(x[rows], turned[rest].mT) for rows, rest in blocks], z, beta, alpha)
    out = x.new_empty(len(x), len(x))
    for rows, rest in blocks:
        factors, to = (x[rows], turned[rest].mT), out[rows, rest]
        if z is not None:
            add_product(z[rows, rest], *factors, beta, alpha, out=to)
            continue
        product(*factors, out=to)
        if alpha != 1:
            to.mul_(alpha)
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
        found = gram(matrix)
        return self.function(found.reshape(len(stack), *found.shape[-2:]))

    def of_rows(self, pieces: Iterable[Tensor]) -> Tensor:
        """The same of one matrix that has more rows than columns, from pieces of its rows."""
        found: Tensor | None = None
        for rows in pieces:
            found = gram(rows.mT, found, beta=1)
        assert found is not None
        return self.function(found[None])
