"""Numbers of a step that are worked out on the device, so that a captured step can be replayed (``capturable=True``).

A replayed CUDA graph runs no Python, so what Python works out for a step would stay that of the captured one. Step
counts are tensors of the device here, one for each parameter. The slots' own formulas (``Slot.scalars``) are run on
all of them at once, as vectors of float64. Where a formula chooses by such a number, it is run both ways, and the
outcomes are put together by the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.engine.upload import upload
from thalweg.engine.work import Rule
from thalweg.recipe import Recipe


class NotCapturable(ValueError):
    """A formula that only the host can follow."""


class _Number(Tensor):
    """A number that only the device knows; to choose by it, both ways are gone."""

    def __bool__(self) -> bool:
        return _choices[-1].take(self)

    def _refuse(self, *_: Any) -> Any:
        raise NotCapturable("a number that follows from the step count, or is given as a tensor, is needed in Python")

    __float__ = __int__ = __index__ = item = tolist = _refuse


class _Choices:
    """The choices that one run of a formula comes to: as given, and beyond that always yes."""

    def __init__(self, given: list[bool]) -> None:
        self.given = given
        self.met: list[Tensor] = []

    def take(self, condition: Tensor) -> bool:
        condition = condition.as_subclass(Tensor)
        self.met.append(condition if condition.dtype == torch.bool else condition != 0)
        return len(self.met) > len(self.given) or self.given[len(self.met) - 1]


_choices: list[_Choices] = []


def both_ways(formula: Callable[[], dict[Any, Any]], given: tuple[bool, ...] = ()) -> dict[Any, Any]:
    """What a formula of ``_Number`` gives, whichever way its choices go.

    Raises:
        NotCapturable: something it gives is no number but says which formula is meant, and differs.
    """
    _choices.append(_Choices([*given]))
    try:
        found = formula()
    finally:
        choices = _choices.pop()
    if len(choices.met) == len(given):
        return found
    condition = choices.met[len(given)]
    yes, no = (both_ways(formula, (*given, way)) for way in (True, False))
    return {key: _chosen(key, condition, yes[key], no[key]) for key in yes}


def _chosen(key: Any, condition: Tensor, yes: Any, no: Any) -> Any:
    if yes is no or (not isinstance(yes, Tensor) and not isinstance(no, Tensor) and yes == no):
        return yes
    if isinstance(yes, bool) or isinstance(no, bool):
        raise NotCapturable(f"what it does, not only by how much, depends on the step count ({'.'.join(key)})")
    return torch.where(condition, *(_vector(x, condition) for x in (yes, no)))


def _vector(x: Any, like: Tensor) -> Tensor:
    # Not torch.tensor: that would be copied from the host.
    return (
        x.as_subclass(Tensor) if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float64, device=like.device)
    )


def obstacle(recipe: Recipe, h: Mapping[str, Any]) -> str | None:
    """Why steps of a recipe cannot be captured and replayed; None where they can."""
    for _, slot in recipe.slots():
        for link in slot.links:
            if link.group_numbers or link.needs_loss:
                return f"{type(link).__name__} keeps numbers on the host"
    try:
        numbers = {key: torch.full((1,), start, dtype=torch.float64) for key, start in recipe.numbers.items()}
        _worked_out(recipe, h, torch.ones(1, dtype=torch.float64), numbers, (2, 2))
    except NotCapturable as error:
        return str(error)
    return None


def _worked_out(
    recipe: Recipe, h: Mapping[str, Any], steps: Tensor, numbers: Mapping[str, Any], shape: tuple[int, ...] | None
) -> dict[tuple[str, str], Any]:
    """The step's numbers and flags by place and key, and under "numbers" those that parameters keep."""
    wrapped = {key: x.as_subclass(_Number) if isinstance(x, Tensor) else x for key, x in h.items()}
    t: Any = steps.as_subclass(_Number)

    def formula() -> dict[tuple[str, str], Any]:
        kept: dict[str, Any] = {
            key: x.as_subclass(_Number) if isinstance(x, Tensor) else x for key, x in numbers.items()
        }
        scalars = recipe.scalars(wrapped, t, kept, shape)
        found = {(place, key): _switch(x) for place, own in scalars.items() for key, x in own.items()}
        return {**found, **{("numbers", key): x for key, x in kept.items()}}

    found = both_ways(formula)
    return {key: x.as_subclass(Tensor) if isinstance(x, Tensor) else x for key, x in found.items()}


def _switch(x: Any) -> Any:
    return bool(x) if isinstance(x, Tensor) and x.dtype == torch.bool else x


def rules(
    recipe: Recipe,
    h: dict[str, Any],
    maximize: bool,
    group: int,
    states: list[dict[str, Any]],
    device: torch.device,
    shape: tuple[int, ...] | None,
) -> tuple[list[Rule], dict[str, Any]]:
    """The rule of each parameter of a group that lies on one device (and, of a ``sized`` recipe, has one shape), from
    its state; and what the numbers in all their states become, as vectors."""
    for key, x in h.items():
        if isinstance(x, Tensor) and x.numel() == 1 and x.device != device:
            raise ValueError(
                f"capturable=True: {key} is a tensor on {x.device}, where a captured step cannot read it; move it to"
                f" {device}, or give a number, which stays as it is in a captured step"
            )
    for state in states:
        for key in ("step", *recipe.numbers):
            state[key] = state[key].to(device)
    known = {key: x.detach().double().reshape(()) if _is_number(x) else x for key, x in h.items()}
    steps = torch.stack([state["step"] for state in states]).double() + 1
    numbers = {key: torch.stack([state[key] for state in states]) for key in recipe.numbers}
    found = _worked_out(recipe, known, steps, numbers, shape)
    become = {key: x for (place, key), x in found.items() if place == "numbers"}
    count = len(states)
    values = {key: x.expand(count).unbind() if isinstance(x, Tensor) else [x] * count for key, x in found.items()}
    made = []
    for i in range(count):
        scalars: dict[str, dict[str, Any]] = {"": {}}
        for (place, key), each in values.items():
            if place != "numbers":
                scalars.setdefault(place, {})[key] = each[i]
        made.append(Rule.of(recipe, scalars, maximize, h, group))
    table = _table([found[place] for place in made[0].places], count, device)
    for rule, row in zip(made, table.unbind(), strict=True):
        rule.row = row
    return made, {"step": steps, **become}


def _is_number(x: Any) -> bool:
    return isinstance(x, Tensor) and x.numel() == 1


def _table(columns: Iterable[Any], count: int, device: torch.device) -> Tensor:
    """A row of numbers for each parameter."""
    columns = list(columns)
    plain = [0.0 if isinstance(x, Tensor) else float(x) for x in columns]
    table = upload(plain, torch.float64, device).repeat(count, 1)
    for j, x in enumerate(columns):
        if isinstance(x, Tensor):
            table[:, j] = x
    return table
