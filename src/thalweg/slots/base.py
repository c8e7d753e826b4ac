"""What a slot is: one idea, its hyper-parameters, the state it keeps, and its formula for one tensor.

A formula is written once, per tensor, in the letters of its paper. The same code runs on tensors (the reference
engine), on lists of tensors (the foreach engine) and on symbols (when the compiled engine records it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, ClassVar

import torch

from thalweg.hyper import Hyper

#: What of a tensor a slot must see at once, from the narrowest to the widest.
SCOPES = ("element", "tensor", "row", "matrix")


@dataclass(frozen=True)
class State:
    """How one state tensor starts: filled with a number or copied from the parameter; like it, or of ``shape``.

    ``dtype`` is for what are not numbers of the parameter's precision, such as bits; it needs a ``shape``. What is
    like the parameter and starts with a number may be stored by a codec; ``signed=False`` promises it that no entry is
    ever negative. ``axes`` says which of the parameter's axes those of ``shape`` are, None for any other: kernels of
    rows and columns want to know.
    """

    fill: float | str = 0.0
    shape: tuple[int, ...] | None = None
    dtype: torch.dtype | None = None
    signed: bool = True
    axes: tuple[int | None, ...] = ()

    @classmethod
    def along(cls, shape: tuple[int, ...], axes: tuple[int | None, ...]) -> State:
        """A state with these axes of a parameter of that shape, and of length one where there is None."""
        return cls(shape=tuple(1 if axis is None else shape[axis] for axis in axes), axes=axes)


Over = str | int | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Request:
    """What a formula yields to the engine at a barrier: a reduction over ``over``, or a whole-matrix function.

    ``over`` is ``"tensor"``, ``"group"`` or ``"model"`` (every tensor of the parameter group, or of the model, that
    shares this slot), an axis (which goes), a tuple of axes (which stay, with length one), or ``"matrix"``.
    ``how`` is "sum", "mean" or "max". A whole-matrix function may take ``others`` beside the value and then the numbers
    ``given``, and have a ``fast`` form for all engines but the reference; it gives a matrix or, if ``lone``, a number.
    ``shared``: it is asked of the gradient as it came and of what belongs to the parameter as a whole, and gives more
    of that, so pieces of a parameter share the answer. With ``slot``, what comes back is what its ``settle`` makes of
    the totals.
    """

    value: Any
    over: Over
    how: str = "sum"
    function: Any = None
    slot: Slot | None = None
    others: tuple[Any, ...] = ()
    fast: Any = None
    given: tuple[Any, ...] = ()
    lone: bool = False
    shared: bool = False


def total(value: Any, over: Over = "tensor") -> Request:
    """Ask for the sum of ``value`` over a tensor, the group, the whole model, or along axes."""
    return Request(value, over)


def mean(value: Any, over: Over = "tensor") -> Request:
    """Ask for the mean of ``value`` over a tensor, the group, the whole model, or along axes."""
    return Request(value, over, "mean")


def largest(value: Any, over: Over = "tensor") -> Request:
    """Ask for the maximum of ``value`` over a tensor, the group, the whole model, or along axes."""
    return Request(value, over, "max")


def settled(slot: Slot, *values: Any) -> tuple[Request, ...]:
    """Ask for the totals of ``values`` over what ``slot`` couples; ``slot.settle`` turns them into as many numbers."""
    return tuple(Request(value, slot.couples, slot=slot) for value in values)


def matrices(
    function: Any,
    value: Any,
    *others: Any,
    fast: Any = None,
    given: tuple[Any, ...] = (),
    lone: bool = False,
    shared: bool = False,
) -> Request:
    """Ask for ``function`` of stacks of whole matrices, ``(batch, *shape)``, a stack for each value; it returns one.

    ``given`` are numbers of this step (``h.eps``), which the function takes after the stacks. ``fast`` computes the
    same in another way, and is what all engines but the reference take. ``lone``: it returns a number for each matrix.
    ``shared``: see ``Request``.
    """
    return Request(value, "matrix", function=function, others=others, fast=fast, given=given, lone=lone, shared=shared)


def plain_numbers(value: Any) -> Any:
    """Numbers of other libraries, and tuples with some, as Python's own, which print and are saved like those."""
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        plain = tuple(map(plain_numbers, value))
        return value if all(a is b for a, b in zip(plain, value, strict=True)) else plain
    if type(value) in (bool, int, float) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


