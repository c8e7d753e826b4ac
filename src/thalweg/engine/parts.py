"""Running parts of a step, whichever engine runs each: those coupled by totals wait for each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thalweg.engine import captured, processes, scratch
from thalweg.engine.work import Work, reduce_model
from thalweg.slots.base import Slot


class Totals(NamedTuple):
    """One request over the group or model: each tensor's share, how they come together, and who settles them."""

    shares: list[Tensor]
    how: str
    slot: Slot | None
    groups: tuple[Any, ...] = ()  # of processes that have shares, too


#: What a part asks for at a barrier, request by request; ``None`` where it does not concern other tensors.
Asked = list[Totals | None]


class Part(Protocol):
    """Works that advance together: to each barrier over group or model, and at last to the writing of results."""

    works: list[Work]

    def ask(self) -> Asked | None:
        """Run to the next barrier over group or model; ``None`` if there is none left."""

    def tell(self, totals: list[Tensor | None]) -> None:
        """Take the totals that were asked for."""

    def commit(self) -> None:
        """Write parameters and state; only now does anything change."""


def run(parts: Iterable[Part]) -> None:
    """Take the step of every part. A part that shares nothing is done before the next one is made."""
    try:
        _run(parts)
    finally:
        scratch.clear()


def _run(parts: Iterable[Part]) -> None:
    coupled: dict[Any, list[Part]] = {}
    for part in parts:
        key = part.works[0].rule.together
        if key:
            coupled.setdefault(key, []).append(part)
        else:
            part.ask()
            part.commit()
    for members in coupled.values():
        while True:
            asked = [a for part in members if (a := part.ask()) is not None]
            if not asked:
                break
            totals = [_total([t for a in asked if (t := a[q])], members) for q in range(len(asked[0]))]
            totals = _settle(next((t.slot for t in asked[0] if t and t.slot), None), totals, members)
            for part in members:
                part.tell(totals)
    for members in coupled.values():
        for part in members:
            part.commit()


def _total(asked: list[Totals], members: list[Part]) -> Tensor | None:
    if not asked:
        return None
    how = asked[0].how
    shares: dict[tuple[Any, ...], list[Tensor]] = {}
    for totals in asked:
        shares.setdefault(totals.groups, []).extend(totals.shares)
    wholes = [processes.over(reduce_model(some, how).reshape(1), groups, how) for groups, some in shares.items()]
    whole = reduce_model(wholes, how)
    return whole / sum(w.size for part in members for w in part.works) if how == "mean" else whole


def _settle(slot: Slot | None, totals: list[Tensor | None], members: list[Part]) -> list[Tensor | None]:
    """What the slot makes of the totals, on the host unless the step can be captured; moves the numbers it keeps in
    every group concerned."""
    if slot is None:
        return totals
    rules = [work.rule for part in members for work in part.works]
    first = min(rules, key=lambda rule: rule.group)
    host, known = first.host, [whole for whole in totals if whole is not None]
    if first.row is None:
        made = slot.settle(host, tuple(map(float, known)))
        numbers = iter([torch.tensor(x, dtype=torch.float64) for x in made])
    else:
        numbers = iter(captured.settle(slot, host, known))
    for rule in rules:
        rule.host.update({key: host[key] for key in slot.group_numbers})
    return [None if whole is None else next(numbers) for whole in totals]
