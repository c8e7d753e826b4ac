"""Recorded graphs as C++ statements: what is worked out where, before the loops that ``loops`` puts around them.

A graph has been recorded for one tensor. What it makes of numbers alone is worked out once a piece, what it makes of
rows once a row, and what it makes of elements, or of columns, becomes vector arithmetic in the innermost loop. Sums and
maxima are collected on the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx

from thalweg.codecs import Blockwise, Layout
from thalweg.engine.family import Unsupported
from thalweg.engine.functions import limits_of, name_of
from thalweg.engine.native import roots
from thalweg.engine.record import WHOLE as ONE_NUMBER
from thalweg.engine.record import Graph, Kind
from thalweg.engine.writer import COMPARED, LOGICAL, TRUTHS, NodeWriter
from thalweg.square import COLUMNS, ROWS, as_shaped, as_square, pack, unpack

#: What memory may hold, and its name in C++.
TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16", torch.uint8: "uint8_t"}
#: What a value has one of for each tensor, row (index of the first axis), column (of all the others), or element.
NUMBER, ROW, COLUMN, ELEMENT = range(4)


class Value(NamedTuple):
    """A C++ expression: of floats, truths or integers, or the name of a sum that is not known yet.

    ``axes`` says of each of its axes which of the parameter's it is, None for one of length one. ``late``: it is known
    when all pieces are done.
    """

    text: str
    axes: tuple[int | None, ...] = ()
    level: int = NUMBER
    kind: str = "float"
    late: bool = False

    @property
    def vector(self) -> bool:
        return self.level >= COLUMN


@dataclass(frozen=True)
class Column:
    """A tensor that kernels of a family see of every parameter: the key of a graph's input, and its dtype."""

    key: tuple[Any, ...]
    dtype: torch.dtype


