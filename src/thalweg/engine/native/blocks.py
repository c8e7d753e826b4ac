"""The loop over blocks of codes: looked up, worked on, encoded again."""

from __future__ import annotations

from thalweg.codecs import FLOOR, Layout
from thalweg.engine.native import phrases
from thalweg.engine.native.source import Statements, book_name, encoded, padded, tabled

#: What codes are looked up by: where they are in a block, and in which half of a byte.
LOOKED = "int64_t o, int half"


def over_blocks(done: Statements, layout: Layout) -> list[str]:
    """All blocks of a piece in turn."""
    return [
        *_room(done, layout),
        *phrases.totals("s", done.sums),
        "const int64_t first = from, last = to;",
        *_loop(done, layout, phrases.body(done)),
        *phrases.given("s", done.sums),
    ]


def over_rows(done: Statements, layout: Layout) -> list[str]:
    """Rows in turn, and the blocks of each."""
    made, columns, elements = phrases.made(done)
    loads, stores = phrases.column_sums(done)
    return [
        *phrases.cleared(done),
        *made,
        *_room(done, layout),
        *phrases.totals("s", done.sums),
        f"const int64_t blocks = unit / {layout.blockwise[0][1].block};",
        "for (int64_t r = from; r < to; ++r) {",
        *done.rows,
        *phrases.totals("t", done.row_sums),
        "const int64_t first = r * blocks, last = first + blocks;",
        *_loop(done, layout, ["const int64_t col = i - r * unit;", *columns, *loads, *elements, *stores]),
        *done.ends,
        "}",
        *(["delete[] made;"] if made else []),
        *phrases.given("s", done.sums),
    ]


def _room(done: Statements, layout: Layout) -> list[str]:
    """What is kept of a block."""
    block = layout.blockwise[0][1]
    room = block.block // block.fold[-1] * padded(block)
    return [
        f"constexpr int64_t length = {block.fold[-1]};",
        *[f"float kept{e}[2][{room}]; V share{e} = {{}};" for e in range(len(done.encoded))],
        "#ifdef LONG",
        f"constexpr int behind = {len(done.encoded) > 0:d}, ahead = AHEAD;",
        "#else",
        f"constexpr int behind = 0, ahead = {phrases.AHEAD};",
        *[f"float held{j}[{room}];" for j, _ in done.decoded],
        "#endif",
    ]


def _loop(done: Statements, layout: Layout, body: list[str]) -> list[str]:
    """Blocks from ``first`` to ``last``: their codes are looked up, they are worked on and encoded again.

    Long vectors do all at once, and encode a block while the next one is worked on, as dividing and looking up go well
    together. Shorter ones have registers for one thing at a time (``LONG``, see codes.hpp).
    """
    block = layout.blockwise[0][1]
    length = block.fold[-1]
    parts = block.block // length
    coded = range(len(done.encoded))
    halves = [f"body(kind, block * {block.block} + {h} * length + o, o, {h}, rest);" for h in range(parts)]
    late = [f"code{e}(kind, Rows<1>(), block - 1, !turn, o, rest);" for e in coded]
    both = ["if (now) {", *halves, "}", "if (behind && before) {", *late, "}"]
    return [
        "for (int64_t block = first; block < last + behind; ++block) {",
        "const bool now = block < last, before = block > first;",
        "const int turn = behind ? block & 1 : 0;",
        *[line.replace("[block]", "[block - !now]") for line in done.blocks],
        *[f"M top{e} = {{}};" for e in coded],
        *phrases.started("s", done.sums),
        *phrases.started("t", done.row_sums),
        *_looked_up(done, padded(block), parts),
        *phrases.function("body", "int64_t i, int64_t o, int half", body),
        *_codes(done, length, parts),
        *phrases.function("both", "int64_t o", both),
        *phrases.run("both(", "o"),
        *phrases.collected("s", done.sums),
        *phrases.collected("t", done.row_sums),
        *(["if (now) {", *_scales(done), "}"] if coded else []),
        "if (!behind) {",
        *[
            line
            for e in coded
            for line in phrases.run(
                f"code{e}(", "Rows<1>(), block, 0, o", f"code{e}(Whole(), Rows<4>(), block, 0, o, W);"
            )
        ],
        "}",
        "}",
    ]


def _looked_up(done: Statements, width: int, parts: int) -> list[str]:
    """A function for each tensor of codes, ``plain``, that gives values; short vectors look up a whole block before."""
    lines: list[str] = []
    for j, text in done.decoded:
        at = f"held{j} + half * {width} + o"
        lines += [
            *phrases.function(f"look{j}", LOOKED, [f"return {text};"]),
            "#ifdef LONG",
            f"const auto& plain{j} = look{j};",
            "#else",
            f"for (int half = 0; half < {parts}; ++half) {{",
            *phrases.function("hold", "int64_t o", [f"keep({at}, look{j}(kind, o, half, rest));"]),
            *phrases.run("hold(", "o"),
            "}",
            *phrases.function(f"plain{j}", LOOKED, [f"return load<false>({at}, W);"]),
            "#endif",
        ]
    return lines


def _codes(done: Statements, length: int, parts: int) -> list[str]:
    """A function for each encoded tensor: the codes of one vector or several, from what has been kept of a block."""
    lines = []
    for e, (codec, to, _) in enumerate(done.encoded):
        shares = [f"share{e} * load<false>(kept{e}[kept] + {h * padded(codec)} + at, W)" for h in range(parts)]
        texts = [encoded(codec, share, f"places{e}") for share in shares]
        whole = texts[0] if parts == 1 else f"({texts[0]}) * 16 + ({texts[1]})"
        if tabled(codec):
            lines.append(f"const Places places{e} = places({book_name(codec)});")
        lines += phrases.function(
            f"code{e}",
            "auto many, int64_t block, int kept, int64_t o",
            [
                "M codes[many.value];",
                "#pragma GCC unroll 4",
                "for (int k = 0; k < many.value; ++k) {",
                "const int64_t at = o + k * W;",
                f"codes[k] = {whole};",
                "}",
                f"put<part>(p{to} + block * length + o, codes, rest);",
            ],
        )
    return lines


def _scales(done: Statements) -> list[str]:
    """The scale of each encoded tensor's block, and what its numbers are multiplied by to be shares of it."""
    return [
        line
        for e, (_, _, scale) in enumerate(done.encoded)
        for line in (
            f"const float most{e} = larger(largest(top{e}), {FLOOR!r}f);",
            f"p{scale}[block] = most{e};",
            f"share{e} = up(1 / most{e});",
        )
    ]
