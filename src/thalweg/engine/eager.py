"""The engines that need no compiler: ``reference`` (one tensor at a time) and ``foreach`` (lists of tensors)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.engine import coding, parts, processes
from thalweg.engine.many import Many
from thalweg.engine.owners import Deal
from thalweg.engine.parts import Asked, Totals
from thalweg.engine.record import Kind
from thalweg.engine.view import WIDE, Bound, View, answer, reduce, requests
from thalweg.engine.work import Work, gather
from thalweg.rounding import stochastic
from thalweg.slots.base import Request

#: Elements a chunk of lists may hold: its temporaries stay in a core's cache on the CPU.
CHUNK_ELEMENTS = 1 << 18
#: Elements a stack of equal matrices may hold on an accelerator; on the CPU large ones are best taken one by one.
STACK_ELEMENTS = 1 << 25


class Chunk:
    """Works that share everything, run as one.

    Of an element-wise recipe a single one runs on its tensors as they are, several are joined end to end into one
    tensor, which costs two copies in cache and saves an operation per tensor. Any other recipe runs as ``Many``, one
    work too, so that company changes no bit. ``fast``, which the reference engine is not: whole-matrix functions in
    their fast forms, and one large tensor as ``Many`` whatever its recipe: fewer temporaries. ``piece`` is of what the
    single work is a piece, if it is one.
    """

    def __init__(self, works: list[Work], fast: bool = True, piece: Pieces | None = None) -> None:
        self.works = works
        self.fast = fast
        self.piece = piece
        self.asked = 0  # requests so far that pieces share
        self.turn = 0  # barriers so far
        self.kinds: list[Kind | None] = []
        first = works[0]
        by_element = first.rule.recipe.scope == "element"
        large = fast and (not by_element or first.size > CHUNK_ELEMENTS)
        self.many = len(works) > 1 or (large and first.rule.plain)
        self.joined = len(works) > 1 and by_element and all(map(_joinable, works))
        self.dtype = first.compute_dtype
        cast = first.cast
        self.layout = layout = first.layout
        params = [w.param for w in works]
        grads = [w.grad for w in works]
        if cast is not None:
            params, grads = [p.to(cast) for p in params], [g.to(cast) for g in grads]
        grad = self.pack(grads)
        state = {role: self.pack([_state(w, role) for w in works]) for role in layout.seen}
        rule = first.rule
        shape = (first if piece is None else piece.work).shape
        self.view = View(self.pack(params), -grad if rule.maximize else grad, state, shape)
        self.flow = rule.recipe.flow(Bound(rule.recipe, rule.scalars), self.view)
        if layout.coded:
            self.flow = coding.coded(self.flow, self.view, layout)
        self.yielded: Any = None
        self.reply: Any = None
        self.result: Any = None

    def pack(self, tensors: list[Tensor]) -> Any:
        if self.joined:
            return torch.cat([t.reshape(-1) for t in tensors])
        return Many(tensors) if self.many else tensors[0]

    def each(self, value: Any) -> list[Tensor]:
        """The tensors of a packed value, one per work; of a joined one, as 1-D pieces."""
        if self.joined:
            return list(value.split([w.param.numel() for w in self.works]))
        return value.tensors if isinstance(value, Many) else [value]

    def store(self, targets: list[Tensor], values: list[Tensor]) -> None:
        torch._foreach_copy_([t.view(-1) for t in targets] if self.joined else targets, values)

    def advance(self) -> Any:
        """Run to the next barrier that involves other tensors (returned), or to the end (``None``)."""
        while True:
            try:
                yielded = self.flow.send(self.reply)
            except StopIteration as stop:
                self.result = stop.value
                return None
            asked = requests(yielded)
            self.kinds = self.seen(len(asked))
            self.turn += 1
            if any(r.over in WIDE for r in asked):
                return yielded
            self.reply = answer(yielded, list(map(self.answer, asked, self.kinds)))

    def seen(self, count: int) -> list[Kind | None]:
        """What is known of the requests of a barrier, where processes answer them together."""
        first = self.works[0]
        if first.shard is None:
            return [None] * count
        rule = first.rule
        return [*processes.kinds(rule.recipe, tuple(rule.places), rule.flags, first.form)[self.turn]]

    def answer(self, request: Request, kind: Kind | None) -> Any:
        if request.over != "matrix":
            return self.pack(self.reduced(request, kind))
        if kind is not None:
            return self.pack(self.of_wholes(request, kind))
        if self.piece is None or not request.shared:
            return self.pack(self.of_matrices(request))
        self.asked += 1
        known = self.piece.answers
        if self.asked not in known:  # where a piece asks of its gradient, the whole is meant
            known[self.asked] = self.of_matrices(request, {id(self.works[0].grad): self.piece.work.grad})
        return self.pack(known[self.asked])

    def reduced(self, request: Request, kind: Kind | None) -> list[Tensor]:
        """The reduction of each work's tensor; of parts, what all processes make of theirs."""
        tensors, over, how = self.each(request.value), request.over, request.how
        shards = [w.shard for w in self.works if w.shard is not None]
        if kind is None or not shards[0].groups(kind.gone):
            return [reduce(t, over, how) for t in tensors]
        found = [processes.reduced(t, over, "sum" if how == "mean" else how) for t in tensors]
        return found if over in WIDE else processes.together(found, shards, how, kind.gone)

    def of_wholes(self, request: Request, kind: Kind) -> list[Tensor]:
        """The answers of a function of whole matrices, or this process's parts of them.

        Each process works on matrices of its own if there are enough, else all on all.
        """
        shard, count = self.works[0].shard, len(self.works)
        assert shard is not None
        everywhere = request.shared or request.lone
        axes = [of or () for of in kind.axes]
        values = list(zip(map(self.each, (request.value, *request.others)), axes, strict=True))
        if shard.line and count >= (shard.processes if everywhere else 2):
            deal = Deal(shard, count)
            wholes = [deal.wholes(*value) for value in values]
            own = self.applied(request, wholes) if deal.mine else []
            return deal.everywhere(own) if everywhere else deal.parts(own, values[0][0][0])
        found = self.applied(request, [[shard.whole(t, of) for t in parts] for parts, of in values])
        every = tuple(range(len(shard.shape)))
        return found if everywhere else [shard.own(t, every) for t in found]

    def of_matrices(self, request: Request, wholes: Mapping[int, Tensor] = {}) -> list[Tensor]:
        """The answer for each work; ``wholes`` are taken instead of the tensors with those ids."""
        values = [self.each(value) for value in (request.value, *request.others)]
        return self.applied(request, [[wholes.get(id(t), t) for t in tensors] for tensors in values])

    def applied(self, request: Request, values: list[list[Tensor]]) -> list[Tensor]:
        """A request's function of tensors, each value's for every work."""
        function = (self.fast and request.fast) or request.function
        return list(function(*map(_stack, values), *request.given).unbind())

    def ask(self) -> Asked | None:
        self.yielded = self.advance()
        if self.yielded is None:
            return None
        asked = zip(requests(self.yielded), self.kinds, strict=True)
        return [self.totals(r, kind) if r.over in WIDE else None for r, kind in asked]

    def totals(self, request: Request, kind: Kind | None) -> Totals:
        """What the works add to a total over group or model."""
        shard = self.works[0].shard
        groups = shard.groups(kind.gone) if shard and kind else ()
        return Totals(self.reduced(request, kind), request.how, request.slot, groups)

    def tell(self, totals: list[Tensor | None]) -> None:
        like = self.works[0].param.device
        asked = zip(requests(self.yielded), self.kinds, totals, strict=True)
        answers = [self.answer(r, kind) if whole is None else whole.to(like, self.dtype) for r, kind, whole in asked]
        self.reply = answer(self.yielded, answers)

    def commit(self) -> None:
        drawn = 0 if self.layout.rounding == "stochastic" else None
        self.put([w.param for w in self.works], self.result, drawn)
        for role, value in self.view.new.items():
            if self.piece is not None and role in self.piece.roles and not self.piece.last:
                continue
            i = self.layout.roles.index(role)
            self.put([w.state[i] for w in self.works], value, self.layout.noise.get(role))

    def put(self, targets: list[Tensor], value: Any, drawn: int | None) -> None:
        values = self.each(value)
        if drawn is not None:
            values = [stochastic(v, w.seed + drawn) for v, w in zip(values, self.works, strict=True)]
        self.store(targets, values)


