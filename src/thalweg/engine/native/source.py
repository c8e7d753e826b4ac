"""Recorded graphs as C++: a loop over the elements of any number of tensors, or over the blocks of their codes.

A graph has been recorded for one tensor. What it makes of numbers alone is worked out before the loop; what it makes of
elements becomes vector arithmetic in the loop's body. Sums and maxima are collected on the way. Codes are stored in a
second loop over each block, when its largest magnitude is known; the block's numbers wait in the processor's cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import fx

from thalweg.codecs import FLOOR, SCALE, Blockwise, Layout, Rounded
from thalweg.engine.native import tables
from thalweg.engine.record import Graph, Kind
from thalweg.rounding import nearest, stochastic

#: Elements that a thread takes at a time.
TASK = 1 << 16
#: Vectors whose sum is taken in the kernel's precision before it is added to one in double.
TILE = 16
#: What memory may hold, and its name in C++.
TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16", torch.uint8: "uint8_t"}


class Unsupported(Exception):
    """A graph with something that has no C++ here; another compiler may have it."""


class Value(NamedTuple):
    """A C++ expression: a number or a vector, of floats, truths or integers."""

    text: str
    vector: bool
    kind: str = "float"


@dataclass(frozen=True)
class Column:
    """A tensor that kernels of a family see of every parameter: the key of a graph's input, and its dtype.

    ``lone`` if it is a single number, whatever the parameter's shape.
    """

    key: tuple[Any, ...]
    dtype: torch.dtype
    lone: bool = False


_BINARY = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
_COMPARED = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_LOGICAL = {"and_": "&", "or_": "|", "xor": "^", "logical_and": "&", "logical_or": "|"}
_FUNCTIONS = {
    "sqrt": "root",
    "abs": "size",
    "sign": "sign",
    "relu": "positive",
    "floor": "whole",
    "exp": "exponential",
    "log": "logarithm",
    "log1p": "logarithm1p",
    "tanh": "tangent_h",
    "sigmoid": "logistic",
    "isfinite": "is_finite",
}
_EXTREMA = {"maximum": "larger", "minimum": "smaller"}
#: What leaves a number as it is.
_SAME = ("reshape", "contiguous", "clone", "detach", "float")


@dataclass(frozen=True)
class Source:
    """The C++ of a graph, which answers it reads (an array of each), and how many sums it finds."""

    text: str
    answers: tuple[tuple[Any, ...], ...]
    sums: int


def write(
    graph: Graph,
    kinds: list[Kind],
    barrier: int | None,
    columns: tuple[Column, ...],
    layout: Layout,
    row: int,
    dtype: torch.dtype,
) -> Source:
    """The C++ of a graph that was recorded for one tensor, up to a barrier or to its end.

    ``columns`` are the tensors of each parameter in the order of their pointers, ``kinds`` what is asked for at the
    barrier, ``row`` how many numbers a parameter's row has. Raises ``Unsupported`` where there is no C++ for something.
    """
    writer = _Writer(graph, kinds, barrier, columns, layout, row, dtype)
    return Source(writer.write(), tuple(writer.answers), len(writer.sums))


class _Writer:
    def __init__(
        self,
        graph: Graph,
        kinds: list[Kind],
        barrier: int | None,
        columns: tuple[Column, ...],
        layout: Layout,
        row: int,
        dtype: torch.dtype,
    ) -> None:
        self.graph = graph
        self.kinds = kinds
        self.barrier = barrier
        self.columns = columns
        self.layout = layout
        self.row = row
        self.dtype = dtype
        self.values: dict[fx.Node, Value] = {}
        self.numbers: list[str] = []  # before the loop
        self.blocks: list[str] = []  # before the elements of a block
        self.loads: list[str] = []
        self.body: list[str] = []
        self.sums: list[str] = []  # how each reduction is taken: s(um), a(verage), m(aximum)
        self.lone: list[
            tuple[int, str]
        ] = []  # new values of single numbers, and where they go when all pieces are done
        self.encoded: list[tuple[Blockwise, str]] = []
        self.books: dict[Blockwise, str] = {}
        self.answers: list[tuple[Any, ...]] = []
        self.input = dict(
            zip([n for n in graph.module.graph.nodes if n.op == "placeholder"], graph.inputs, strict=True)
        )
        self.block = layout.blockwise[0][1] if layout.blockwise else None

    def write(self) -> str:
        for node in self.graph.module.graph.nodes:
            if node.op in ("call_function", "call_method"):
                name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
                self.node(node, str(name))
            elif node.op == "output":
                self.output(node)
            elif node.op != "placeholder":
                raise Unsupported(node.op)
        return self.assemble()

    # Nodes.

    def node(self, node: fx.Node, name: str) -> None:
        codec = getattr(node.target, "__self__", None)
        if isinstance(codec, Rounded):
            self.values[node] = self.read(node.args[0])
        elif isinstance(codec, Blockwise):
            if name == "decode":
                self.decode(node, codec)
            else:
                self.encode(node, codec)
        elif node.target is stochastic:
            self.put(node, f"at_random({self.vector(node.args[0])}, i, {self.read(node.args[1]).text})")
        elif node.target is nearest:
            self.put(node, f"rounded({self.vector(node.args[0])})")
        elif name == "getitem":
            self.item(node)
        elif name == "copy_":
            self.store(node)
        elif name in ("sum", "mean", "amax"):
            self.reduction(node, name)
        else:
            self.arithmetic(node, name)

    def arithmetic(self, node: fx.Node, name: str) -> None:
        found = [self.read(a) if isinstance(a, (fx.Node, int, float)) else None for a in node.args]
        operands = [v for v in found if v is not None]
        vector = any(v.vector for v in operands)
        if name == "to":
            self.convert(node, found[0])
            return
        if any(v.kind == "integer" for v in operands):
            if name != "add":
                raise Unsupported(f"{name} of integers")
            self.values[node] = Value(" + ".join(f"int64_t({v.text})" for v in operands), False, "integer")
            return
        first = node.args[0]
        if name in _SAME and isinstance(first, fx.Node):
            self.values[node] = self.read(first)
        elif name == "clamp":
            self.clamp(node)
        elif name == "where" and len(found) == 3 and found[0] and found[0].kind == "truth":
            a, b = (self.operand(v, vector) for v in node.args[1:])
            self.put(node, f"choose({found[0].text}, {a}, {b})", vector)
        elif len(found) != len(operands) or node.kwargs:
            raise Unsupported(f"{name} of {node.args} and {dict(node.kwargs)}")
        elif name in _LOGICAL or name in ("invert", "logical_not"):
            if any(v.kind != "truth" for v in operands):
                raise Unsupported(f"{name} of numbers")
            texts = [f"M(M{{}} - {v.text})" if vector and not v.vector else v.text for v in operands]
            not_ = "~" if vector else "!"
            self.put(node, f" {_LOGICAL[name]} ".join(texts) if name in _LOGICAL else not_ + texts[0], vector, "truth")
        else:
            texts = [self.operand(a, vector) for a in node.args]
            self.put(node, *self.formula(name, texts, node, vector))

    def formula(self, name: str, texts: list[str], node: fx.Node, vector: bool) -> tuple[str, bool, str]:
        if name in _BINARY:
            return f"{texts[0]} {_BINARY[name]} {texts[1]}", vector, "float"
        if name in _COMPARED:
            return f"{texts[0]} {_COMPARED[name]} {texts[1]}", vector, "truth"
        if name in _EXTREMA:
            return f"{_EXTREMA[name]}({', '.join(texts)})", vector, "float"
        if name in _FUNCTIONS:
            return f"{_FUNCTIONS[name]}({texts[0]})", vector, "truth" if name == "isfinite" else "float"
        if name == "neg":
            return f"-{texts[0]}", vector, "float"
        if name == "square" or (name == "pow" and node.args[1] == 2):
            return f"{texts[0]} * {texts[0]}", vector, "float"
        if name == "rsqrt":
            return f"1 / root({texts[0]})", vector, "float"
        if name == "isnan":
            return f"{texts[0]} != {texts[0]}", vector, "truth"
        if name in ("pow", "atan2"):
            return f"{'power' if name == 'pow' else 'angle'}({', '.join(texts)})", vector, "float"
        if name in ("zeros_like", "ones_like"):
            return f"{texts[0]} * 0 + {int(name == 'ones_like')}", vector, "float"
        raise Unsupported(name)

    def convert(self, node: fx.Node, value: Value | None) -> None:
        dtype = node.args[1] if len(node.args) > 1 else node.kwargs.get("dtype")
        if value is None:
            raise Unsupported("to")
        if dtype is torch.int64 and not value.vector:
            self.values[node] = Value(f"int64_t({value.text})", False, "integer")
        elif dtype == self.dtype:
            self.values[node] = value
            if value.kind == "truth":
                self.put(node, self.float_of(value), value.vector)
        else:
            raise Unsupported(f"conversion to {dtype}")

    def clamp(self, node: fx.Node) -> None:
        limits = dict(zip(("min", "max"), node.args[1:], strict=False)) | dict(node.kwargs)
        limits = {k: v for k, v in limits.items() if v is not None}
        vector = any(self.read(v).vector for v in (node.args[0], *limits.values()))
        text = self.operand(node.args[0], vector)
        for which, limit in limits.items():
            text = f"{'larger' if which == 'min' else 'smaller'}({text}, {self.operand(limit, vector)})"
        self.put(node, text, vector)

    def item(self, node: fx.Node) -> None:
        whole, index = node.args
        key = self.input.get(whole)  # type: ignore[arg-type]
        if isinstance(whole, fx.Node) and key is None:
            codec = getattr(whole.target, "__self__", None)
            if isinstance(codec, Blockwise):
                return  # stored with its block
        if key is None:
            raise Unsupported("an index")
        if key[0] == "scalars":
            self.put(node, f"row[{index}]", False)
        else:
            self.values[node] = self.answer(key, "[tensor]")

    def answer(self, key: tuple[Any, ...], index: str) -> Value:
        if key not in self.answers:
            self.answers.append(key)
        return Value(f"answers[{self.answers.index(key)}]{index}", False)

    def reduction(self, node: fx.Node, name: str) -> None:
        if len(node.args) > 1 or node.kwargs.keys() - {"dtype"}:
            raise Unsupported(f"{name} along axes")
        value = self.read(node.args[0])
        if not value.vector:
            raise Unsupported(f"{name} of a number")
        s = len(self.sums)
        text = self.operand(node.args[0], True)
        if name == "amax":
            self.body.append(f"s{s} = larger(s{s}, within<part>({text}, rest, -INFINITY));")
        else:
            self.body.append(f"s{s} += within<part>({text}, rest, 0);")
        self.sums.append({"sum": "s", "mean": "a", "amax": "m"}[name])
        self.values[node] = Value(f"sum {s}", False, "sum")

    def output(self, node: fx.Node) -> None:
        outputs = node.args[0]
        if not self.kinds:
            return
        reduced = 0
        for q, (out, kind) in enumerate(zip(outputs, self.kinds, strict=True)):  # type: ignore[arg-type]
            if kind.over == "matrix":
                at = self.column(("value", self.barrier, q))
                self.body.append(f"store<part>(p{at} + i, {self.operand(out, True)}, rest);")
            elif self.values.get(out) != Value(f"sum {reduced}", False, "sum"):
                raise Unsupported("an answer of another kind")
            else:
                reduced += 1

    def store(self, node: fx.Node) -> None:
        key = self.input[node.args[0]]  # type: ignore[index]
        value = node.args[1]
        if isinstance(value, fx.Node) and isinstance(getattr(value.args and value.args[0], "target", None), Callable):
            codec = getattr(value.args[0].target, "__self__", None)  # type: ignore[union-attr]
            if isinstance(codec, Blockwise) and codec.store == value.args[0].target:  # type: ignore[union-attr]
                return
        j = self.column(key)
        if not self.columns[j].lone:
            self.body.append(f"store<part>(p{j} + i, {self.vector(value)}, rest);")
            return
        found = self.read(value)
        if found.vector or self.columns[j].dtype != self.dtype:
            raise Unsupported("a number made of elements, or of another dtype")
        self.lone.append((j, self.float_of(found)))

    # Codes.

    def role(self, node: Any) -> str:
        return str(self.input[node][2])

    def book(self, codec: Blockwise) -> str:
        return self.books.setdefault(codec, f"book_{'signed' if codec.signed else 'positive'}")

    def decode(self, node: fx.Node, codec: Blockwise) -> None:
        codes, scale = (self.column(self.input[n]) for n in node.args)  # type: ignore[index]
        now = f"code<part>(p{codes} + block * {self.bytes} + o, rest)"
        if codec.bits == 4:
            now = f"(half ? {now} & 15 : {now} >> 4)"
        if codec.bits == 4 and not codec.signed:
            self.blocks.append(f"const V unit{codes} = up(p{scale}[block] * (1 / 16.f));")
            self.put(node, f"__builtin_convertvector({now} + 1, V) * unit{codes}")
            return
        book = self.book(codec)
        for line in ("slope", "offset"):
            self.blocks.append(f"const Table {line}{codes} = times({book}.{line}, p{scale}[block]);")
        zero = 2 ** (codec.bits - 1) - 1
        self.put(node, f"decoded<{str(codec.signed).lower()}>({now}, slope{codes}, offset{codes}, {zero})")

    def encode(self, node: fx.Node, codec: Blockwise) -> None:
        """Keep the numbers of a block, and their largest magnitude, until its end."""
        e = len(self.encoded)
        value = self.vector(node.args[0])
        self.body.append(f"keep(kept{e}[turn] + half * {self.padded} + o, {value});")
        self.body.append(f"top{e} = above(top{e}, within<part>({value}, rest, 0));")
        codes = next(item for item in node.users if item.args[1] == 0)
        self.encoded.append((codec, self.role(next(iter(codes.users)).args[0])))

    def code(self, e: int) -> str:
        """The codes at one place of the block before, whose largest magnitude is known."""
        codec, role = self.encoded[e]

        def part(half: int) -> str:
            share = f"share{e} * load<false>(kept{e}[!turn] + {half * self.padded} + o, W)"
            if codec.bits == 4 and not codec.signed:
                return f"encoded_evenly({share})"
            zero = 2 ** (codec.bits - 1) - 1
            return f"encoded<{str(codec.signed).lower()}>({share}, {self.book(codec)}, {zero})"

        whole = part(0) if codec.bits == 8 else f"({part(0)}) * 16 + ({part(1)})"
        return f"put<part>(p{self.column(('state', role))} + (block - 1) * length + o, {whole}, rest);"

    def scale(self, e: int) -> list[str]:
        """What follows from the largest magnitude of a block."""
        scale = self.column(("state", self.encoded[e][1] + SCALE))
        top = f"const float most{e} = larger(largest(top{e}), {FLOOR!r}f);"
        return [top, f"p{scale}[block] = most{e};", f"share{e} = up(1 / most{e});"]

    @property
    def bytes(self) -> int:
        """The bytes of a block's codes, and the numbers of each of its parts."""
        assert self.block is not None
        return self.block.fold[-1]

    @property
    def parts(self) -> int:
        return 1 if self.block is None else self.block.block // self.bytes

    @property
    def padded(self) -> int:
        return -(-self.bytes // 16) * 16

    # Values.

    def column(self, key: tuple[Any, ...]) -> int:
        """The place of a tensor's pointer; keys may leave out that they are the first tensor's."""
        short = {"param": key[:1], "grad": key[:1], "state": (key[0], key[-1])}.get(key[0], key[:3])
        return next(j for j, column in enumerate(self.columns) if column.key == short)

    def read(self, value: Any) -> Value:
        if not isinstance(value, fx.Node):
            return _constant(value)
        if value not in self.values:
            key = self.input[value]
            if key[0] == "answer" and len(key) == 3:
                self.values[value] = self.answer(key, "[0]")
            elif key[0] == "scalars":
                raise Unsupported("all numbers at once")
            else:
                j = self.column(key)
                if self.columns[j].lone:
                    self.values[value] = Value(f"T(*p{j})", False)
                    return self.values[value]
                self.loads.append(f"const V {_name(value)} = load<part>(p{j} + i, rest);")
                self.values[value] = Value(_name(value), True)
        return self.values[value]

    def float_of(self, value: Value) -> str:
        if value.kind == "truth":
            return f"choose({value.text}, {'up(1), V{}' if value.vector else 'T(1), T(0)'})"
        if value.kind != "float":
            raise Unsupported(f"arithmetic with {value.kind}")
        return value.text

    def operand(self, argument: Any, vector: bool) -> str:
        value = self.read(argument)
        text = self.float_of(value)
        return f"up({text})" if vector and not value.vector else text

    def vector(self, argument: Any) -> str:
        return self.operand(argument, True)

    def put(self, node: fx.Node, text: str, vector: bool = True, kind: str = "float") -> None:
        """Give a node's value a name, in the loop or before it."""
        types = {"float": ("T", "V"), "truth": ("bool", "M")}
        (self.body if vector else self.numbers).append(f"const {types[kind][vector]} {_name(node)} = {text};")
        self.values[node] = Value(_name(node), vector, kind)

    # The whole.

    def assemble(self) -> str:
        double = self.dtype == torch.float64
        pointers = [f"{TYPES[c.dtype]}* p{j} = ({TYPES[c.dtype]}*)at[{j}];" for j, c in enumerate(self.columns)]
        constants = {"TASK": TASK, "UNIT": self.block.block if self.block else 1, "COLUMNS": len(self.columns)}
        constants |= {"ROW": self.row, "SUMS": len(self.sums), "FOUND": len(self.sums) + len(self.lone)}
        lines = [
            "typedef double T;\n#define DOUBLE" if double else "typedef float T;",
            _header("vectors.hpp"),
            *([] if double else [_header("codes.hpp")]),
            *[f"constexpr int64_t {name} = {value};" for name, value in constants.items()],
            f'constexpr char HOW[] = "{"".join(self.sums)}";',
            f"constexpr int LONE[] = {{{', '.join(str(j) for j, _ in self.lone) or '0'}}};",
            *[f"static const Book {name} = {tables.book(c.bits, c.signed)};" for c, name in self.books.items()],
            "static void work(int64_t from, int64_t to, int64_t tensor, void* const* at, const T* row,",
            "                 const T* const* answers, double* sums) {",
            *pointers,
            *self.numbers,
            *(self.over_blocks() if self.block else self.over_elements()),
            *[f"sums[{len(self.sums) + k}] = {text};" for k, (_, text) in enumerate(self.lone)],
            "}",
            _header("driver.hpp"),
        ]
        return "\n".join(lines)

    def over_elements(self) -> list[str]:
        step = f"{TILE} * W" if self.sums else "(to - from)"
        return [
            f"for (int64_t base = from; base < to; base += {step}) {{",
            *self.start(),
            f"const int64_t length = to - base < {step} ? to - base : {step};",
            *self.lambda_("body", "int64_t i", [*self.loads, *self.body]),
            *self.run("body(", "base + o"),
            "}",
        ]

    def over_blocks(self) -> list[str]:
        """Blocks in turn; each is encoded while the next one is worked on, as dividing and looking up go well together."""
        assert self.block is not None
        coded = range(len(self.encoded))
        half = [f"body(kind, block * {self.block.block} + {h} * length + o, o, {h}, rest);" for h in range(self.parts)]
        return [
            f"constexpr int64_t length = {self.bytes};",
            *[f"float kept{e}[2][{self.parts * self.padded}]; V share{e} = {{}};" for e in coded],
            f"for (int64_t block = from; block < to + {int(bool(coded))}; ++block) {{",
            "const bool now = block < to, before = block > from;",
            "const int turn = block & 1;",
            *[line.replace("[block]", "[block - !now]") for line in self.blocks],
            *[f"M top{e} = {{}};" for e in coded],
            *self.start(),
            *self.lambda_("body", "int64_t i, int64_t o, int half", [*self.loads, *self.body]),
            *self.lambda_("code", "int64_t o", [self.code(e) for e in coded]),
            *self.lambda_("both", "int64_t o", ["if (now) {", *half, "}", "if (before) code(kind, o, rest);"]),
            *self.run("both(", "o"),
            "if (now) {" if coded else "",
            *[line for e in coded for line in self.scale(e)],
            "}" if coded else "",
            "}",
        ]

    def start(self) -> list[str]:
        return [f"V s{s} = up({'-INFINITY' if how == 'm' else '0'});" for s, how in enumerate(self.sums)]

    def run(self, call: str, place: str) -> list[str]:
        """An unbroken run of ``length`` elements, and the sums of what it has found."""
        return [
            "int64_t o = 0;",
            f"for (; o + W <= length; o += W) {call}Whole(), {place}, W);",
            f"if (o < length) {call}Part(), {place}, int(length - o));",
            *[f"{'raise' if how == 'm' else 'add'}(sums[{s}], s{s});" for s, how in enumerate(self.sums)],
        ]

    def lambda_(self, name: str, places: str, lines: list[str]) -> list[str]:
        return [
            f"auto {name} = [&](auto kind, {places}, int rest) __attribute__((always_inline)) {{",
            "constexpr bool part = kind.value;",
            *lines,
            "};",
        ]


def _name(node: fx.Node) -> str:
    return f"{node.name}_"  # no function is called so


def _constant(value: Any) -> Value:
    if isinstance(value, bool):
        return Value(str(value).lower(), False, "truth")
    if not isinstance(value, (int, float)):
        raise Unsupported(f"{value!r}")
    if math.isnan(value):
        return Value("T(NAN)", False)
    if math.isinf(value):
        return Value("T(INFINITY)" if value > 0 else "T(-INFINITY)", False)
    return Value(f"T({value!r})", False)


@cache
def _header(name: str) -> str:
    return files("thalweg.engine.native").joinpath(name).read_text()