@dataclass(frozen=True)
class Slot:
    """One idea. Subclasses are frozen dataclasses whose fields are structure, never per-step numbers.

    * ``place``: where in a recipe it belongs, for slots that ``techniques=[...]`` may add to any optimizer.
    * ``scope``: the widest part of a tensor the formula must see at once, one of ``SCOPES``.
    * ``alike(shape)``: a shape that stands for all those that the formula treats like this one; ones, unless it goes by
      sizes. A graph is recorded for it and serves them all.
    * ``apart(shape)``: whether a parameter's step is that of its pieces along the first axis, but for ``shared``
      requests; so are those of all formulas that see elements alone.
    * ``asks``: of scope "matrix", where only what it asks for with ``matrices`` sees whole matrices: one value of the
      parameter's shape for one of the same shape, or for a number. The rest is as element-wise as it looks.
    * ``squared``: whether it works in the square view of tensors (``thalweg.slots.square``).
    * ``sized``: whether its numbers depend on the shape, which ``scalars`` then finds in ``h["shape"]``.
    * ``couples``: "group" or "model" where tensors depend on each other through totals over the group or model.
    * ``hypers()``: the numbers it reads from the parameter group, by reference, with default and range.
    * ``state(shape)``: the tensors it keeps for a parameter of that shape, by role.
    * ``numbers``: 0-d numbers kept per parameter, ``group_numbers``: kept per group; both live on the host.
    * ``advance(group, loss)``: runs once per group and step, before any tensor; moves ``group_numbers``.
    * ``settle(h, totals)``: runs once per step and coupled set, when the totals asked for with ``settled`` are known;
      ``h`` holds the options and ``group_numbers`` of the set's first group, and moving the latter here moves them
      in every group of the set.
    * ``idle(h)``: whether a zero gradient changes nothing, so that a sparse gradient's absent rows need no work.
    * ``lazy``: whether absent rows are left alone even where a zero gradient would change them.
    * ``silent``: how many first steps of a parameter move nothing and do not count; see ``Recipe.scalars``.
    * ``check(recipe)``: raises a ValueError where the slot cannot stand in that recipe.
    * ``scalars(h, t, numbers)``: host numbers of step ``t`` (1, 2, ...) in float64; a ``bool`` chooses a graph. For
      captured steps ``t`` and ``numbers`` are vectors of a device, so roots and the like are those of
      ``thalweg.scalars``, here and in ``advance`` and ``settle``.
    * ``has_modes`` and ``turn(param, state, training)``: for outer methods that hold other weights in ``eval()`` mode.
    * ``__call__(x, h, ...)``: the formula. ``x`` is the tensor's view (``x.param``, ``x.grad``, ``x["role"]``),
      ``h`` holds this step's scalars. A reduction is asked for with ``s = yield total(u * u)``.
    * ``equation(x)``: the formula in plain text, with ``x`` for what comes in.
    """

    place: ClassVar[str] = ""
    scope: ClassVar[str] = "element"
    couples: ClassVar[str] = ""
    numbers: ClassVar[Mapping[str, float]] = {}
    group_numbers: ClassVar[Mapping[str, float]] = {}
    needs_loss: ClassVar[bool] = False
    has_modes: ClassVar[bool] = False
    lazy: ClassVar[bool] = False
    silent: ClassVar[int] = 0
    asks: ClassVar[bool] = False
    sized: ClassVar[bool] = False
    squared: ClassVar[bool] = False

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        # What a slot checks of its own is already Python's.
        if (own := cls.__dict__.get("__post_init__")) is not None:

            def both(slot: Slot) -> None:
                Slot.__post_init__(slot)
                own(slot)

            cls.__post_init__ = both  # type: ignore[method-assign, assignment]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if (plain := plain_numbers(value)) is not value:
                object.__setattr__(self, field.name, plain)

    @property
    def links(self) -> tuple[Slot, ...]:
        """The slots that act one after the other in this one's place: itself, or those of a ``Chain``."""
        return (self,)

    def hypers(self) -> dict[str, Hyper]:
        return {}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {}

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * len(shape)

    def apart(self, shape: tuple[int, ...]) -> bool:
        return self.scope == "element" and all(spec.shape is None for spec in self.state(shape).values())

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        pass

    def settle(self, h: dict[str, Any], totals: tuple[float, ...]) -> tuple[float, ...]:
        raise NotImplementedError(f"{type(self).__name__} settles nothing")

    def check(self, recipe: Any) -> None:
        pass

    def turn(self, param: Any, state: dict[str, Any], training: bool) -> None:
        raise NotImplementedError(f"{type(self).__name__} has one mode only")

    def into(self, recipe: Any) -> Any:
        """The recipe with this slot in it; a ValueError where the two do not fit together."""
        if not self.place:
            raise ValueError(f"{type(self).__name__} cannot be added to a recipe as a technique")
        return recipe.plus(self.place, self)

    def lr(self, h: Mapping[str, Any], t: int) -> float | None:
        """The learning rate this slot makes of ``h["lr"]``, seen by every other slot."""
        return h.get("lr")

    @property
    def on_host(self) -> bool:
        """Whether the slot has no formula of its own: a rate that is known before the step."""
        return type(self).__call__ is Slot.__call__

    def idle(self, h: Mapping[str, Any]) -> bool:
        """Whether a zero gradient leaves parameter and state as they are, with these options of the group."""
        return self.on_host

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {}

    def __call__(self, x: Any, h: Any, *values: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no formula")

    def equation(self, x: str = "g") -> str:
        """The formula in plain text, with ``x`` for what comes in; by default the class docstring's first line."""
        return (type(self).__doc__ or type(self).__name__).strip().splitlines()[0]

    def __repr__(self) -> str:
        """Only what differs from the defaults, so that a recipe reads like its definition."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given)})"


def law_repr(obj: Any) -> str:
    return Slot.__repr__(obj)
