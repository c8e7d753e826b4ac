"""Recorded graphs as Triton: a program takes one tile of one tensor, and finds both in tables.

What a graph makes of numbers alone every program works out for itself. Where state is stored in blocks of codes a tile
is some whole blocks, ``(blocks, parts of a byte, codes)``; else it is a run of elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import fx

from thalweg.codecs import FLOOR, Blockwise, Layout
from thalweg.engine.family import Unsupported
from thalweg.engine.functions import limits_of, name_of
from thalweg.engine.record import WHOLE, Graph, Kind
from thalweg.engine.writer import COMPARED, LOGICAL, TRUTHS, NodeWriter

#: What memory may hold, and its name in Triton.
TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16", torch.uint8: "uint8"}
#: Elements of a tile: eight for each of its threads, so that there is room for several tiles beside each other.
TILE = 1024


class Value(NamedTuple):
    """An expression: of floats, truths or an integer, or the number of a sum. ``whole``: one for each element."""

    text: str
    whole: bool = False
    kind: str = "float"


@dataclass(frozen=True)
class Source:
    """The text of a graph's kernels: ``tiles``, and ``tensors`` for what is left to do with each when those are done.

    That is to put its ``sums`` together, or to store its ``numbers``. ``answers`` are those it reads, an argument each;
    ``books`` the codecs whose codebooks it looks up, likewise. A tile has so many ``units`` of ``unit`` elements.
    """

    text: str
    answers: tuple[tuple[Any, ...], ...]
    books: tuple[Blockwise, ...]
    sums: int
    numbers: int
    unit: int
    units: int


_BINARY = {"add": "+", "sub": "-", "mul": "*", **COMPARED, **LOGICAL}
_NAN = "propagate_nan=tl.PropagateNan.ALL"
_FUNCTIONS = {
    "truediv": "tl.div_rn({0}, {1})",
    "sqrt": "tl.sqrt_rn({0})",
    "rsqrt": "tl.div_rn(1.0, tl.sqrt_rn({0}))",
    "abs": "tl.abs({0})",
    "neg": "-{0}",
    "square": "{0} * {0}",
    "sign": "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, 0.0))",
    "relu": f"tl.maximum({{0}}, 0.0, {_NAN})",
    "floor": "tl.floor({0})",
    "exp": "tl.exp({0})",
    "log": "tl.log({0})",
    "sigmoid": "tl.sigmoid({0})",
    "maximum": f"tl.maximum({{0}}, {{1}}, {_NAN})",
    "minimum": f"tl.minimum({{0}}, {{1}}, {_NAN})",
    "where": "tl.where({0}, {1}, {2})",
    "isfinite": f"tl.abs({{0}}) <= {torch.finfo(torch.float32).max!r}",
    "isnan": "{0} != {0}",
    "invert": "~{0}",
    "logical_not": "~{0}",
    "zeros_like": "0.0",
    "ones_like": "1.0",
}
#: What kernels call: rounding, as ``thalweg.rounding`` does it on bits.
_HEADER = """
@triton.jit
def at_random(x, i, seed):
    h = (i.to(tl.uint32) + seed.to(tl.uint32) * 0x9E3779B1) * 0x45D9F3B
    h = (h ^ (h >> 16)) * 0x45D9F3B
    b = x.to(tl.uint32, bitcast=True)
    up = ((b + ((h ^ (h >> 16)) & 0xFFFF)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    down = (b & 0xFFFF0000).to(tl.float32, bitcast=True)
    finite = tl.where(tl.abs(up) <= 3.4028234663852886e38, up, down)
    return tl.where(tl.abs(x) <= 3.4028234663852886e38, finite, x)


@triton.jit
def to_bfloat16(x):
    b = x.to(tl.uint32, bitcast=True)
    y = ((b + 0x7FFF + ((b >> 16) & 1)) & 0xFFFF0000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) <= 3.4028234663852886e38, y, x)


@triton.jit
def most_of(x):
    return tl.where(tl.max((x != x).to(tl.int32)) > 0, float("nan"), tl.max(x))
"""


class Writer(NodeWriter):
    """Turns the nodes of a graph into statements. Raises ``Unsupported`` where there is no Triton for one.

    ``columns`` are the tensors of each parameter in the order of their pointers: the short key of each, and its dtype.
    ``row`` is how many numbers a parameter has.
    """

    def __init__(
        self,
        graph: Graph,
        kinds: Sequence[Kind],
        columns: Sequence[tuple[tuple[str, ...], torch.dtype]],
        layout: Layout,
        row: int,
    ) -> None:
        super().__init__(graph)
        self.kinds = kinds
        self.columns = columns
        self.layout = layout
        self.row = row
        self.loads: list[str] = []
        self.body: list[str] = []
        self.lone: set[int] = set()  # the columns of numbers that are read
        self.answers: list[tuple[Any, ...]] = []
        self.books: list[Blockwise] = []
        self.hows: list[str] = []
        self.settled: list[int] = []  # the columns of numbers that are stored when all tiles are done

    def write(self) -> Source:
        """The kernels' text."""
        self.go_through()
        fold = self.layout.fold
        unit = math.prod(fold) or 1
        units = 1 << (TILE // unit).bit_length() - 1
        text = self.text(unit, units)
        return Source(text, tuple(self.answers), tuple(self.books), len(self.hows), len(self.settled), unit, units)

    # Text around the statements.

    def text(self, unit: int, units: int) -> str:
        """The module: helpers, the kernel, and the one that puts tiles' sums together."""
        arguments = [f"answer{a}" for a in range(len(self.answers))] + [f"book{b}" for b in range(len(self.books))]
        pointers = [self.pointer(j) for j in range(len(self.columns))]
        hints = [f"p{j} = tl.multiple_of(p{j}, 16)" for j in range(len(self.columns)) if j not in self.lone]
        lines = [
            *pointers,
            "if ALIGNED:",
            *_indented(hints),
            f"first = (tile - tl.load(starts + t)) * {units}",
            "n = tl.load(sizes + t)",
            *(self.blocks(units) if unit > 1 else [f"i = first + tl.arange(0, {units})", "inside = i < n"]),
            *self.whole_or_not(units),
        ]
        named = ", ".join(["table", "tensor_of", "starts", "sizes", "h", "later", *arguments])
        kernel = [
            "@triton.jit",
            f"def tiles({named}, ALIGNED: tl.constexpr):",
            *_indented(["tile = tl.program_id(0).to(tl.int64)", "t = tl.load(tensor_of + tile)", *lines]),
        ]
        finish = self.stored() if self.settled else self.together(unit) if self.hows else []
        return "\n".join([_HEADER, "", *kernel, "", *finish])

    def blocks(self, units: int) -> list[str]:
        """Where the codes and elements of a tile's blocks are."""
        *parts, length = self.layout.fold
        many = math.prod(parts)
        wide = 1 << (length - 1).bit_length()
        return [
            f"block = first + tl.arange(0, {units})[:, None, None]",
            f"part = tl.arange(0, {many})[None, :, None]",
            f"o = tl.arange(0, {wide})[None, None, :]",
            f"i = (block * {many} + part) * {length} + o",
            f"place = block * {length} + o",
            f"inside = (block < n) & (o < {length})",
        ]

    def whole_or_not(self, units: int) -> list[str]:
        """The statements, without masks where a tile is whole; none is whose blocks are no power of two long."""
        length = self.layout.fold[-1] if self.layout.fold else 1
        masked = self.statements(", mask=inside", ", mask=block < n")
        if length & (length - 1):
            return masked
        whole = self.statements("", "")
        return [f"if first + {units} <= n:", *_indented(whole), "else:", *_indented(masked)]

    def statements(self, mask: str, scales: str) -> list[str]:
        """The loads and what is done with them, with these masks for elements and for blocks' scales."""
        masks = {"@MASK": mask, "@SCALES": scales, "@NUMBERS": str(len(self.settled))}
        lines = [*self.loads, *self.body]
        for name, text in masks.items():
            lines = [line.replace(name, text) for line in lines]
        return lines

    def together(self, unit: int) -> list[str]:
        """A kernel that puts the sums of each tensor's tiles together, in an order of its own and in float64."""
        lines = [
            "t = tl.program_id(0)",
            "begin, end = tl.load(starts + t), tl.load(starts + t + 1)",
            "all_tiles = tl.load(starts + tl.num_programs(0))",
        ]
        for s, how in enumerate(self.hows):
            other = "-float('inf')" if how == "amax" else "0.0"
            lines += [
                f"total = tl.full([1024], {other}, tl.float64)",
                "at = begin",
                "while at < end:",
                "    i = at + tl.arange(0, 1024)",
                f"    x = tl.load(later + {s} * all_tiles + i, mask=i < end, other={other}).to(tl.float64)",
                f"    total = {f'tl.maximum(total, x, {_NAN})' if how == 'amax' else 'total + x'}",
                "    at += 1024",
                f"whole = {'most_of(total)' if how == 'amax' else 'tl.sum(total)'}",
                *([f"whole = whole / (tl.load(sizes + t) * {unit}).to(tl.float64)"] if how == "mean" else []),
                f"tl.store(out + {s} * tl.num_programs(0) + t, whole)",
            ]
        return ["@triton.jit", "def tensors(starts, sizes, later, out):", *_indented(lines)]

    def stored(self) -> list[str]:
        """A kernel that stores each tensor's numbers."""
        lines = [
            line
            for k, j in enumerate(self.settled)
            for line in (
                f"{self.pointer(j)}",
                f"tl.store(p{j}, tl.load(later + t * {len(self.settled)} + {k}))",
            )
        ]
        return ["@triton.jit", "def tensors(table, later):", *_indented(["t = tl.program_id(0)", *lines])]

    def pointer(self, j: int) -> str:
        """Where a column's tensor is found."""
        kind = TYPES[self.columns[j][1]]
        return f"p{j} = tl.load(table + t * {len(self.columns)} + {j}).to(tl.pointer_type(tl.{kind}))"

    # Nodes.

    def at_random(self, node: fx.Node) -> None:
        seed = self.read(node.args[1]).text
        self.put(node, f"at_random({self.element(node.args[0])}, i, {seed})", True)

    def to_nearest(self, node: fx.Node) -> None:
        self.put(node, f"to_bfloat16({self.element(node.args[0])})", True)

    def reshape(self, node: fx.Node, name: str) -> None:
        value = self.read(node.args[0])
        if name == "reshape" and value.whole:
            raise Unsupported("another shape")
        self.values[node] = value

    def arithmetic(self, node: fx.Node, name: str) -> None:
        limits = limits_of(node) if name == "clamp" else {}
        arguments = [node.args[0], *limits.values()] if limits else [a for a in node.args if a is not None]
        if node.kwargs and not limits:
            raise Unsupported(f"{name} with {dict(node.kwargs)}")
        found = [self.read(a) for a in arguments]
        whole = any(v.whole for v in found)
        texts = [v.text for v in found]
        if any(v.kind == "integer" for v in found):
            if name != "add" or whole:
                raise Unsupported(f"{name} of integers")
            texts = [v.text if isinstance(a, fx.Node) else str(a) for a, v in zip(arguments, found, strict=True)]
            self.values[node] = Value(f"({' + '.join(texts)})", kind="integer")
            return
        if any(v.kind == "sum" for v in found):
            raise Unsupported("arithmetic with sums of the same pass")
        if name not in (*TRUTHS, "where"):
            texts = [f"tl.where({v.text}, 1.0, 0.0)" if v.kind == "truth" else v.text for v in found]
        if name == "pow" and node.args[1] == 2:
            name = "square"
        if name == "clamp":
            text = texts[0]
            for which, limit in zip(limits, texts[1:], strict=True):
                text = f"tl.{'maximum' if which == 'min' else 'minimum'}({text}, {limit}, {_NAN})"
        elif name in _BINARY:
            text = f"{texts[0]} {_BINARY[name]} {texts[1]}"
        elif name in _FUNCTIONS:
            text = _FUNCTIONS[name].format(*texts)
        else:
            raise Unsupported(name)
        self.put(node, text, whole, "truth" if name in TRUTHS else "float")

    def convert(self, node: fx.Node) -> None:
        value = self.read(node.args[0])
        dtype = node.args[1] if len(node.args) > 1 else node.kwargs.get("dtype")
        if dtype is torch.int64 and not value.whole:
            self.values[node] = Value(f"({value.text}).to(tl.int64)", kind="integer")
        elif dtype == torch.float32 and value.kind == "truth":
            self.put(node, f"tl.where({value.text}, 1.0, 0.0)", value.whole)
        elif dtype == torch.float32:
            self.values[node] = value
        else:
            raise Unsupported(f"conversion to {dtype}")

    def reduction(self, node: fx.Node, name: str) -> None:
        value = self.read(node.args[0])
        if not self.kinds or value.kind not in ("float", "truth") or not (value.whole or name == "sum"):
            raise Unsupported(f"{name} of this")
        if node.args[1:] or node.kwargs:
            raise Unsupported(f"{name} along axes")
        other = "-float('inf')" if name == "amax" else "0.0"
        text = f"tl.where({value.text}, 1.0, 0.0)" if value.kind == "truth" else value.text
        # A number counts once, in a tensor's first tile.
        within = f"tl.where({'inside' if value.whole else 'first == 0'}, {text}, {other})"
        whole = f"{'most_of' if name == 'amax' else 'tl.sum'}({within})" if value.whole else within
        s = len(self.hows)
        self.body.append(f"tl.store(later + {s} * tl.num_programs(0) + tile, {whole})")
        self.hows.append(name)
        self.values[node] = Value(str(s), kind="sum")

    def output(self, node: fx.Node) -> None:
        outputs: Any = node.args[0]
        if not self.kinds:
            return
        if any(kind.over not in WHOLE for kind in self.kinds):
            raise Unsupported("values along axes")
        if [self.read(out).text for out in outputs] != [str(s) for s in range(len(self.hows))]:
            raise Unsupported("answers that are no reductions, or in another order")

    def store(self, node: fx.Node) -> None:
        to, value = node.args
        key, axes = self.inputs[to]
        j = self.column(key)
        found = self.read(value)
        if found.kind not in ("float", "truth"):
            raise Unsupported(f"storing {found.kind}")
        if axes:
            self.body.append(f"tl.store(p{j} + i, {found.text}@MASK)")
        elif found.whole:
            raise Unsupported("storing something larger")
        else:
            # Other tiles may read the number yet.
            self.body.append(f"tl.store(later + t * @NUMBERS + {len(self.settled)}, {found.text}, mask=first == 0)")
            self.settled.append(j)

    # Codes.

    def decode(self, node: fx.Node, codec: Blockwise) -> None:
        codes, scale = (self.column(self.inputs[n][0]) for n in node.args)
        name = f"codes{codes}"
        self.loads.append(f"{name} = tl.load(p{codes} + place@MASK).to(tl.int32)")
        if codec.bits == 4:
            self.loads.append(f"{name} = tl.where(part == 0, {name} >> 4, {name} & 15)")
        self.loads.append(f"scale{codes} = tl.load(p{scale} + block@SCALES)")
        if codec not in self.books:
            self.books.append(codec)
        self.put(node, f"tl.load(book{self.books.index(codec)} + {name}) * scale{codes}", True)

    def encode(self, node: fx.Node, codec: Blockwise) -> None:
        """A block's scale and codes, by the arithmetic that the codec has for them."""
        value = self.element(node.args[0])
        codes, scale = self.coded(node)
        size = f"tl.abs({value})" if codec.signed else value
        top, share, code = (f"{what}_{node.name}" for what in ("top", "share", "code"))
        self.body += [
            f"{top} = tl.max(tl.max(tl.where(inside, {size}, 0.0), 2, keep_dims=True), 1, keep_dims=True)",
            f"{top} = tl.maximum({top}, {FLOOR!r}, {_NAN})",
            f"{share} = {value} * tl.div_rn(1.0, {top})",
        ]
        graph = fx.Graph()
        given = graph.placeholder("share")
        self.values[given] = Value(share, True)
        found = codec.positions(fx.Proxy(given, fx.proxy.GraphAppendingTracer(graph)))
        for inner in graph.nodes:
            if inner.op != "placeholder":
                inner.name = f"{node.name}_{inner.name}"
                self.arithmetic(inner, name_of(inner))
        text = f"{self.values[found.node].text}.to(tl.int32)"
        if codec.bits == 4:
            text = f"tl.sum({text} * tl.where(part == 0, 16, 1), 1, keep_dims=True)"
        self.body += [
            f"{code} = {text}",
            f"tl.store(p{codes} + place, {code}.to(tl.uint8)@MASK)",
            f"tl.store(p{scale} + block, {top}@SCALES)",
        ]

    # Values.

    def read(self, argument: Any) -> Value:
        if not isinstance(argument, fx.Node):
            return _constant(argument)
        if argument not in self.values:
            if argument not in self.inputs:
                raise Unsupported(str(argument))
            key, axes = self.inputs[argument]
            if key[0] == "scalars" or (key[0] == "answer" and len(key) == 4):
                raise Unsupported("numbers by axes")
            if key[0] == "answer":
                return self.answer(argument, key, "0")
            j = self.column(key)
            self.lone |= set() if axes else {j}
            place = f"p{j} + i@MASK" if axes else f"p{j}"
            self.loads.append(f"{argument.name}_ = tl.load({place}).to(tl.float32)")
            self.values[argument] = Value(f"{argument.name}_", bool(axes))
        return self.values[argument]

    def item(self, node: fx.Node) -> None:
        whole, index = node.args
        key, _ = self.inputs.get(whole, ((None,), ()))
        if key[0] == "scalars":
            self.loads.append(f"{node.name}_ = tl.load(h + t * {self.row} + {index})")
            self.values[node] = Value(f"{node.name}_")
        elif key[0] == "answer" and len(key) == 3:
            self.answer(node, key, "t")
        else:
            raise Unsupported("an index")

    def answer(self, node: fx.Node, key: tuple[Any, ...], index: str) -> Value:
        if key not in self.answers:
            self.answers.append(key)
        self.loads.append(f"{node.name}_ = tl.load(answer{self.answers.index(key)} + {index})")
        self.values[node] = Value(f"{node.name}_")
        return self.values[node]

    def column(self, key: tuple[Any, ...]) -> int:
        """The place of a tensor's pointer."""
        short = (key[0], key[-1]) if key[0] == "state" else key[:1]
        return next(j for j, (known, _) in enumerate(self.columns) if known == short)

    def element(self, argument: Any) -> str:
        """A value of floats that has one for each element."""
        value = self.read(argument)
        if value.kind != "float":
            raise Unsupported(f"elements of {value.kind}")
        return value.text if value.whole else f"({value.text} + (i * 0).to(tl.float32))"

    def put(self, node: fx.Node, text: str, whole: bool, kind: str = "float") -> None:
        """Give a node's value a name."""
        self.body.append(f"{node.name}_ = {text}")
        self.values[node] = Value(f"{node.name}_", whole, kind)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _constant(value: Any) -> Value:
    if isinstance(value, bool):
        return Value(str(value), kind="truth")
    if not isinstance(value, (int, float)):
        raise Unsupported(f"{value!r}")
    return Value(repr(float(value)) if math.isfinite(value) else f"float('{value}')")
