"""Numbers of a step that are worked out on the device, so that a captured step can be replayed (``capturable=True``).

A replayed CUDA graph runs no Python, so what Python works out for a step would stay that of the captured one. Step
counts are tensors of the device here, one for each parameter, and so are the numbers that groups keep. The slots' own
formulas (``scalars``, ``advance``, ``settle``) are run on them, for all parameters of a group at once, in float64.
Where a formula chooses by such a number, it is run both ways, and the outcomes are put together by the condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thalweg.engine.upload import upload
from thalweg.engine.work import Rule
from thalweg.hyper import spread
from thalweg.recipe import Recipe
from thalweg.rounding import seed
from thalweg.scalars import DeviceNumber, NotCapturable, on
from thalweg.slots.base import Slot


class _Choices:
    """The choices that one run of a formula comes to: as given, and beyond that always yes."""

    def __init__(self, given: tuple[bool, ...]) -> None:
        self.given = given
        self.met: list[Tensor] = []

    def take(self, condition: Tensor) -> bool:
        condition = condition.as_subclass(Tensor)
        self.met.append(condition if condition.dtype == torch.bool else condition != 0)
        return len(self.met) > len(self.given) or self.given[len(self.met) - 1]


_choices: list[_Choices] = []


def choose(condition: Tensor) -> bool:
    """Which way to go at a condition that only the device knows."""
    if not _choices:
        raise NotCapturable("a choice depends on a number of the device")
    return _choices[-1].take(condition)


def both_ways(formula: Callable[[], dict[Any, Any]], given: tuple[bool, ...] = ()) -> dict[Any, Any]:
    """What a formula of ``DeviceNumber`` gives, whichever way its choices go.

    Raises:
        NotCapturable: something it gives is no number but says which formula is meant, and differs.
    """
    choices = _Choices(given)
    _choices.append(choices)
    try:
        found = {key: _switch(x) for key, x in formula().items()}
    finally:
        _choices.pop()
    for i in range(len(choices.met) - 1, len(given) - 1, -1):
        other = both_ways(formula, (*given, *(True,) * (i - len(given)), False))
        found = {key: _chosen(key, choices.met[i], x, other[key]) for key, x in found.items()}
    return found


def _switch(x: Any) -> Any:
    x = bool(x) if isinstance(x, DeviceNumber) and x.dtype == torch.bool else x
    return x.as_subclass(Tensor) if isinstance(x, Tensor) else x


def _chosen(key: Any, condition: Tensor, yes: Any, no: Any) -> Any:
    if yes is no or (not isinstance(yes, Tensor) and not isinstance(no, Tensor) and yes == no):
        return yes
    if isinstance(yes, bool) or isinstance(no, bool):
        raise NotCapturable(f"what it does, not only by how much, depends on the step count ({'.'.join(key)})")
    return torch.where(condition, on(condition.device, yes), on(condition.device, no))


def _wrapped(x: Any) -> Any:
    """Numbers in tensors, alone or in a tuple, as ``DeviceNumber``; all else as it is."""
    if isinstance(x, (tuple, list)):
        return type(x)(map(_wrapped, x))
    if not isinstance(x, Tensor):
        return x
    return x.detach().double().reshape(() if x.numel() == 1 else x.shape).as_subclass(DeviceNumber)


def _all_wrapped(h: Mapping[str, Any]) -> dict[str, Any]:
    return {key: x if key == "params" else _wrapped(x) for key, x in h.items()}


def obstacle(recipe: Recipe, group: Mapping[str, Any]) -> str | None:
    """Why steps of a recipe cannot be captured and replayed; None where they can."""
    if recipe.needs_loss:
        return "it looks at the loss in Python"
    moved = {key: x for key, x in group.items() if key != "params"} | recipe.group_numbers
    home = next((x.device for x in spread(moved).values() if _is_number(x)), torch.device("cpu"))
    numbers = {key: on(home, start) for key, start in recipe.numbers.items()}
    try:
        advance(moved, recipe, home)
        _worked_out(recipe, spread(moved), on(home, 1.0), numbers, (2, 2))
    except NotCapturable as error:
        return str(error)
    return None


def advance(group: dict[str, Any], recipe: Recipe, device: torch.device) -> None:
    """Move the group's own numbers, in tensors of the device."""
    for key in recipe.group_numbers:
        known = group[key]
        if not (isinstance(known, Tensor) and known.device == device):
            group[key] = on(device, float(known))
    if not recipe.group_numbers:
        return
    wrapped = _all_wrapped(group)

    def formula() -> dict[tuple[str, ...], Any]:
        own = {**wrapped}
        for _, slot in recipe.slots():
            slot.advance(own, None)
        return {("group", key): own[key] for key in recipe.group_numbers}

    put(group, {key: x for (_, key), x in both_ways(formula).items()})


