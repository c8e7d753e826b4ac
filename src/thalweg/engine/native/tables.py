"""Codebooks as the lines of their decades, in the small tables that ``codes.hpp`` looks up.

A place counts the values from the smallest magnitude up, so that a decade of ``parts`` values has the places ``parts``
to ``2*parts - 1``: the exponent of a place tells its decade. Signed ones have 1, 2, 4, ... parts, others 2, 4, 8, ...
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

#: The smallest exponent of a share that is told apart; below it all are alike.
LEAST = -23
#: By how much an exponent's logarithm may fall short of a decade and is taken for one of it still. All shares of that
#: exponent are beyond the decade's border then, or before the next one's.
SHORT = 0.45


class Decade(NamedTuple):
    """Values from ``low`` on, ``step`` apart, the first half a step in; ``parts`` of them."""

    low: float
    step: float
    parts: int


class Line(NamedTuple):
    """A line from shares to places, and the last place it leads to."""

    rise: float
    start: float
    last: float


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
    for table in (slope, offset):
        table[7] = table[7] or table[15]  # of short vectors, which see one bit less of an exponent

    # Where the nearest value is one of the next decade: the middle between its first and the last one before it.
    least = (found[0].low + found[0].step / 2) / 2 if signed else 0.0  # nothing but zero is rounded to zero
    borders = [least, *(d.low + before.step for before, d in pairwise(found)), 1 - found[-1].step / 4]
    zero = 0 if signed else 1  # unsigned codes begin with the smallest value: there is none between it and zero
    lines = [(0.0, 0.0, 0.0), *((1 / step, parts - low / step, 2 * parts - 1) for low, step, parts in found)]
    lines.append((0.0, top, top))
    coded = [Line(rise, start - zero, last - zero) for rise, start, last in lines]
    return _braces(_braces(slope), _braces(offset), _by_exponent(borders, coded), _by_decade(found, borders, coded))


def _by_exponent(borders: list[float], lines: list[Line]) -> str:
    """``Exponents``: no exponent has more than one border in it."""
    carry, of_exponent = [0] * 32, [lines[0]] * 32
    for exponent in range(LEAST, 2):
        low, place = 2.0**exponent, (exponent + 127) % 32
        of_exponent[place] = lines[sum(border <= low for border in borders)]
        within = [border for border in borders if low < border < 2 * low]
        carry[place] = _bits(2 * low) - _bits(within[0]) if within else 0
        assert len(within) < 2
    return _braces(_braces(carry), *map(_braces, zip(*of_exponent, strict=True)))


def _by_decade(found: list[Decade], borders: list[float], lines: list[Line]) -> str:
    """``Decades``, the one of zero first."""
    shift = round((len(found) + SHORT) * 256) - 127 * 77  # an octave is 77/256 of a decade, nearly
    tables = map(_braces, (borders, *zip(*lines[:-1], strict=True)))
    return _braces(*tables, shift, found[0].low, borders[-1], lines[-1].last)


def _bits(x: float) -> int:
    """A float32 as an integer."""
    return int.from_bytes(struct.pack("<f", x), "little")


def _exponent(place: int) -> int:
    """The exponent of a place and a half, as float32 stores it."""
    return place.bit_length() - 1 + 127


def _braces(*items: Sequence[float] | float | str) -> str:
    """A table (which C++ fills up with zeros) or a struct."""
    if len(items) == 1 and not isinstance(items[0], (int, float, str)):
        return "{{" + ", ".join(map(repr, items[0])) + "}}"
    return "{" + ", ".join(map(str, items)) + "}"
