"""Codebooks as the lines of their decades, in the small tables that ``codes.hpp`` looks up.

A place counts the values from the smallest magnitude up, so that a decade of ``parts`` values has the places ``parts``
to ``2*parts - 1``: the exponent of a place tells its decade. Signed ones have 1, 2, 4, ... parts, others 2, 4, 8, ...
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

#: The smallest exponent of a share that is told apart; below it all are alike.
LEAST = -23
#: What ``codes.hpp`` counts the decade of shares next to 1 as.
TOP = 38


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
def book(name: str, bits: int, signed: bool) -> list[str]:
    """The tables of a dynamic codebook, as C++ writes a ``Book`` of long vectors and of short ones."""
    found = decades(bits, signed)
    top = 2 * found[-1].parts  # the place of 1
    # Where the nearest value is one of the next decade: the middle between its first and the last one before it.
    least = (found[0].low + found[0].step / 2) / 2 if signed else 0.0  # nothing but zero is rounded to zero
    borders = [least, *(d.low + before.step for before, d in pairwise(found)), 1 - found[-1].step / 4]
    return [
        "#ifdef LONG",
        f"static const Book {name} = {_long(found, borders, top, signed)};",
        "#else",
        f"HIDDEN Book {name} = {_short(found, borders, top, signed)};",
        "#endif",
    ]


def _long(found: list[Decade], borders: list[float], top: int, signed: bool) -> str:
    """By four bits of an exponent, or five: no exponent has more than one border in it."""
    slope, offset = [0.0] * 16, [0.0] * 16
    for low, step, parts in found:
        slope[_exponent(parts) % 16], offset[_exponent(parts) % 16] = step, low - step * parts
    offset[_exponent(top) % 16] = 1.0
    zero = 0 if signed else 1  # unsigned codes begin with the smallest value: there is none between it and zero
    lines = [(0.0, 0.0, 0.0), *((1 / step, parts - low / step, 2 * parts - 1) for low, step, parts in found)]
    lines.append((0.0, top, top))
    coded = [Line(rise, start - zero, last - zero) for rise, start, last in lines]
    carry, of_exponent = [0] * 32, [coded[0]] * 32
    for exponent in range(LEAST, 2):
        low, place = 2.0**exponent, (exponent + 127) % 32
        of_exponent[place] = coded[sum(border <= low for border in borders)]
        within = [border for border in borders if low < border < 2 * low]
        carry[place] = _bits(2 * low) - _bits(within[0]) if within else 0
        assert len(within) < 2
    return _braces(_braces(slope), _braces(offset), _braces(carry), *map(_braces, zip(*of_exponent, strict=True)))


def _short(found: list[Decade], borders: list[float], top: int, signed: bool) -> str:
    """By three bits of an exponent, or of a decade."""
    # Places as they are looked up: from 4 on, so that zero has one line with 1, or from 1 on.
    unit, plus = (4, -4 * (top - 1)) if signed else (1, 1)
    slope, offset = [0.0] * 8, [0.0] * 8
    for low, step, parts in found:
        place = _exponent(unit * parts) % 8
        slope[place], offset[place] = step / unit, low - step * (parts - 0.5)
    slope[_exponent(unit * top) % 8] = 1 / (unit * top if signed else top - 1)
    if not signed:
        offset[_exponent(top) % 8] = -1 / (top - 1)

    first = TOP - len(found) + 1
    border, rise = [math.inf] * 8, [0.0] * 8
    for k, at in enumerate(borders, first - 1):
        border[k % 8] = at
    for k, decade in enumerate(found, first):
        rise[k % 8] = 1 / decade.step
    # A decade's line starts at 8/9 of its parts, as its last value is ten times its first.
    rise[(TOP + 1) % 8] = top + 0.5 - top * 8 / 9
    start, last = (_bits(x) - (TOP + 1 << 23) for x in (top * 8 / 9, 2.0 * top))
    return _braces(
        _array(slope), _array(offset), unit, plus, _array(border), _array(rise), start, last - 1, found[0].low
    )


def _bits(x: float) -> int:
    """A float32 as an integer."""
    return int.from_bytes(struct.pack("<f", x), "little")


def _exponent(place: int) -> int:
    """The exponent of a place and a half, as float32 stores it."""
    return place.bit_length() - 1 + 127


def _array(numbers: Sequence[float]) -> str:
    """An array."""
    return "{" + ", ".join("INFINITY" if math.isinf(x) else repr(x) for x in numbers) + "}"


def _braces(*items: Sequence[float] | float | str) -> str:
    """A table (which C++ fills up with zeros) or a struct."""
    if len(items) == 1 and not isinstance(items[0], (int, float, str)):
        return "{{" + ", ".join(map(repr, items[0])) + "}}"
    return "{" + ", ".join(map(str, items)) + "}"
