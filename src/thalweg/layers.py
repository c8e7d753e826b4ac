"""Layers that take the place of normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thalweg.hyper import ANY


class DyT(nn.Module):
    """Dynamic tanh (arXiv 2503.10622): stands in for LayerNorm, without any statistics.

    ``y = tanh(alpha*x)*weight + bias``, with one number alpha and a weight and bias per channel.

    Args:
        channels: number of channels, or the shape that LayerNorm would be given.
        alpha: where alpha starts; language models want it tuned, with other values in attention than elsewhere.
        channels_last: whether the channels are the last axes, as for LayerNorm; otherwise axis 1.

    alpha, weight and bias usually go without weight decay.

    Example:
        >>> import torch, thalweg
        >>> thalweg.layers.DyT(2)(torch.tensor([[-2.0, 0.5]]))
        tensor([[-0.7616,  0.2449]], grad_fn=<AddBackward0>)
    """

    def __init__(self, channels: int | Sequence[int], alpha: float = 0.5, channels_last: bool = True) -> None:
        super().__init__()
        ANY.check("alpha", alpha)
        shape = (channels,) if isinstance(channels, int) else tuple(channels)
        if not shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
            raise ValueError(f"Invalid channels: {channels!r}; legal is a whole number of at least 1, or several")
        if not channels_last and len(shape) > 1:
            raise ValueError(f"Invalid channels: {channels!r}; legal is one number where channels_last is False")
        self.channels_last = channels_last
        self.alpha = nn.Parameter(torch.tensor([float(alpha)]))
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if not self.channels_last:
            shape = (-1, *[1] * (x.ndim - 2))
            weight, bias = weight.view(shape), bias.view(shape)
        return torch.tanh(self.alpha * x) * weight + bias

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, channels_last={self.channels_last}"
