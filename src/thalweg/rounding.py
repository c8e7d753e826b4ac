"""Stochastic rounding of bfloat16 parameters, and the warning for those who train without it.

A bfloat16 weight has 8 significant bits: a step smaller than about 1/512 of the weight is lost when it is rounded to
nearest, and training stalls. Rounding up or down at random, with the odds that make the expected value right, lets
small steps through without a float32 copy of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.sharding import local

_MASK = 0xFFFFFFFF
#: Seeds travel with float32 scalars, which are exact up to here.
SEEDS = 1 << 24


def seed(step: Any, position: Any) -> Any:
    """A seed for one tensor at one step: the same on every engine and in every run; or int64 tensors of them."""
    mixed = (step * 0x9E3779B1 ^ position * 0x85EBCA6B) & _MASK
    mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & _MASK
    return (mixed ^ mixed >> 12) % SEEDS


def stochastic(value: Any, number: Any) -> Any:
    """``value`` (float32) with its lower 16 bits rounded away at random, ready to be stored as bfloat16 exactly.

    The random bits are a hash of the element's position and ``number``, so no generator is involved and replicas agree.
    Infinities and NaN stay; a finite value never becomes infinite.
    """
    position = torch.arange(value.numel(), device=value.device).reshape(value.shape)
    mixed = ((position + number * 0x9E3779B1) * 0x45D9F3B) & _MASK
    mixed = ((mixed ^ (mixed >> 16)) * 0x45D9F3B) & _MASK
    noise = (mixed ^ (mixed >> 16)) & 0xFFFF
    bits = value.view(torch.int32).to(torch.int64)
    rounded = ((bits + noise) & ~0xFFFF).to(torch.int32).view(torch.float32)
    toward_zero = (bits & ~0xFFFF).to(torch.int32).view(torch.float32)
    finite = torch.where(torch.isfinite(rounded), rounded, toward_zero)
    return torch.where(torch.isfinite(value), finite, value)


def nearest(value: Any) -> Any:
    """``value`` (float32) rounded to the nearest bfloat16 number, ties to even, but still float32; NaN stays.

    On the bits, because a compiler may drop a cast to bfloat16 and back.
    """
    bits = value.view(torch.int32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & ~0xFFFF).view(torch.float32)
    return torch.where(torch.isfinite(value), rounded, value)


def stalled(before: Sequence[Tensor], params: Sequence[Tensor]) -> float:
    """The share of elements with a gradient that a step left exactly as they were."""
    still = moving = 0
    for old, p in zip(before, params, strict=True):
        assert p.grad is not None
        old, p, grad = map(local, (old, p, p.grad))
        pushed = grad != 0
        moving += int(pushed.sum())
        still += int((pushed & (old == p)).sum())
    return still / moving if moving else 0.0
