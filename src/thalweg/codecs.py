"""Codecs: how a state tensor is stored, and how bfloat16 parameters keep what rounding would lose.

``state="bfloat16"`` stores state rounded at random, so that averages do not stall. ``state="int8"`` and ``"int4"``
store a code for each number and a float32 scale for each block, the block's largest magnitude: the block-wise
quantisation of 8-bit optimizers (arXiv 2110.02861) and of 4-bit ones (arXiv 2309.01507). A block is a piece of a row,
the elements behind one index of the first axis, so a shard along the first axis holds whole blocks.

Codes are positions in a sorted codebook. The dynamic codebooks are piecewise linear in the position, finer towards
zero: decoding is the largest of a few straight lines, encoding the smallest of their inverses. No table is looked up,
so both are ordinary arithmetic inside the fused pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import torch

#: What ``state=`` may be.
CHOICES = ("float32", "bfloat16", "int8", "int4")
#: Tensors of fewer elements keep float32 state: they hold next to nothing, and biases and norms are sensitive.
SMALLEST = 4096
#: The longest block, by the bits of a code; the shortest is a quarter of it.
LONGEST = {8: 256, 4: 128}
#: Below this a block's scale is not taken down, so that dividing by it stays finite.
FLOOR = 1e-36
#: What follows a role in the name of its blocks' scales.
SCALE = "_scale"
#: The state that holds what rounding took from a bfloat16 parameter (``rounding="kahan"``).
COMPENSATION = "compensation"


@cache
def codebook(bits: int, signed: bool) -> tuple[float, ...]:
    """The sorted values that codes stand for, as fractions of their block's scale.

    Signed ones, and the 8-bit one of numbers that are never negative, are dynamic: decades from 1e-7 (1e-3 with 4 bits)
    up, each cut into twice as many parts as the one below it. The 4-bit one of numbers that are never negative is
    linear and has no zero, because a denominator must not vanish.

    Example:
        >>> from thalweg.codecs import codebook
        >>> len(codebook(8, signed=True)), codebook(4, signed=False)[:2]
        (256, (0.0625, 0.125))
    """
    if bits == 4 and not signed:
        return tuple((k + 1) / 16 for k in range(16))
    positive = list(_magnitudes(bits, signed))
    return tuple(sorted([*positive, *([-v for v in positive] if signed else []), 0.0, 1.0]))


def _magnitudes(bits: int, signed: bool) -> Iterator[float]:
    """The middles of the parts of every decade, from the smallest up."""
    decades = bits - 1
    for i in range(decades):
        parts = 2**i if signed else 2 ** (i + 1)
        yield from (10.0 ** (i - decades + 1) * (0.1 + 0.9 * (j + 0.5) / parts) for j in range(parts))


Line = tuple[float, float]


@cache
def _lines(bits: int, signed: bool) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """Straight lines (slope, offset) through the codebook's magnitudes: n -> value, and value -> position.

    The values grow ever faster with n, so they are the largest of the lines through neighbours. So do the borders at
    which the nearest value changes, so the position of a value is the whole part of the smallest of the lines through
    neighbouring borders.
    """
    values = list(_magnitudes(bits, signed))
    borders = [values[0] / 2] + [(a + b) / 2 for a, b in pairwise(values)]
    return _through(values, rising=True), tuple((1 / a, -b / a) for a, b in _through(borders, rising=False))


def _through(points: list[float], rising: bool) -> tuple[Line, ...]:
    """The fewest lines through neighbours whose largest value at n (or smallest n at a value) meets every point."""
    slopes = (b - a for a, b in pairwise(points))
    lines = [(slope, point - slope * n) for n, (slope, point) in enumerate(zip(slopes, points, strict=False))]
    kept = list({float(f"{slope:.6g}"): (slope, offset) for slope, offset in lines}.values())

    def met(lines: list[Line], n: int, point: float) -> bool:
        if rising:
            return math.isclose(max(a * n + b for a, b in lines), point, rel_tol=1e-9)
        return abs(min((point - b) / a for a, b in lines) - n) < 1e-6

    for line in list(kept):
        rest = [other for other in kept if other != line]
        if rest and all(met(rest, n, point) for n, point in enumerate(points)):
            kept = rest
    return tuple(kept)


@cache
def _bends(bits: int, signed: bool) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """The lines as one line and what every next one differs by: from zero up to decode, from the top down to encode."""
    decoding, encoding = (sorted(lines) for lines in _lines(bits, signed))
    return _differences(decoding), _differences([(-a, -b) for a, b in encoding])


def _differences(lines: list[Line]) -> tuple[Line, ...]:
    first = lines[0]
    return (first, *((c - a, d - b) for (a, b), (c, d) in pairwise(lines)))


def _bent(x: Any, bends: tuple[Line, ...], sign: int) -> Any:
    """The largest (``sign`` 1) or smallest (-1) of lines at x, by adding up where they pass each other.

    A maximum of two tensors looks out for NaN, which takes processors four times as long.
    """
    (slope, offset), *others = bends
    value = x * (sign * slope) + sign * offset
    for a, b in others:
        step = (x * a + b).relu()
        value = value + step if sign > 0 else value - step
    return value


def _signed(size: Any, x: Any) -> Any:
    """``size`` with the sign of x; torch's own is a call that takes every register."""
    return torch.where(x < 0, -size, size)