class Pieces:
    """A large tensor whose rows are apart, piece by piece, so that what a step makes on its way is small.

    What pieces share is worked out for the first, of the whole gradient, and stored with the last.
    """

    def __init__(self, work: Work) -> None:
        self.works = [work]
        self.work = work
        self.answers: dict[int, list[Tensor]] = {}  # to what pieces share, in the order of asking
        self.last = False
        specs = work.rule.recipe.state(tuple(work.param.shape))
        self.roles = {role for role, spec in specs.items() if spec.shape is not None}

    def ask(self) -> None:
        """Pieces do not wait for other tensors."""

    def tell(self, totals: list[Tensor | None]) -> None:
        raise AssertionError("pieces ask for no totals")

    def commit(self) -> None:
        work = self.work
        rows = len(work.param)
        step = max(1, CHUNK_ELEMENTS * rows // work.param.numel())
        for start in range(0, rows, step):
            self.last = start + step >= rows
            piece = slice(start, start + step)
            pairs = zip(work.layout.roles, work.state, strict=True)
            state = [s if role in self.roles else s[piece] for role, s in pairs]
            chunk = Chunk([replace(work, param=work.param[piece], grad=work.grad[piece], state=state)], piece=self)
            chunk.ask()
            chunk.commit()


def _in_pieces(work: Work) -> bool:
    """Whether a tensor is large enough to be taken in pieces, and can be."""
    if work.param.numel() <= CHUNK_ELEMENTS or work.param.device.type != "cpu" or work.layout.coded or work.shard:
        return False
    # What is rounded at random goes by the place in the whole.
    plain = work.cast is None and work.seed is None and not work.rule.maximize
    return plain and work.rule.recipe.apart(tuple(work.param.shape))


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]


