"""The loops around a graph's statements: over the elements of a tensor, its rows and columns, or blocks of codes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from thalweg.engine.native import blocks, phrases, tables
from thalweg.engine.native.phrases import ADDED
from thalweg.engine.native.source import COLUMN, TYPES, Statements, Writer, book_name, tabled
from thalweg.processor import is_intels

#: Elements that a thread takes at a time.
TASK = 1 << 17
#: Vectors whose sum is taken in the kernel's precision before it is added to one in double.
TILE = 16
#: Rows that long vectors take at once where several sums go down the columns.
ROWS = 4


@dataclass(frozen=True)
class Source:
    """The C++ of a graph, and what calls must know of it.

    ``answers`` are those it reads, an array of each. ``asked`` says of each request how it is answered: by a "sum" for
    each tensor in one vector, by one "each", by a "row" or "column" for each tensor, or by a "matrix". There are
    ``sums`` sums that are one number for each tensor, which has a ``row`` of numbers.
    """

    text: str
    answers: tuple[tuple[Any, ...], ...]
    asked: tuple[str, ...]
    sums: int
    row: int


def write(writer: Writer, row: int) -> Source:
    """The C++ of a writer's graph; ``row`` is how many numbers a parameter has.

    Raises ``Unsupported`` where there is no C++ for something.
    """
    done = writer.write()
    columns, layout = writer.columns, writer.layout
    double = writer.dtype == torch.float64
    if layout.blockwise and not writer.in_rows:
        loop = blocks.over_blocks(done, layout)
    elif done.in_codes:
        loop = blocks.over_rows(done, layout)
    else:
        loop = _over_rows(done) if writer.in_rows else _over_elements(done)
    one = bool(writer.kinds) and len(done.read) == 1 and not done.column_sums
    constants = {"THREADS": int(bool(done.body)), "TASK": TASK, "COLUMNS": len(columns), "NUMBERS": row}
    constants |= {"AHEAD": phrases.AHEAD if one or is_intels() else 0}
    pointers = [f"{TYPES[c.dtype]}* p{j} = ({TYPES[c.dtype]}*)at[{j}];" for j, c in enumerate(columns)]
    codecs = sorted({codec for _, codec in layout.blockwise}, key=book_name)
    where = "int64_t tensor, int64_t unit, void* const* at, const T* h, const T* const* answers"
    lines = [
        "typedef double T;\n#define DOUBLE" if double else "typedef float T;",
        _header("vectors.hpp"),
        *([] if double else [_header("codes.hpp")]),
        *[f"constexpr int64_t {name} = {value};" for name, value in constants.items()],
        f'constexpr char HOW[] = "{"".join(done.sums)}";',
        f'constexpr char HOW_COLUMNS[] = "{"".join(done.column_sums)}";',
        f"constexpr int ROW_SUMS = {done.kept_rows};",
        *[line for c in codecs if tabled(c) for line in tables.book(book_name(c), c.bits, c.signed)],
        f"static void work(int64_t from, int64_t to, {where}, int64_t all, double* sums, T* columns, T* rows) {{",
        *pointers,
        *done.numbers,
        *done.own,
        *loop,
        "}",
        f"static void finish({where}, int64_t all, const double* sums, const T* columns, const T* rows) {{",
        *_finish(done, pointers),
        "}",
        _header("driver.hpp"),
    ]
    return Source("\n".join(lines), tuple(done.answers), tuple(done.asked), len(done.sums), row)


def _over_elements(done: Statements) -> list[str]:
    step = f"{TILE} * W" if phrases.adds(done.sums) else "(to - from)"
    return [
        *phrases.totals("s", done.sums),
        f"for (int64_t base = from; base < to; base += {step}) {{",
        *phrases.started("s", done.sums),
        f"const int64_t length = to - base < {step} ? to - base : {step};",
        "constexpr int64_t ahead = AHEAD;",
        *phrases.function("body", "int64_t i", phrases.body(done)),
        *phrases.run("body(", "base + o"),
        *phrases.collected("s", done.sums),
        "}",
        *phrases.given("s", done.sums),
    ]


def _over_rows(done: Statements) -> list[str]:
    """Rows in turn; where several sums go down the columns a few at once, which share reading and writing them.

    Shorter vectors take them one by one: there are registers for the sums of one.
    """
    if not done.body:
        return ["for (int64_t r = from; r < to; ++r) {", *done.rows, *done.ends, "}"]
    made, columns, elements = phrases.made(done)
    loads, stores = phrases.column_sums(done)
    step = f"{TILE} * W" if phrases.adds(done.sums) or phrases.adds(done.row_sums) else "unit"
    row = [(kind, name) for line in done.rows for kind, name in phrases.NAMED.findall(line)]
    again = [f"const {kind} {name} = each[k].{name};" for kind, name in row]
    totals = [(f"sum_t{k}" if how in ADDED else f"t{k}", how) for k, how in enumerate(done.row_sums)]
    vectors = [f"t{k}" for k, how in enumerate(done.row_sums) if how in ADDED]
    return [
        *phrases.cleared(done),
        *made,
        *phrases.totals("s", done.sums),
        f"struct Row {{ {' '.join(f'{kind} {name};' for kind, name in row)} }};",
        "const auto row = [&](int64_t r) {",
        *done.rows,
        f"return Row{{{', '.join(name for _, name in row)}}};",
        "};",
        "const auto rows_at = [&](auto many, int64_t first) __attribute__((always_inline)) {",
        "constexpr int R = many.value;",
        "const int64_t ahead = R > 1 ? R * unit : AHEAD;",
        "Row each[R];",
        "for (int k = 0; k < R; ++k) each[k] = row(first + k);",
        *[f"{'Sum' if how in ADDED else 'Most'} all_{name}[R];" for name, how in totals],
        f"for (int64_t base = 0; base < unit; base += {step}) {{",
        *phrases.started("s", done.sums),
        *[f"V all_{name}[R] = {{}};" for name in vectors],
        f"const int64_t length = unit - base < {step} ? unit - base : {step};",
        *phrases.function(
            "body",
            "int64_t col",
            [
                *columns,
                *loads,
                "#pragma GCC unroll 8",
                "for (int k = 0; k < R; ++k) {",
                "const int64_t r = first + k, i = r * unit + col;",
                *again,
                *[f"auto& {name} = all_{name}[k];" for name in (*vectors, *[n for n, how in totals if how == "m"])],
                *elements,
                "}",
                *stores,
            ],
        ),
        *phrases.run("body(", "base + o"),
        *phrases.collected("s", done.sums),
        *[f"for (int k = 0; k < R; ++k) all_sum_{name}[k].add(all_{name}[k]);" for name in vectors],
        "}",
        "for (int k = 0; k < R; ++k) {",
        "const int64_t r = first + k;",
        *again,
        *[f"auto& {name} = all_{name}[k];" for name, _ in totals],
        *done.ends,
        "}",
        "};",
        "int64_t r = from;",
        "#if VECTOR_BYTES == 64",
        *([f"for (; r + {ROWS} <= to; r += {ROWS}) rows_at(Rows<{ROWS}>(), r);"] if len(stores) > 1 else []),
        "#endif",
        "for (; r < to; ++r) rows_at(Rows<1>(), r);",
        *(["delete[] made;"] if made else []),
        *phrases.given("s", done.sums),
    ]


def _finish(done: Statements, pointers: list[str]) -> list[str]:
    """What is left when all pieces are done; what it needs of rows and columns is worked out again."""
    columns = [line for level, line in done.body if level == COLUMN]
    over_columns = [
        "const int64_t length = unit;",
        *phrases.function("body", "int64_t col", [*columns, *done.late_columns]),
        *phrases.run("body(", "o"),
    ]
    over_rows = ["for (int64_t r = 0; r < all; ++r) {", *done.rows, *done.late_rows, "}"]
    lines = [
        *(over_rows if done.late_rows else []),
        *(over_columns if done.late_columns else []),
    ]
    if not (done.late or lines):
        return []
    return [*pointers, *done.numbers, *done.late, *lines]


@cache
def _header(name: str) -> str:
    return files("thalweg.engine.native").joinpath(name).read_text()