@dataclass
class Statements:
    """What is done where."""

    numbers: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)  # numbers that are asked for as they are
    rows: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  # of a row
    blocks: list[str] = field(default_factory=list)  # before a block of codes
    body: list[tuple[int, str]] = field(default_factory=list)  # with the level of each
    # When all pieces are done: what follows from their sums, and what every piece has read is stored.
    late: list[str] = field(default_factory=list)
    late_rows: list[str] = field(default_factory=list)
    late_columns: list[str] = field(default_factory=list)
    sums: list[str] = field(default_factory=list)  # how each is taken, see HOW in driver.hpp
    row_sums: list[str] = field(default_factory=list)
    column_sums: list[str] = field(default_factory=list)
    kept_rows: int = 0  # how many sums of rows wait until all pieces are done
    decoded: list[tuple[int, str]] = field(default_factory=list)  # columns of codes, and what they are looked up by
    encoded: list[tuple[Blockwise, int, int]] = field(default_factory=list)  # with the columns of codes and scales
    read: set[int] = field(default_factory=set)  # the columns that are read element by element
    answers: list[tuple[Any, ...]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # for each request: "sum", "each", "row", "column" or "matrix"

    @property
    def in_codes(self) -> bool:
        """Whether any state is read or stored in codes."""
        return bool(self.blocks or self.encoded)


_BINARY = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
_BINARY = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
_NAMES = (
    *(("sqrt", "root"), ("abs", "size"), ("sign", "sign"), ("relu", "positive"), ("floor", "whole")),
    *(("exp", "exponential"), ("log", "logarithm"), ("log1p", "logarithm1p"), ("tanh", "tangent_h")),
    *(("sigmoid", "logistic"), ("isfinite", "is_finite"), ("maximum", "larger"), ("minimum", "smaller")),
    *(("pow", "power"), ("atan2", "angle"), ("nextafter", "beyond")),
)
_FUNCTIONS = dict(_NAMES)


class Writer(NodeWriter):
    """Turns the nodes of a graph into statements. Raises ``Unsupported`` where there is no C++ for one.

    ``columns`` are the tensors of each parameter in the order of their pointers, ``kinds`` what is asked for at the
    ``barrier`` that the graph leads to, if it does. ``ndim`` axes can be seen; elements alone where it is one. With
    ``square`` rows and columns are those of the square view.
    """

    def __init__(
        self,
        graph: Graph,
        kinds: Sequence[Kind],
        barrier: int | None,
        columns: tuple[Column, ...],
        layout: Layout,
        ndim: int,
        square: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(graph)
        self.kinds = kinds
        self.barrier = barrier
        self.columns = columns
        self.every = tuple(range(ndim))
        self.square = square
        self.dtype = dtype
        self.layout = layout
        self.rounded: set[str] = set()  # to bfloat16
        self.done = Statements()
        if layout.blockwise and square:
            raise Unsupported("codes of square views")

    @property
    def in_rows(self) -> bool:
        """Whether rows are what kernels take one by one."""
        return self.square or len(self.every) > 1

    def write(self) -> Statements:
        self.go_through()
        return self.done

    def node(self, node: fx.Node, name: str) -> None:
        if node.target in (as_square, as_shaped):
            value = self.elements(node.args[0])
            self.values[node] = value._replace(axes=(ROWS, COLUMNS) if node.target is as_square else self.every)
        elif node.target is unpack:
            j = self.column(self.inputs[node.args[0]][0])
            text = f"flags<part>(p{j} + r * ((unit + 7) / 8), col, rest)"
            self.put(node, text, Value("", (ROWS, COLUMNS), ELEMENT), "truth")
        elif node.target is not pack:  # that is packed where it is stored
            super().node(node, name)

    def at_random(self, node: fx.Node) -> None:
        value, seed = self.elements(node.args[0]), self.read(node.args[1])
        self.put(node, f"at_random({value.text}, i, {seed.text})", value)
        self.rounded.add(self.values[node].text)

    def to_nearest(self, node: fx.Node) -> None:
        value = self.elements(node.args[0])
        self.put(node, f"rounded({value.text})", value)
        self.rounded.add(self.values[node].text)

    # Arithmetic.

    def arithmetic(self, node: fx.Node, name: str) -> None:
        limits = limits_of(node) if name == "clamp" else {}
        arguments: list[Any] = [a for a in node.args if a is not None]
        if name == "clamp":
            arguments = [node.args[0], *limits.values()]
        elif node.kwargs:
            raise Unsupported(f"{name} with {dict(node.kwargs)}")
        found = [self.read(a) for a in arguments]
        if any(v.kind == "integer" for v in found):
            if name != "add" or any(v.level for v in found):
                raise Unsupported(f"{name} of integers")
            text = " + ".join(f"int64_t({v.text})" for v in found)
            self.values[node] = Value(text, kind="integer")
            return
        axes = self.broadcast(found)
        like = Value("", axes, self.level(axes), late=any(v.late for v in found))
        truths = name in LOGICAL or name in ("invert", "logical_not")
        texts = [
            self.truth(v, like) if truths or (name == "where" and v is found[0]) else self.number(v, like)
            for v in found
        ]
        if name == "truediv" and like.vector and not found[1].vector:
            self.place(found[1]).append(f"const Divisor {node.name}_by = {self.number(found[1], found[1])};")
            text = f"over({texts[0]}, {node.name}_by)"
        elif name == "truediv" and like.level == ELEMENT and (inverse := self.inverse_root(node)):
            text = f"{texts[0]} * {inverse}"
        elif name == "truediv" and like.vector and (under := self.under_root(node.args[1])):
            text = f"over_root({texts[0]}, {self.number(under, like)})"
        else:
            text = self.formula(node, name, texts, like, limits)
        self.put(node, text, like, "truth" if name in TRUTHS else "float")

    def given(self, argument: Any) -> bool:
        """Whether it is a constant or made of the step's numbers alone, which are finite."""
        if not isinstance(argument, fx.Node) or argument.target == "new_ones":
            return True
        if argument.op == "placeholder":
            return self.inputs[argument][0][0] == "scalars"
        return all(map(self.given, argument.all_input_nodes))

    def under_root(self, node: Any) -> Value | None:
        """What a node is the root of, element by element."""
        if name_of(node) != "sqrt":
            return None
        value = self.read(node.args[0])
        return value if value.level == ELEMENT else None

    def inverse_root(self, node: fx.Node) -> str | None:
        """One over what a node divides by, where that is the root of a row's number times a column's.

        Both are inverses of roots of their own then, each taken once; zero counts for the least normal number.
        """
        root = roots.of_product(node.args[1])
        if root is None or not all(map(self.given, root.limits)):
            return None
        halves = sorted(map(self.read, root.factors), key=lambda value: value.level)
        if [half.level for half in halves] != [ROW, COLUMN] or any(
            half.late or half.kind != "float" for half in halves
        ):
            return None
        row, column = (f"{node.name}_{of}" for of in ("row", "column"))
        self.place(halves[0]).append(f"const T {row} = 1 / root(larger({halves[0].text}, T({roots.LEAST})));")
        least = f"at_least({halves[1].text}, T({roots.LEAST}))"
        self.place(halves[1]).append((COLUMN, f"const V {column} = 1 / root({least});"))
        text = f"up({row}) * {column}"
        for limit in root.limits:
            text = f"at_most({text}, 1 / root({self.number(self.read(limit), Value(''))}))"
        return f"({text})"

    def formula(self, node: fx.Node, name: str, texts: list[str], like: Value, limits: dict[str, Any]) -> str:
        if operator := {**_BINARY, **COMPARED, **LOGICAL}.get(name):
            return f"{texts[0]} {operator} {texts[1]}"
        if name == "pow" and node.args[1] == 2:
            name = "square"
        if name in _FUNCTIONS:
            return f"{_FUNCTIONS[name]}({', '.join(texts)})"
        if name == "clamp":
            text = texts[0]
            for (which, known), limit in zip(limits.items(), texts[1:], strict=True):
                if like.vector and self.given(known):
                    text = f"at_{'least' if which == 'min' else 'most'}({text}, {self.read(known).text})"
                else:  # a limit may be NaN, too
                    text = f"{'larger' if which == 'min' else 'smaller'}({text}, {limit})"
            return text
        simple = {
            "where": "choose({0}, {1}, {2})",
            "neg": "-{0}",
            "square": "{0} * {0}",
            "rsqrt": "1 / root({0})",
            "isnan": "{0} != {0}",
            "invert": "~{0}" if like.vector else "!{0}",
            "logical_not": "~{0}" if like.vector else "!{0}",
            "zeros_like": "up(T(0))" if like.vector else "T(0)",
            "ones_like": "up(T(1))" if like.vector else "T(1)",
        }
        if name not in simple:
            raise Unsupported(name)
        return simple[name].format(*texts)

    def convert(self, node: fx.Node) -> None:
        value = self.read(node.args[0])
        dtype = node.args[1] if len(node.args) > 1 else node.kwargs.get("dtype")
        if dtype is torch.int64 and value.level == NUMBER:
            self.values[node] = Value(f"int64_t({value.text})", kind="integer")
        elif dtype == self.dtype and value.kind == "truth":
            self.put(node, self.number(value, value), value)
        elif dtype == self.dtype:
            self.values[node] = value
        else:
            raise Unsupported(f"conversion to {dtype}")

    def reshape(self, node: fx.Node, name: str) -> None:
        value = self.read(node.args[0])
        if name == "unsqueeze":
            given: Any = node.args[1]
            place = given % (len(value.axes) + 1)
            value = value._replace(axes=(*value.axes[:place], None, *value.axes[place:]))
        elif name == "reshape" and value.level != NUMBER:
            raise Unsupported("another shape")
        self.values[node] = value

    # Reductions, and what is asked for.

    def reduction(self, node: fx.Node, name: str) -> None:
        value = self.read(node.args[0])
        if value.late:
            if name != "sum" or not value.text.startswith("rows["):
                raise Unsupported(f"{name} of what is summed up")
            name = f"{node.name}_all"
            self.done.late.append(f"double {name} = 0; for (int64_t r = 0; r < all; ++r) {name} += {value.text};")
            self.values[node] = Value(f"T({name})", late=True)
            return
        given = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        dims = range(len(value.axes)) if given is None else (given if isinstance(given, (tuple, list)) else (given,))
        gone = {dim % len(value.axes) for dim in dims} if value.axes else set()
        if value.level == NUMBER:
            self.done.own.append(f"sums[{len(self.done.sums)}] = {self.number(value, value)};")
            self.summed(node, "sum", len(self.done.sums), Value(""))
            self.done.sums.append("n")
            return
        keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
        kept = [None if dim in gone else axis for dim, axis in enumerate(value.axes)]
        axes = tuple(axis for dim, axis in enumerate(kept) if keep or dim not in gone)
        level = self.level(axes)
        text = self.number(value, value)
        how = {"sum": "s", "mean": "a", "amax": "m"}[name]
        rest = "-INFINITY" if how == "m" else "0"
        inside = f"within<part>({text}, rest, {rest})"
        done = self.done
        if level == NUMBER:
            s = len(done.sums)
            if value.level == ROW:
                done.ends.append(f"sums[{s}] = together('{how}', sums[{s}], {text});")
                how = {"a": "r", "s": "t", "m": "x"}[how]
            else:
                once = "" if value.level == ELEMENT else "if (r == 0) "
                done.body.append((ELEMENT, f"{once}{_gathered(how, f's{s}', inside)}"))
                how = "c" if how == "a" and value.level == COLUMN else how
            done.sums.append(how)
            what = "sum"
        elif level == ROW and value.level == ELEMENT:
            s = len(done.row_sums)
            done.body.append((ELEMENT, _gathered(how, f"t{s}", inside)))
            done.row_sums.append(how)
            what = "row"
        elif level == COLUMN and value.level == ELEMENT:
            s = len(done.column_sums)
            done.body.append((ELEMENT, f"c{s} = {_joined(how, f'c{s}', text)};"))
            done.column_sums.append(how)
            what = "column"
        else:
            raise Unsupported(f"{name} along these axes")
        self.summed(node, what, s, Value("", axes, level))

    def summed(self, node: fx.Node, what: str, s: int, like: Value) -> None:
        """The value of a reduction: asked for at a barrier, or known when all pieces are done."""
        if self.kinds:
            self.values[node] = like._replace(text=f"{what} {s}", kind="sum")
            return
        if what == "row":
            self.done.ends.append(f"rows[{self.done.kept_rows} * all + r] = {self.row_total(s)};")
            s, self.done.kept_rows = self.done.kept_rows, self.done.kept_rows + 1
        text = {"sum": f"T(sums[{s}])", "row": f"rows[{s} * all + r]", "column": _column_total(s)}[what]
        self.values[node] = like._replace(text=text, late=True)

    def row_total(self, s: int) -> str:
        how = self.done.row_sums[s]
        return f"T({'' if how == 'm' else 'sum_'}t{s}.total(){' / double(unit)' if how == 'a' else ''})"

    def output(self, node: fx.Node) -> None:
        if not self.kinds:
            return
        done = self.done
        taken = []
        outputs: Any = node.args[0]
        for q, (out, kind) in enumerate(zip(outputs, self.kinds, strict=True)):
            value = self.read(out)
            if kind.over == "matrix":
                text = self.number(value, Value("", self.every, ELEMENT))
                done.body.append(
                    (ELEMENT, f"store<part>(p{self.column(('value', self.barrier, q))} + i, {text}, rest);")
                )
                done.asked.append("matrix")
                continue
            if value.kind != "sum":
                raise Unsupported("an answer that is no reduction")
            what, _, s = value.text.partition(" ")
            if what == "row":
                done.ends.append(f"p{self.column(('value', self.barrier, q))}[r] = {self.row_total(int(s))};")
            elif what == "column":
                to = self.column(("value", self.barrier, q))
                done.late_columns.append(f"store<part>(p{to} + col, {_column_total(int(s))}, rest);")
            else:
                taken.append(int(s))
                what = "sum" if kind.over in ONE_NUMBER else "each"
            done.asked.append(what)
        if taken != list(range(len(done.sums))):
            raise Unsupported("sums in another order")

    def store(self, node: fx.Node) -> None:
        value = node.args[1]
        if isinstance(value, fx.Node) and value.target is pack:
            j, flags = self.column(self.inputs[node.args[0]][0]), self.read(value.args[0])
            text = self.truth(flags, Value("", self.every, ELEMENT))
            self.done.body.append((ELEMENT, f"set_flags<part>(p{j} + r * ((unit + 7) / 8), col, {text}, rest);"))
            return
        found = self.read(value)
        j, axes = self.column(self.inputs[node.args[0]][0]), self.axes_of(node.args[0])
        to = self.level(axes)
        text = self.number(found, Value("", axes, max(to, found.level)))
        if found.level & ~to:
            raise Unsupported("storing something larger")
        if to == ELEMENT:
            unread = j not in self.done.read and self.columns[j].dtype == self.dtype
            half = text in self.rounded and self.columns[j].dtype == torch.bfloat16
            how = "stream" if unread else "give_upper" if half else "store"
            self.done.body.append((ELEMENT, f"{how}<part>(p{j} + i, {text}, rest);"))
        elif to == ROW:
            (self.done.late_rows if found.late else self.done.ends).append(f"p{j}[r] = {text};")
        elif to == COLUMN:
            self.done.late_columns.append(f"store<part>(p{j} + col, {text}, rest);")
        else:
            self.done.late.append(f"*p{j} = {text};")
        self.check(j, to)

    # Codes.

    def decode(self, node: fx.Node, codec: Blockwise) -> None:
        codes, scale = (self.column(self.inputs[n][0]) for n in node.args)
        like = Value("", self.every, ELEMENT)
        now = f"code<part>(p{codes} + block * {codec.fold[-1]} + o, rest, ahead)"
        if codec.bits == 4:
            now = f"(half ? {now} & 15 : {now} >> 4)"
        if not tabled(codec):
            self.done.blocks.append(f"const V unit{codes} = up(p{scale}[block] * (1 / 16.f));")
            self.put(node, f"__builtin_convertvector({now} + 1, V) * unit{codes}", like)
            return
        self.done.blocks.append(f"const Values values{codes} = values({book_name(codec)}, p{scale}[block]);")
        self.done.decoded.append((codes, f"decoded<{_signed(codec)}>({now}, values{codes})"))
        self.put(node, f"plain{codes}(kind, o, half, rest)", like)

    def encode(self, node: fx.Node, codec: Blockwise) -> None:
        """Keep the numbers of a block, and their largest magnitude, until its end."""
        e = len(self.done.encoded)
        text = self.elements(node.args[0]).text
        self.done.body += [
            (ELEMENT, f"keep(kept{e}[turn] + half * {padded(codec)} + o, {text});"),
            (ELEMENT, f"top{e} = above(top{e}, within<part>({text}, rest, 0));"),
        ]
        self.done.encoded.append((codec, *self.coded(node)))

    # Values.

    def level(self, axes: tuple[int | None, ...]) -> int:
        """What there is one of for each value of these axes."""
        found = {axis for axis in axes if axis is not None}
        if not found:
            return NUMBER
        if found in (set(self.every), {ROWS, COLUMNS}):
            return ELEMENT
        if found == ({ROWS} if self.square else {0}):
            return ROW
        if found == ({COLUMNS} if self.square else set(self.every[1:])):
            return COLUMN
        raise Unsupported(f"values along the axes {found}")

    def broadcast(self, values: list[Value]) -> tuple[int | None, ...]:
        axes: list[int | None] = [None] * max((len(v.axes) for v in values), default=0)
        for value in values:
            for back in range(1, len(value.axes) + 1):
                axis = value.axes[-back]
                if axis is not None and axes[-back] not in (None, axis):
                    raise Unsupported("axes that do not meet")
                axes[-back] = axes[-back] if axis is None else axis
        return tuple(axes)

    def column(self, key: tuple[Any, ...]) -> int:
        """The place of a tensor's pointer; keys may leave out that they are the first tensor's."""
        short = {"param": key[:1], "grad": key[:1], "state": (key[0], key[-1])}.get(key[0], key[:3])
        return next(j for j, column in enumerate(self.columns) if column.key == short)

    def axes_of(self, node: Any) -> tuple[int | None, ...]:
        return self.inputs[node][1]

    def item(self, node: fx.Node) -> None:
        whole, index = node.args
        key, _ = self.inputs.get(whole, ((None,), ()))
        if key[0] == "scalars":
            self.put(node, f"h[{index}]", Value(""))
        elif key[0] == "answer" and len(key) == 3:
            self.values[node] = self.answer(key, "[tensor]")
        else:
            raise Unsupported("an index")

    def answer(self, key: tuple[Any, ...], index: str) -> Value:
        if key not in self.done.answers:
            self.done.answers.append(key)
        return Value(f"answers[{self.done.answers.index(key)}]{index}")

    def read(self, argument: Any) -> Value:
        if not isinstance(argument, fx.Node):
            return _constant(argument)
        if argument not in self.values:
            if argument not in self.inputs:
                raise Unsupported(str(argument))
            key, axes = self.inputs[argument]
            if key[0] == "scalars":
                raise Unsupported("all numbers at once")
            if key[0] == "answer" and len(key) == 3:
                self.values[argument] = self.answer(key, "[0]")
            else:
                level = self.level(axes)
                j = self.column(key)
                self.check(j, level)
                self.done.read |= {j} if level == ELEMENT else set()
                rare = {NUMBER: f"T(*p{j})", ROW: f"T(p{j}[r])", COLUMN: f"load<part>(p{j} + col, rest)"}
                text = rare.get(level, f"load<part>(p{j} + i, rest, ahead)")
                self.put(argument, text, Value("", axes, level), first=True)
        return self.values[argument]

    def check(self, j: int, level: int) -> None:
        """Whether there is code to read and store a tensor's numbers: half precision is known element by element."""
        dtype = self.columns[j].dtype
        half = dtype == torch.bfloat16 and level == ELEMENT and self.dtype == torch.float32
        if dtype != self.dtype and not half:
            raise Unsupported(f"{dtype} beside {self.dtype}")

    def number(self, value: Value, like: Value) -> str:
        """The text of a value of floats, as a vector where ``like`` is one."""
        text = value.text
        if value.kind == "truth":
            text = f"choose({text}, {'up(T(1)), V{}' if value.vector else 'T(1), T(0)'})"
        elif value.kind != "float":
            raise Unsupported(f"arithmetic with {value.kind}")
        return f"up({text})" if like.vector and not value.vector else text

    def truth(self, value: Value, like: Value) -> str:
        if value.kind != "truth":
            raise Unsupported("truth of numbers")
        return f"M(M{{}} - {value.text})" if like.vector and not value.vector else value.text

    def elements(self, argument: Any) -> Value:
        """A value of floats that has one for each element."""
        like = Value("", self.every, ELEMENT)
        return like._replace(text=self.number(self.read(argument), like))

    def put(self, node: fx.Node, text: str, like: Value, kind: str = "float", first: bool = False) -> None:
        """Give a node's value a name, where it is worked out; ``first`` of all there, as nothing is stored yet."""
        name = f"{node.name}_"  # no function is called so
        line = f"const {({'float': ('T', 'V'), 'truth': ('bool', 'M')})[kind][like.vector]} {name} = {text};"
        there = self.place(like)
        statement = (like.level, line) if there is self.done.body else line
        if first:
            there.insert(0, statement)
        else:
            there.append(statement)
        self.values[node] = Value(name, like.axes, like.level, kind, like.late)

    def place(self, like: Value) -> list[Any]:
        """The statements among which a value is worked out."""
        done = self.done
        if like.late:
            if like.level == ELEMENT:
                raise Unsupported("elements of what is summed up")
            return {NUMBER: done.late, ROW: done.late_rows}.get(like.level, done.late_columns)
        return {NUMBER: done.numbers, ROW: done.rows}.get(like.level, done.body)


def book_name(codec: Blockwise) -> str:
    """What the tables of a codec are called."""
    return f"book_{'signed' if codec.signed else 'positive'}"


def tabled(codec: Blockwise) -> bool:
    """Whether its codebook is looked up: the one of four bits that has no sign is even."""
    return codec.signed or codec.bits == 8


def padded(codec: Blockwise) -> int:
    """The numbers kept for each part of a block: whole vectors."""
    return -(-codec.fold[-1] // 16) * 16


def encoded(codec: Blockwise, share: str, places: str) -> str:
    """The codes of a vector of shares; ``places`` are the tables of its codebook."""
    if not tabled(codec):
        return f"encoded_evenly({share})"
    return f"encoded<{_signed(codec)}>({share}, {places})"


def _signed(codec: Blockwise) -> str:
    """The template arguments of a codec: whether it is signed, and the code of zero."""
    return f"true, {2 ** (codec.bits - 1) - 1}" if codec.signed else "false, 0"


def _column_total(s: int) -> str:
    """Where the driver leaves the sums of columns."""
    return f"load<part>(columns + {s} * unit + col, rest)"


def _joined(how: str, a: str, b: str) -> str:
    return f"larger({a}, {b})" if how == "m" else f"{a} + {b}"


def _gathered(how: str, total: str, value: str) -> str:
    return f"{total}.take({value});" if how == "m" else f"{total} += {value};"


def _constant(value: Any) -> Value:
    if isinstance(value, bool):
        return Value(str(value).lower(), kind="truth")
    if not isinstance(value, (int, float)):
        raise Unsupported(f"{value!r}")
    if math.isnan(value):
        return Value("T(NAN)")
    if math.isinf(value):
        return Value("T(INFINITY)" if value > 0 else "T(-INFINITY)")
    return Value(f"T({value!r})")
