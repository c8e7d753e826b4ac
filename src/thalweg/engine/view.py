"""What a formula sees: one tensor's view, and the recipe's slots bound to this step's scalars."""

from __future__ import annotations

from collections.abc import Callable, Generator
from inspect import isgenerator
from types import SimpleNamespace
from typing import Any

from thalweg.recipe import Recipe
from thalweg.slots.base import Over, Request, Slot


class View:
    """One tensor as a formula sees it: ``x.param``, ``x.grad``, ``x["role"]``; writes are kept until committed.

    ``notes`` is for what one slot finds out and a later one of the same step needs.
    """

    __slots__ = ("grad", "new", "notes", "param", "shape", "state")

    def __init__(self, param: Any, grad: Any, state: dict[str, Any], shape: tuple[int, ...]) -> None:
        self.param = param
        self.grad = grad
        self.state = state
        self.new: dict[str, Any] = {}
        self.notes: dict[str, Any] = {}
        self.shape = shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, role: str) -> Any:
        return self.new[role] if role in self.new else self.state[role]

    def __setitem__(self, role: str, value: Any) -> None:
        self.new[role] = value


class Bound:
    """A recipe's slots bound to scalars: ``yield from r.place(x, ...)`` applies one, or passes through if absent."""

    def __init__(self, recipe: Recipe, scalars: dict[str, dict[str, Any]]) -> None:
        lr = scalars[""].get("lr")
        self.recipe = recipe
        self.silent = scalars[""].get("silent", False)
        for place in PLACES:
            slot = getattr(recipe, place)
            h = SimpleNamespace(**scalars.get(place, {}))
            setattr(self, place, _absent(place, lr) if slot is None else _applied(slot, h, place, lr))


PLACES = (
    *("gradient", "first", "second", "basis", "ratio", "direction", "coupled"),
    *("scale", "rate", "decay", "after", "outer"),
)
_Step = Callable[..., Generator[Any, Any, Any]]


def _applied(slot: Slot, h: SimpleNamespace, place: str, lr: Any) -> _Step:
    if place == "rate" and slot.on_host:
        return _absent(place, lr)  # a rate known on the host: every slot already sees it as lr

    def step(x: View, *values: Any) -> Generator[Any, Any, Any]:
        out = slot(x, h, *values)
        if isgenerator(out):
            out = yield from out
        return out

    return step


def _absent(place: str, lr: Any) -> _Step:
    def step(x: View, *values: Any) -> Generator[Any, Any, Any]:
        if place == "rate":
            return lr
        if place in ("second", "decay"):
            return None
        return values[-1 if place == "outer" else 0]
        yield

    return step


#: Reductions that concern other tensors too.
WIDE = ("group", "model")


def requests(yielded: Any) -> tuple[Request, ...]:
    """What was yielded at a barrier, always as a tuple."""
    return yielded if isinstance(yielded, tuple) else (yielded,)


def answer(yielded: Any, answers: list[Any]) -> Any:
    """The answers in the form the formula asked in: one, or a tuple."""
    return tuple(answers) if isinstance(yielded, tuple) else answers[0]


def reduce(t: Any, over: Over, how: str, **dtype: Any) -> Any:
    """One tensor's answer to a request: over an axis that goes, axes that stay with length one, or all of it.

    Its share of a mean that concerns other tensors too is its sum; the size of the whole is not known here.
    """
    if over in WIDE and how == "mean":
        how = "sum"
    axes = () if isinstance(over, str) else (over,)
    keep = {"keepdim": True} if isinstance(over, tuple) else {}
    if how == "max":
        return t.amax(*axes, **keep)
    return (t.mean if how == "mean" else t.sum)(*axes, **keep, **dtype)
