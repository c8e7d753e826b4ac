"""The square view of a tensor, and booleans as bits: what a recorded graph holds as one node each.

Turning a tensor into its square view and back moves nothing in memory, so kernels go over its rows and columns as they
go over those of a matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: The axes of the square view, beside those of the parameter: 0, 1, ...
ROWS, COLUMNS = -2, -1


def square_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """The most nearly square matrix ``(rows, columns)`` of as many elements, rows not fewer than columns."""
    size = math.prod(shape)
    columns = next((k for k in range(math.isqrt(size), 0, -1) if size % k == 0), 1)
    return size // columns, columns


def as_square(t: Tensor) -> Tensor:
    """The tensor as its square view, in C order whatever the layout in memory."""
    return t.reshape(square_shape(tuple(t.shape)))


def as_shaped(square: Tensor, like: Tensor) -> Tensor:
    """A square view in its tensor's own shape."""
    return square.reshape(like.shape)


def pack(bits: Tensor) -> Tensor:
    """Rows of booleans as rows of bytes, eight to one, lowest bit first; a row's last byte is filled up with zeros."""
    eights = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
    return (eights << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(-1).to(torch.uint8)


def unpack(packed: Tensor, like: Tensor) -> Tensor:
    """The booleans of packed rows, as many as ``like`` has columns."""
    bits = packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten(1)[:, : like.shape[1]] > 0
