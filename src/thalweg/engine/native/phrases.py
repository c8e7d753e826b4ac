"""Pieces of C++ that the loops of kernels are put together from."""

from __future__ import annotations

import re
from collections.abc import Sequence

from thalweg.engine.native.source import COLUMN, Statements

#: How reductions of vectors are taken (see driver.hpp): all of them, and those that add.
LANES, ADDED = "sacm", "sac"
#: How many numbers ahead memory is asked for what will be read, where that gains something.
AHEAD = 1024
#: The words of a line, and the kind and name of the value it works out.
_WORDS, NAMED = re.compile(r"\w+"), re.compile(r"^const (\w+) (\w+) =")


def body(done: Statements) -> list[str]:
    """What is done with elements."""
    return [line for _, line in done.body]


def neutral(how: str) -> str:
    """What a sum or maximum starts from."""
    return "-INFINITY" if how == "m" else "0"


def adds(hows: Sequence[str]) -> bool:
    """Whether any of these reductions adds."""
    return any(how in ADDED for how in hows)


def totals(name: str, hows: Sequence[str]) -> list[str]:
    """What sums are collected in, and maxima found."""
    names = ((f"Sum sum_{name}{k}" if how in ADDED else f"Most {name}{k}", how) for k, how in enumerate(hows))
    return [f"{named};" for named, how in names if how in LANES]


def started(name: str, hows: Sequence[str]) -> list[str]:
    """Sums of a few vectors, nothing yet."""
    return [f"V {name}{k} = {{}};" for k, how in enumerate(hows) if how in ADDED]


def collected(name: str, hows: Sequence[str]) -> list[str]:
    """Add what a run of vectors has summed up to sums in double."""
    return [f"sum_{name}{k}.add({name}{k});" for k, how in enumerate(hows) if how in ADDED]


def given(name: str, hows: Sequence[str]) -> list[str]:
    """Hand the totals over."""
    totals = [f"{'sum_' if how in ADDED else ''}{name}{k}.total()" for k, how in enumerate(hows)]
    pairs = enumerate(zip(hows, totals, strict=True))
    return [f"sums[{k}] = together('{how}', sums[{k}], {total});" for k, (how, total) in pairs if how in LANES]


def run(call: str, place: str, four: str = "") -> list[str]:
    """An unbroken run of ``length`` elements; ``four`` is called for four vectors at once."""
    return [
        "{",
        "int64_t o = 0;",
        *([f"for (; o + 4 * W <= length; o += 4 * W) {four}"] if four else []),
        f"for (; o + W <= length; o += W) {call}Whole(), {place}, W);",
        f"if (o < length) {call}Part(), {place}, int(length - o));",
        "}",
    ]


def function(name: str, places: str, lines: list[str]) -> list[str]:
    """A function of a whole vector, or of a part of one."""
    return [
        f"auto {name} = [&](auto kind, {places}, int rest) __attribute__((always_inline)) {{",
        "constexpr bool part = kind.value;",
        *lines,
        "};",
    ]


def made(done: Statements) -> tuple[list[str], list[str], list[str]]:
    """What is worked out of columns once a piece rather than in every row, how it is read, and what elements do."""
    columns = [line for level, line in done.body if level == COLUMN]
    elements = [line for level, line in done.body if level != COLUMN]
    needed = set(_WORDS.findall(" ".join(elements)))
    used = [(kind, name, line) for line in columns for kind, name in NAMED.findall(line) if name in needed]
    names = [name for _, name, line in used if "= load<" not in line]
    if not names or any(kind != "V" for kind, _, _ in used):
        return [], columns, elements
    stores = [f"store<part>(made + {k} * unit + col, {name}, rest);" for k, name in enumerate(names)]
    loads = [f"const V {name} = load<part>(made + {k} * unit + col, rest);" for k, name in enumerate(names)]
    return (
        [
            f"T* made = new T[{len(names)} * unit];",
            "{",
            "const int64_t length = unit;",
            *function("make", "int64_t col", [*columns, *stores]),
            *run("make(", "o"),
            "}",
        ],
        [*loads, *[line for _, name, line in used if name not in names]],
        elements,
    )


def cleared(done: Statements) -> list[str]:
    """Sums of columns, nothing yet."""
    sums = enumerate(done.column_sums)
    return [f"for (int64_t c = 0; c < unit; ++c) columns[{s} * unit + c] = {neutral(how)};" for s, how in sums]


def column_sums(done: Statements) -> tuple[list[str], list[str]]:
    """How sums of columns are read before a row adds to them, and stored again."""
    at = [f"columns + {s} * unit + col" for s in range(len(done.column_sums))]
    loads = [f"V c{s} = load<part>({place}, rest);" for s, place in enumerate(at)]
    return loads, [f"store<part>({place}, c{s}, rest);" for s, place in enumerate(at)]
