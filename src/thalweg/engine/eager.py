"""The engines that need no compiler: ``reference`` (one tensor at a time) and ``foreach`` (lists of tensors)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thalweg.engine.many import Many
from thalweg.engine.view import Bound, View, answer, requests
from thalweg.engine.work import Work, gather, reduce_model
from thalweg.rounding import stochastic
from thalweg.slots.base import Request

#: Elements a chunk of lists may hold: its temporaries stay in a core's cache on the CPU.
CHUNK_ELEMENTS = 1 << 18
#: Elements a stack of equal matrices may hold.
STACK_ELEMENTS = 1 << 25


class _Chunk:
    """Works that share everything, run as one.

    A single one runs on its tensors as they are; several of an element-wise recipe joined end to end into one tensor,
    which costs two copies in cache and saves an operation per tensor; several of any other recipe as ``Many``.
    """

    def __init__(self, works: list[Work]) -> None:
        self.works = works
        first = works[0]
        self.many = len(works) > 1
        self.joined = self.many and first.rule.recipe.scope == "element" and all(map(_contiguous, works))
        self.dtype = first.compute_dtype
        cast = first.cast
        self.roles = first.roles
        params = [w.param for w in works]
        grads = [w.grad for w in works]
        if cast is not None:
            params, grads = [p.to(cast) for p in params], [g.to(cast) for g in grads]
        grad = self.pack(grads)
        state = {role: self.pack([w.state[i] for w in works]) for i, role in enumerate(self.roles)}
        rule = first.rule
        self.view = View(self.pack(params), -grad if rule.maximize else grad, state, tuple(first.param.shape))
        self.flow = rule.recipe.flow(Bound(rule.recipe, rule.scalars), self.view)
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
        """Run to the next barrier that involves the model (returned), or to the end (``None``)."""
        while True:
            try:
                yielded = self.flow.send(self.reply)
            except StopIteration as stop:
                self.result = stop.value
                return None
            asked = requests(yielded)
            if any(r.over == "model" for r in asked):
                return yielded
            self.reply = answer(yielded, [self.answer(r) for r in asked])

    def answer(self, request: Request) -> Any:
        tensors = self.each(request.value)
        if request.over == "matrix":
            return self.pack(list(request.function(torch.stack(tensors)).unbind()))
        if isinstance(request.over, int):
            return self.pack([t.mean(request.over) if request.mean else t.sum(request.over) for t in tensors])
        return self.pack([t.mean() if request.mean else t.sum() for t in tensors])

    def commit(self) -> None:
        results = self.each(self.result)
        if self.works[0].seed is not None:
            results = [stochastic(r, w.seed) for r, w in zip(results, self.works, strict=True)]
        self.store([w.param for w in self.works], results)
        for role, value in self.view.new.items():
            i = self.roles.index(role)
            self.store([w.state[i] for w in self.works], self.each(value))


def _contiguous(work: Work) -> bool:
    return work.param.is_contiguous() and all(s.is_contiguous() for s in work.state)


def run(works: list[Work], many: bool) -> None:
    """Take one step of every work; ``many`` puts equal ones together."""
    works = [w for w in works if w.param.numel()]
    if many:

        def key(w: Work) -> Any:
            dtypes = (w.param.dtype, w.grad.dtype, w.seed is None)
            return w.rule.kind, w.rule.numbers, dtypes, w.param.device, w.form

        matrix = [w for w in works if w.rule.recipe.scope == "matrix"]
        other = [w for w in works if w.rule.recipe.scope != "matrix"]
        parts = gather(other, key, CHUNK_ELEMENTS, len(works)) + gather(matrix, key, STACK_ELEMENTS, len(works))
    else:
        parts = [[w] for w in works]
    coupled: list[_Chunk] = []
    waiting: list[Any] = []
    for part in parts:
        chunk = _Chunk(part)
        yielded = chunk.advance()
        if yielded is None:
            chunk.commit()
        else:
            coupled.append(chunk)
            waiting.append(yielded)
    # Formulas that asked for a total over the model wait until every tensor has given its part.
    while coupled:
        replies = _model_answers(coupled, waiting)
        still: list[_Chunk] = []
        waiting_next: list[Any] = []
        ended: list[_Chunk] = []
        for chunk, reply in zip(coupled, replies, strict=True):
            chunk.reply = reply
            yielded = chunk.advance()
            if yielded is None:
                ended.append(chunk)
            else:
                still.append(chunk)
                waiting_next.append(yielded)
        for chunk in ended:
            chunk.commit()
        coupled, waiting = still, waiting_next


def _model_answers(chunks: list[_Chunk], waiting: list[Any]) -> list[Any]:
    count = max(len(requests(y)) for y in waiting)
    totals: list[Tensor | None] = []
    for q in range(count):
        asked = [(c, requests(y)[q]) for c, y in zip(chunks, waiting, strict=True) if len(requests(y)) > q]
        model = [(c, r) for c, r in asked if r.over == "model"]
        if not model:
            totals.append(None)
            continue
        sums = [t.sum() for c, r in model for t in c.each(r.value)]
        whole = reduce_model(sums, model[0][0].each(model[0][1].value)[0])
        if model[0][1].mean:
            whole = whole / sum(t.numel() for c, r in model for t in c.each(r.value))
        totals.append(whole)
    replies = []
    for chunk, yielded in zip(chunks, waiting, strict=True):
        found = [
            totals[q].to(chunk.works[0].param.device, chunk.dtype) if r.over == "model" else chunk.answer(r)  # type: ignore[union-attr]
            for q, r in enumerate(requests(yielded))
        ]
        replies.append(answer(yielded, found))
    return replies
