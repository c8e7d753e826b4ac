"""Running parts of a step, whichever engine runs each: those that share totals over the model wait for each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor

from thalweg.engine.work import Work, reduce_model

#: What a part asks for at a barrier, request by request: sums over its tensors and whether a mean is wanted, or
#: ``None`` where the request does not concern the model.
Asked = list[tuple[list[Tensor], bool] | None]


class Part(Protocol):
    """Works that advance together: to each barrier over the model, and at last to the writing of results."""

    works: list[Work]

    def ask(self) -> Asked | None:
        """Run to the next barrier over the model; ``None`` if there is none left."""

    def tell(self, totals: list[Tensor | None]) -> None:
        """Take the totals that were asked for."""

    def commit(self) -> None:
        """Write parameters and state; only now does anything change."""


def run(parts: Iterable[Part]) -> None:
    """Take the step of every part. A part that shares nothing is done before the next one is made."""
    coupled: dict[Any, list[Part]] = {}
    for part in parts:
        key = _model_slots(part.works[0])
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
            totals = [_total([a[q] for a in asked], members) for q in range(len(asked[0]))]
            for part in members:
                part.tell(totals)
    for members in coupled.values():
        for part in members:
            part.commit()


def _model_slots(work: Work) -> tuple[Any, ...]:
    """The slots that ask for totals over the model: to them, works with equal ones are the model."""
    return tuple(item for item in work.rule.recipe.slots() if item[1].scope == "model")


def _total(asked: list[tuple[list[Tensor], bool] | None], members: list[Part]) -> Tensor | None:
    found = [a for a in asked if a is not None]
    if not found:
        return None
    whole = reduce_model([t for sums, _ in found for t in sums])
    return whole / sum(w.param.numel() for part in members for w in part.works) if found[0][1] else whole
