"""The loops around a graph's statements: over the elements of a tensor, its rows and columns, or blocks of codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from thalweg.codecs import FLOOR, SCALE, Layout
from thalweg.engine.native import tables
from thalweg.engine.native.source import (
    COLUMN,
    TYPES,
    Column,
    Statements,
    Writer,
    book_name,
    encoded,
    padded,
    tabled,
)

#: Elements that a thread takes at a time.
TASK = 1 << 17
#: Vectors whose sum is taken in the kernel's precision before it is added to one in double.
TILE = 16
#: Rows that are taken at once where several sums go down the columns.
ROWS = 4
#: How many elements ahead a pass that reads one tensor asks memory for.
AHEAD = 1024
#: The words of a line, and the kind and name of the value it works out.
_WORDS, _NAMED = re.compile(r"\w+"), re.compile(r"^const (\w+) (\w+) =")
#: How reductions of vectors are taken (see driver.hpp): all of them, and those that add.
LANES, ADDED = "sacm", "sac"


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
    block = layout.blockwise[0][1] if layout.blockwise else None
    loop = (
        _over_blocks(done, columns, layout)
        if block
        else _over_rows(done)
        if writer.square or len(writer.every) > 1
        else _over_elements(done)
    )
    constants = {"THREADS": int(bool(done.body)), "TASK": TASK, "COLUMNS": len(columns), "NUMBERS": row}
    pointers = [f"{TYPES[c.dtype]}* p{j} = ({TYPES[c.dtype]}*)at[{j}];" for j, c in enumerate(columns)]
    codecs = sorted({codec for _, codec in layout.blockwise}, key=book_name)
    where = "int64_t tensor, int64_t unit, void* const* at, const T* h, const T* const* answers"
    lines = [
        "typedef double T;\n#define DOUBLE" if double else "typedef float T;",
        f"constexpr int AHEAD = {AHEAD if writer.kinds and len(done.read) == 1 and not done.column_sums else 0};",
        _header("vectors.hpp"),
        *([] if double else [_header("codes.hpp")]),
        *[f"constexpr int64_t {name} = {value};" for name, value in constants.items()],
        f'constexpr char HOW[] = "{"".join(done.sums)}";',
        f'constexpr char HOW_COLUMNS[] = "{"".join(done.column_sums)}";',
        f"constexpr int ROW_SUMS = {done.kept_rows};",
        *[line for c in codecs if c.signed or c.bits == 8 for line in tables.book(book_name(c), c.bits, c.signed)],
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
    step = f"{TILE} * W" if _adds(done.sums) else "(to - from)"
    return [
        *_totals("s", done.sums),
        f"for (int64_t base = from; base < to; base += {step}) {{",
        *_start("s", done.sums),
        f"const int64_t length = to - base < {step} ? to - base : {step};",
        *_lambda("body", "int64_t i", _body(done)),
        *_run("body(", "base + o"),
        *_collected("s", done.sums),
        "}",
        *_given("s", done.sums),
    ]


def _over_rows(done: Statements) -> list[str]:
    """Rows in turn; where several sums go down the columns a few at once, which share reading and writing them."""
    if not done.body:
        return ["for (int64_t r = from; r < to; ++r) {", *done.rows, *done.ends, "}"]
    made, columns, elements = _made(done)
    sums = range(len(done.column_sums))
    at = [f"columns + {s} * unit + o" for s in sums]
    several = len(sums) > 1
    step = f"{TILE} * W" if _adds(done.sums) or _adds(done.row_sums) else "unit"
    row = [(kind, name) for line in done.rows for kind, name in _NAMED.findall(line)]
    again = [f"const {kind} {name} = each[k].{name};" for kind, name in row]
    totals = [(f"sum_t{k}" if how in ADDED else f"t{k}", how) for k, how in enumerate(done.row_sums)]
    vectors = [f"t{k}" for k, how in enumerate(done.row_sums) if how in ADDED]
    return [
        *[
            f"for (int64_t c = 0; c < unit; ++c) columns[{s} * unit + c] = {_neutral(done.column_sums[s])};"
            for s in sums
        ],
        *made,
        *_totals("s", done.sums),
        f"struct Row {{ {' '.join(f'{kind} {name};' for kind, name in row)} }};",
        "const auto row = [&](int64_t r) {",
        *done.rows,
        f"return Row{{{', '.join(name for _, name in row)}}};",
        "};",
        "const auto rows_at = [&](auto many, int64_t first) __attribute__((always_inline)) {",
        "constexpr int R = many.value;",
        "Row each[R];",
        "for (int k = 0; k < R; ++k) each[k] = row(first + k);",
        *[f"{'Sum' if how in ADDED else 'Most'} all_{name}[R];" for name, how in totals],
        f"for (int64_t base = 0; base < unit; base += {step}) {{",
        *_start("s", done.sums),
        *[f"V all_{name}[R] = {{}};" for name in vectors],
        f"const int64_t length = unit - base < {step} ? unit - base : {step};",
        *_lambda(
            "body",
            "int64_t o",
            [
                *columns,
                *[f"V c{s} = load<part>({at[s]}, rest);" for s in sums],
                "#pragma GCC unroll 8",
                "for (int k = 0; k < R; ++k) {",
                "const int64_t r = first + k, i = r * unit + o;",
                *again,
                *[f"auto& {name} = all_{name}[k];" for name in (*vectors, *[n for n, how in totals if how == "m"])],
                *[f"if (!part && R > 1) __builtin_prefetch(p{j} + i + R * unit, 1);" for j in sorted(done.read)],
                *elements,
                "}",
                *[f"store<part>({at[s]}, c{s}, rest);" for s in sums],
            ],
        ),
        *_run("body(", "base + o"),
        *_collected("s", done.sums),
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
        *([f"for (; r + {ROWS} <= to; r += {ROWS}) rows_at(Rows<{ROWS}>(), r);"] if several else []),
        "for (; r < to; ++r) rows_at(Rows<1>(), r);",
        *(["delete[] made;"] if made else []),
        *_given("s", done.sums),
    ]


def _made(done: Statements) -> tuple[list[str], list[str], list[str]]:
    """What is worked out of columns once a piece rather than in every row, how it is read, and what elements do."""
    columns = [line for level, line in done.body if level == COLUMN]
    elements = [line for level, line in done.body if level != COLUMN]
    needed = set(_WORDS.findall(" ".join(elements)))
    used = [(kind, name, line) for line in columns for kind, name in _NAMED.findall(line) if name in needed]
    made = [name for _, name, line in used if "= load<" not in line]
    if not made or any(kind != "V" for kind, _, _ in used):
        return [], columns, elements
    stores = [f"store<part>(made + {k} * unit + o, {name}, rest);" for k, name in enumerate(made)]
    loads = [f"const V {name} = load<part>(made + {k} * unit + o, rest);" for k, name in enumerate(made)]
    return (
        [
            f"T* made = new T[{len(made)} * unit];",
            "{",
            "const int64_t length = unit;",
            *_lambda("make", "int64_t o", [*columns, *stores]),
            *_run("make(", "o"),
            "}",
        ],
        [*loads, *[line for _, name, line in used if name not in made]],
        elements,
    )


def _over_blocks(done: Statements, columns: tuple[Column, ...], layout: Layout) -> list[str]:
    """Blocks in turn, each worked on and then encoded.

    Long vectors encode a block while the next one is worked on, as dividing and looking up go well together; shorter
    ones have too few registers for that.
    """
    block = layout.blockwise[0][1]
    length = block.fold[-1]
    parts = block.block // length
    at = {column.key: j for j, column in enumerate(columns)}
    codes, scales, calls = [], [], []
    for e, (codec, role) in enumerate(done.encoded):
        shares = [f"share{e} * load<false>(kept{e}[kept] + {h * padded(codec)} + at, W)" for h in range(parts)]
        texts = [encoded(codec, share, f"places{e}") for share in shares]
        whole = texts[0] if parts == 1 else f"({texts[0]}) * 16 + ({texts[1]})"
        codes += [
            *([f"const Places places{e} = places({book_name(codec)});"] if tabled(codec) else []),
            *_lambda(
                f"code{e}",
                "auto many, int64_t block, int kept, int64_t o",
                [
                    "M codes[many.value];",
                    "#pragma GCC unroll 4",
                    "for (int k = 0; k < many.value; ++k) {",
                    "const int64_t at = o + k * W;",
                    f"codes[k] = {whole};",
                    "}",
                    f"put<part>(p{at['state', role]} + block * length + o, codes, rest);",
                ],
            ),
        ]
        calls.append(f"code{e}(")
        scales += [
            f"const float most{e} = larger(largest(top{e}), {FLOOR!r}f);",
            f"p{at['state', role + SCALE]}[block] = most{e};",
            f"share{e} = up(1 / most{e});",
        ]
    coded = range(len(done.encoded))
    halves = [f"body(kind, block * {block.block} + {h} * length + o, o, {h}, rest);" for h in range(parts)]
    after = [line for call in calls for line in ["{", *_run(call, "Rows<1>(), block, 0, o", f"{call}Whole(), Rows<4>(), block, 0, o, W);"), "}"]]
    return [
        f"constexpr int64_t length = {length};",
        *[f"float kept{e}[2][{parts * padded(block)}]; V share{e} = {{}};" for e in coded],
        *_totals("s", done.sums),
        *([f"#ifdef LONG\nconstexpr int behind = 1;\n#else\nconstexpr int behind = 0;\n#endif"] if coded else ["constexpr int behind = 0;"]),
        "for (int64_t block = from; block < to + behind; ++block) {",
        "const bool now = block < to, before = block > from;",
        "const int turn = behind ? block & 1 : 0;",
        *[line.replace("[block]", "[block - !now]") for line in done.blocks],
        *[f"M top{e} = {{}};" for e in coded],
        *_start("s", done.sums),
        *_lambda("body", "int64_t i, int64_t o, int half", _body(done)),
        *codes,
        *_lambda("both", "int64_t o", ["if (now) {", *halves, "}", "if (behind && before) {", *[f"{call}kind, Rows<1>(), block - 1, !turn, o, rest);" for call in calls], "}"]),
        *_run("both(", "o"),
        *_collected("s", done.sums),
        *(["if (now) {", *scales, "}", "if (!behind) {", *after, "}"] if coded else []),
        "}",
        *_given("s", done.sums),
    ]


def _finish(done: Statements, pointers: list[str]) -> list[str]:
    """What is left when all pieces are done; what it needs of rows and columns is worked out again."""
    columns = [line for level, line in done.body if level == COLUMN]
    over_columns = [
        "const int64_t length = unit;",
        *_lambda("body", "int64_t o", [*columns, *done.late_columns]),
        *_run("body(", "o"),
    ]
    over_rows = ["for (int64_t r = 0; r < all; ++r) {", *done.rows, *done.late_rows, "}"]
    lines = [
        *(over_rows if done.late_rows else []),
        *(over_columns if done.late_columns else []),
    ]
    if not (done.late or lines):
        return []
    return [*pointers, *done.numbers, *done.late, *lines]


def _body(done: Statements) -> list[str]:
    return [line for _, line in done.body]


def _neutral(how: str) -> str:
    """What a sum or maximum starts from."""
    return "-INFINITY" if how == "m" else "0"


def _adds(hows: Sequence[str]) -> bool:
    return any(how in ADDED for how in hows)


def _totals(name: str, hows: Sequence[str]) -> list[str]:
    """What sums are collected in, and maxima found."""
    names = ((f"Sum sum_{name}{k}" if how in ADDED else f"Most {name}{k}", how) for k, how in enumerate(hows))
    return [f"{named};" for named, how in names if how in LANES]


def _start(name: str, hows: Sequence[str]) -> list[str]:
    return [f"V {name}{k} = {{}};" for k, how in enumerate(hows) if how in ADDED]


def _collected(name: str, hows: Sequence[str]) -> list[str]:
    """Add what a run of vectors has summed up to sums in double."""
    return [f"sum_{name}{k}.add({name}{k});" for k, how in enumerate(hows) if how in ADDED]


def _given(name: str, hows: Sequence[str]) -> list[str]:
    """Hand the totals over."""
    totals = [f"{'sum_' if how in ADDED else ''}{name}{k}.total()" for k, how in enumerate(hows)]
    pairs = enumerate(zip(hows, totals, strict=True))
    return [f"sums[{k}] = together('{how}', sums[{k}], {total});" for k, (how, total) in pairs if how in LANES]


def _run(call: str, place: str, four: str = "") -> list[str]:
    """An unbroken run of ``length`` elements; ``four`` is called for four vectors at once."""
    return [
        "int64_t o = 0;",
        *([f"for (; o + 4 * W <= length; o += 4 * W) {four}"] if four else []),
        f"for (; o + W <= length; o += W) {call}Whole(), {place}, W);",
        f"if (o < length) {call}Part(), {place}, int(length - o));",
    ]


def _lambda(name: str, places: str, lines: list[str]) -> list[str]:
    return [
        f"auto {name} = [&](auto kind, {places}, int rest) __attribute__((always_inline)) {{",
        "constexpr bool part = kind.value;",
        *lines,
        "};",
    ]


@cache
def _header(name: str) -> str:
    return files("thalweg.engine.native").joinpath(name).read_text()