def put(group: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Numbers of a group, those of a captured one into the tensors that they are in."""
    for key, x in values.items():
        if group["capturable"] and isinstance(group.get(key), Tensor):
            group[key].copy_(on(group[key].device, x))
        else:
            group[key] = x


def settle(slot: Slot, host: dict[str, Any], totals: Sequence[Tensor]) -> list[Tensor]:
    """What a slot makes of totals; moves the numbers that it keeps in ``host``."""
    wrapped = _all_wrapped(host)
    given = tuple(map(_wrapped, totals))

    def formula() -> dict[tuple[str, ...], Any]:
        own = {**wrapped}
        out = {("total", str(i)): x for i, x in enumerate(slot.settle(own, given))}
        return out | {("group", key): own[key] for key in slot.group_numbers}

    found = both_ways(formula)
    host.update({key: x for (what, key), x in found.items() if what == "group"})
    return [on(totals[0].device, x) for (what, _), x in found.items() if what == "total"]


def _worked_out(
    recipe: Recipe, h: Mapping[str, Any], steps: Tensor, numbers: Mapping[str, Any], shape: tuple[int, ...] | None
) -> dict[tuple[str, ...], Any]:
    """The step's numbers and flags by place and key, and under "numbers" those that parameters keep."""
    wrapped, t = _all_wrapped(h), _wrapped(steps)

    def formula() -> dict[tuple[str, ...], Any]:
        kept = _all_wrapped(numbers)
        scalars = recipe.scalars(wrapped, t, kept, shape)
        found: dict[tuple[str, ...], Any] = {
            (place, key): x for place, own in scalars.items() for key, x in own.items()
        }
        return found | {("numbers", key): x for key, x in kept.items()}

    return both_ways(formula)


class Member(NamedTuple):
    """A parameter: its state, where it lies, its shape for recipes that go by it, and its place if it is rounded at
    random."""

    state: dict[str, Any]
    device: torch.device
    shape: tuple[int, ...] | None
    place: int | None


#: What numbers become, and in which states.
Steps = list[tuple[dict[str, Any], list[Any]]]


def rules(
    recipe: Recipe, h: dict[str, Any], maximize: bool, group: int, members: Sequence[Member]
) -> tuple[list[tuple[Rule, Any]], Steps]:
    """The rule and the seed of each parameter of a group, and what the numbers in their states become, as vectors."""
    found: dict[int, tuple[Rule, Any]] = {}
    steps: Steps = []
    alike: dict[Any, list[int]] = {}
    for i, member in enumerate(members):
        alike.setdefault((member.device, member.shape), []).append(i)
    for (device, shape), places in alike.items():
        states = [members[i].state for i in places]
        made, become = _rules(recipe, h, maximize, group, states, device, shape)
        steps.append((become, states))
        seeds: Sequence[Any] = [None] * len(places)
        if any(members[i].place is not None for i in places):
            at = upload([members[i].place or 0 for i in places], torch.int64, device)
            seeds = seed(become["step"].to(torch.int64), at).unbind()
        for i, rule, drawn in zip(places, made, seeds, strict=True):
            found[i] = rule, None if members[i].place is None else drawn
    return [found[i] for i in range(len(members))], steps


def _rules(
    recipe: Recipe,
    h: dict[str, Any],
    maximize: bool,
    group: int,
    states: list[dict[str, Any]],
    device: torch.device,
    shape: tuple[int, ...] | None,
) -> tuple[list[Rule], dict[str, Any]]:
    for key, x in h.items():
        if _is_number(x) and x.device != device:
            raise ValueError(
                f"capturable=True: {key} is a tensor on {x.device}, where a captured step cannot read it; move it to"
                f" {device}, or give a number, which stays as it is in a captured step"
            )
    for state in states:
        for key in ("step", *recipe.numbers):
            state[key] = state[key].to(device)
    steps = torch.stack([state["step"] for state in states]).double() + 1
    numbers = {key: torch.stack([state[key] for state in states]) for key in recipe.numbers}
    found = _worked_out(recipe, h, steps, numbers, shape)
    count = len(states)
    become = {key: on(device, x).expand(count) for (place, key), x in found.items() if place == "numbers"}
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