def block_length(shape: tuple[int, ...], bits: int) -> int | None:
    """The longest legal block that divides the rows of a tensor into equal pieces; None where there is none."""
    row = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    longest = LONGEST[bits]
    lengths = range(longest, longest // 4 - 1, -1)
    return next((n for n in lengths if row % n == 0 and (bits == 8 or n % 2 == 0)), None)


@dataclass(frozen=True)
class Rounded:
    """Stored as bfloat16, rounded up or down at random with the odds that make the expected value right."""

    tensors = ("",)

    def decode(self, codes: Any) -> Any:
        return codes.to(torch.float32)


@dataclass(frozen=True)
class Blockwise:
    """Stored as a code of 8 or 4 bits a number, and a float32 scale a block of ``block`` numbers.

    Two 4-bit codes share a byte: number j of a block has the high half, number j + block/2 the low half, so that a
    processor's vectors hold neighbours.
    """

    bits: int
    signed: bool
    block: int
    tensors = ("", SCALE)

    @property
    def fold(self) -> tuple[int, ...]:
        """How a block is laid out."""
        return (self.block,) if self.bits == 8 else (2, self.block // 2)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes of a block in a tensor of blocks."""
        return tuple(range(1, 1 + len(self.fold)))

    def shapes(self, numel: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of what is stored for a tensor: codes ``(blocks, bytes of a block)`` and scales ``(blocks, 1)``."""
        return (numel // self.block, self.block * self.bits // 8), (numel // self.block, 1)

    def blocks(self, value: Any) -> Any:
        """A tensor as ``(blocks, *fold)``."""
        return value.reshape((-1, *self.fold))

    def store(self, value: Any) -> tuple[Any, Any]:
        """A tensor's codes and scales."""
        blocks = self.blocks(value)
        return self.encode(blocks, self.magnitude(blocks).amax(self.axes, keepdim=True))

    def magnitude(self, value: Any) -> Any:
        """What the largest of makes a block's scale."""
        return value.abs() if self.signed else value

    def decode(self, codes: Any, scale: Any) -> Any:
        """Codes and scales as numbers, ``(blocks, *fold)``."""
        position = codes.to(torch.float32)
        if self.bits == 4:
            # Halves are told apart by arithmetic: what is stacked the compiler stores, as large as the parameter.
            position, scale = position.unsqueeze(1), scale.unsqueeze(2)
            high = (position * (1 / 16)).floor()
            half = torch.arange(2, device=codes.device).reshape(2, 1)
            position = high + half * (position - high * 17)
        if self.bits == 4 and not self.signed:
            return (position + 1) * (scale * (1 / 16))
        zero = 2 ** (self.bits - 1) - 1 if self.signed else 0
        place = position - zero
        n = (place.abs() if self.signed else place) - 1
        value = torch.where(n < 0, 0.0, _bent(n, _bends(self.bits, self.signed)[0], 1).clamp(max=1.0))
        return (_signed(value, place) if self.signed else value) * scale

    def encode(self, value: Any, top: Any) -> tuple[Any, Any]:
        """The nearest codes of numbers ``(blocks, *fold)`` whose largest magnitudes are ``top``, and the scales.

        What is never negative is never rounded to zero either, unless it is zero: it will be divided by, and where
        gradients of a block differ by a factor of 2,500 a step of ``m/eps`` would be hundreds of times too long.
        """
        top = top.clamp(min=FLOOR)
        share = value * (1 / top)
        position = self.positions(share)
        if self.bits == 4:
            position = position.select(1, 0) * 16 + position.select(1, 1)
            top = top.select(2, 0)
        return position.to(torch.uint8), top

    def positions(self, share: Any) -> Any:
        """The nearest codes of shares of a block's scale, as floats."""
        if self.bits == 4 and not self.signed:
            return (share * 16 - 0.5).floor().clamp(0, 15)
        size = share.abs() if self.signed else share
        n = _bent(size, _bends(self.bits, self.signed)[1], -1)
        last = 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 2  # the one below 1
        n = n.floor() if self.signed else n.floor().relu()
        place = last - (last - 1 - n).relu()  # at most the last; torch's clamp looks out for NaN
        one = (codebook(self.bits, self.signed)[-2] + 1) / 2
        if self.signed:
            place = _signed(place, share) + (2 ** (self.bits - 1) - 1)
        else:
            place = torch.where(share > 0, place, 0.0)
        return torch.where(share > one, float(2**self.bits - 1), place)


Codec = Rounded | Blockwise


def choose(choice: str, shape: tuple[int, ...], dtype: torch.dtype, signed: bool) -> Codec | None:
    """The codec of a state tensor like a parameter of that shape and dtype; None where it stays as it is.

    That is so for small tensors, for double and complex precision, and where no block divides the rows.
    """
    if choice == "float32" or math.prod(shape) < SMALLEST or dtype.is_complex or dtype == torch.float64:
        return None
    if choice == "bfloat16":
        return Rounded()
    bits = 8 if choice == "int8" else 4
    block = block_length(shape, bits)
    return None if block is None else Blockwise(bits, signed, block)


def fits(codes: tuple[int, ...], scale: tuple[int, ...], numel: int) -> bool:
    """Whether tensors of these shapes can be the codes and scales of so many numbers."""
    if len(codes) != 2 or scale != (codes[0], 1) or not codes[0] or numel % codes[0]:
        return False
    return codes[1] in (numel // codes[0], numel // codes[0] / 2)


@dataclass(frozen=True)
class Layout:
    """How a parameter's state is stored: every tensor's role, the codecs of those that have one, and the rounding.

    Where a codec works in blocks, whole tensors are seen as ``(blocks, *fold)``.
    """

    roles: tuple[str, ...] = ()
    codecs: tuple[tuple[str, Codec], ...] = ()
    rounding: str = "nearest"

    @cached_property
    def _by_role(self) -> dict[str, Codec]:
        return dict(self.codecs)

    def codec(self, role: str) -> Codec | None:
        """The codec of a role, if it has one."""
        return self._by_role.get(role)

    @cached_property
    def seen(self) -> tuple[str, ...]:
        """The roles that formulas see."""
        scales = {role + SCALE for role, _ in self.blockwise}
        return tuple(role for role in self.roles if role not in scales)

    @cached_property
    def blockwise(self) -> tuple[tuple[str, Blockwise], ...]:
        """What is stored in blocks."""
        return tuple((role, codec) for role, codec in self.codecs if isinstance(codec, Blockwise))

    @cached_property
    def fold(self) -> tuple[int, ...]:
        """How blocks are laid out; empty where nothing is stored in blocks."""
        return self.blockwise[0][1].fold if self.blockwise else ()

    @cached_property
    def coded(self) -> bool:
        """Whether results are stored in another form than the flow leaves them in."""
        return bool(self.blockwise) or self.rounding == "kahan"

    @cached_property
    def seeded(self) -> bool:
        """Whether something is rounded at random."""
        return self.rounding == "stochastic" or bool(self.noise)

    @cached_property
    def noise(self) -> dict[str, int]:
        """What to add to a tensor's seed for each role that is rounded at random; the parameter's is 0."""
        return {role: 15485863 * (1 + j) for j, (role, codec) in enumerate(self.codecs) if isinstance(codec, Rounded)}