def _joinable(work: Work) -> bool:
    return not work.layout.fold and work.param.is_contiguous() and all(s.is_contiguous() for s in work.state)


def _state(work: Work, role: str) -> Tensor:
    value = coding.read(work.layout, role, lambda stored: work.state[work.layout.roles.index(stored)])
    return value if work.layout.codec(role) is None else value.reshape(work.param.shape)


def chunks(works: list[Work], many: bool) -> Iterator[Chunk | Pieces]:
    """The works as chunks, each made when its turn comes; ``many`` puts equal ones together."""
    works = [w for w in works if w.size]
    if not many:
        yield from (Chunk([w], fast=False) for w in works)
        return
    pieces = {id(w) for w in works if _in_pieces(w)}
    yield from (Pieces(w) for w in works if id(w) in pieces)
    works = [w for w in works if id(w) not in pieces]

    def key(w: Work) -> Any:
        numbers = w.rule.numbers if w.rule.plain else id(w.rule)
        return w.rule.kind, numbers, w.param.dtype, w.grad.dtype, w.layout, w.param.device, w.form, w.fellows

    def limit(w: Work) -> int:
        """The elements of a chunk. Matrices that are shared out go together, one at least for each process."""
        matrix = w.rule.recipe.scope == "matrix"
        most = STACK_ELEMENTS if matrix and w.param.device.type != "cpu" else CHUNK_ELEMENTS
        return w.shard.processes * max(most, w.size) if w.shard and matrix else most

    yield from (Chunk(part) for part in gather(works, key, limit, len(works)))


def run(works: list[Work], many: bool) -> None:
    """Take one step of every work; ``many`` puts equal ones together."""
    parts.run(chunks(works, many))
