"""Codebooks as the lines of their decades, in the small tables that ``codes.hpp`` looks up.

A place counts the values from the smallest magnitude up, so that a decade of ``parts`` values has the places ``parts``
to ``2*parts - 1``: the exponent of a place tells its decade. Signed ones have 1, 2, 4, ... parts, others 2, 4, 8, ...
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import NamedTuple

#: The smallest exponent of a share that is told apart; below it all are alike.
LEAST = -23


class Decade(NamedTuple):
    """Values from ``low`` on, ``step`` apart, the first half a step in; ``parts`` of them."""

    low: float
    step: float
    parts: int


def decades(bits: int, signed: bool) -> list[Decade]:
    """The decades of a dynamic codebook, from the smallest up."""
    count = bits - 1
    parts = [2**i if signed else 2 ** (i + 1) for i in range(count)]
    return [Decade(10.0 ** (i - count), 0.9 * 10.0 ** (i - count + 1) / n, n) for i, n in enumerate(parts)]


@cache
def book(bits: int, signed: bool) -> str:
    """The tables of a dynamic codebook, as C++ writes a ``Book``."""
    found = decades(bits, signed)
    top = 2 * found[-1].parts  # the place of 1
    slope, offset = [0.0] * 16, [0.0] * 16
    for low, step, parts in found:
        slope[_exponent(parts) % 16], offset[_exponent(parts) % 16] = step, low - step * parts
    offset[_exponent(top) % 16] = 1.0

    # Where the nearest value is one of the next decade: the middle between its first and the last one before it.
    least = (found[0].low + found[0].step / 2) / 2 if signed else 0.0  # nothing but zero is rounded to zero
    borders = [least, *(d.low + before.step for before, d in pairwise(found))]
    borders.append(1 - found[-1].step / 4)
    zero = 0 if signed else 1  # unsigned codes begin with the smallest value: there is none between it and zero
    lines = [(0.0, 0.0, 0), *((1 / step, parts - low / step, 2 * parts - 1) for low, step, parts in found)]
    lines.append((0.0, top, top))
    carry, of_exponent = [0] * 32, [lines[0]] * 32
    for exponent in range(LEAST, 2):
        low, place = 2.0**exponent, (exponent + 127) % 32
        of_exponent[place] = lines[sum(border <= low for border in borders)]
        within = [border for border in borders if low < border < 2 * low]
        carry[place] = _bits(2 * low) - _bits(within[0]) if within else 0
        assert len(within) < 2
    rise, start, last = zip(*((rise, start - zero, last - zero) for rise, start, last in of_exponent), strict=True)
    arrays: tuple[Iterable[float], ...] = (slope, offset, carry, rise, start, last)
    return "{" + ", ".join(map(_array, arrays)) + "}"


def _bits(x: float) -> int:
    """A float32 as an integer."""
    return int.from_bytes(struct.pack("<f", x), "little")


def _exponent(place: int) -> int:
    """The exponent of a place and a half, as float32 stores it."""
    return place.bit_length() - 1 + 127


def _array(values: Iterable[float]) -> str:
    return "{{" + ", ".join(map(repr, values)) + "}}"
