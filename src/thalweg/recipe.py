"""``Recipe``: a frozen choice of slots and a flow, one complete update rule; data that compares, hashes and prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from typing import Any

from thalweg import flows
from thalweg.hyper import RATE, Hyper
from thalweg.slots.base import SCOPES, Slot, State
from thalweg.slots.chain import Chain

Scalars = dict[str, dict[str, "float | bool"]]


@dataclass(frozen=True)
class Recipe:
    """One complete update rule: what stands in each place, and the order (``flow``) in which the places act.

    A place left ``None`` passes its input through. ``but`` makes a changed copy; ``str`` gives the equations, the
    state bytes per parameter and the passes over memory.

    Example:
        >>> from thalweg.recipes import ADAMW, LION
        >>> ADAMW == ADAMW.but(), ADAMW == LION
        (True, False)
    """

    gradient: Slot | None = None
    second: Slot | None = None
    first: Slot | None = None
    basis: Slot | None = None
    ratio: Slot | None = None
    direction: Slot | None = None
    coupled: Slot | None = None
    scale: Slot | None = None
    rate: Slot | None = None
    decay: Slot | None = None
    after: Slot | None = None
    outer: Slot | None = None
    flow: Callable[[Any, Any], flows.Flow] = flows.moment_first

    def __post_init__(self) -> None:
        filled = tuple((f.name, s) for f in fields(self) if isinstance(s := getattr(self, f.name), Slot))
        # Recipes are looked up at every step, so what follows from the fields is worked out once.
        object.__setattr__(self, "_slots", filled)
        object.__setattr__(self, "_states", {})
        object.__setattr__(self, "_hash", hash((filled, self.flow)))
        for name, slot in ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "flow"):
            if slot is not None and not isinstance(slot, Slot):
                raise TypeError(f"{name} must be a slot or None, got {slot!r} of type {type(slot).__name__}")
        roles: dict[str, str] = {}
        for name, slot in self.slots():
            for role in slot.state((2, 2)):
                if role in roles:
                    raise ValueError(f"slots {roles[role]!r} and {name!r} both keep the state {role!r}; rename one")
                roles[role] = name
        for _, slot in filled:
            slot.check(self)

    def but(self, **changes: Any) -> Recipe:
        """A copy with other slots. Unknown places raise a TypeError that lists the legal ones."""
        unknown = changes.keys() - {f.name for f in fields(self)}
        if unknown:
            raise TypeError(f"no place {sorted(unknown)} in a recipe; legal: {[f.name for f in fields(self)]}")
        return replace(self, **changes)

    def __hash__(self) -> int:
        return self._hash  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        return Recipe, tuple(getattr(self, f.name) for f in fields(self))

    def slots(self) -> tuple[tuple[str, Slot], ...]:
        """The filled places, in the order of the fields."""
        return self._slots  # type: ignore[attr-defined]

    def plus(self, place: str, slot: Slot) -> Recipe:
        """A copy with one more slot in a place; behind the one that is there already, if any."""
        there = getattr(self, place)
        if there is None:
            return self.but(**{place: slot})
        return self.but(**{place: Chain((*there.links, slot))})

    @cached_property
    def scope(self) -> str:
        """The widest part of a tensor any slot must see at once."""
        return max((slot.scope for _, slot in self.slots()), key=SCOPES.index, default="element")

    @cached_property
    def asks(self) -> bool:
        """Whether whole matrices are seen by what slots ask for alone, and all else is element-wise."""
        seeing = [link for _, slot in self.slots() for link in slot.links if link.scope in ("row", "matrix")]
        return bool(seeing) and all(link.asks for link in seeing)

    @cached_property
    def sized(self) -> bool:
        """Whether a step's numbers depend on a parameter's shape."""
        return any(link.sized for _, slot in self.slots() for link in slot.links)

    @cached_property
    def squared(self) -> bool:
        """Whether a slot works in the square view of tensors."""
        return any(link.squared for _, slot in self.slots() for link in slot.links)

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape that stands for all those that the recipe's formulas treat like this one."""
        return max((slot.alike(shape) for _, slot in self.slots()), default=(1,) * len(shape))

    def apart(self, shape: tuple[int, ...]) -> bool:
        """Whether pieces along the first axis can take the step in turn, sharing what belongs to the whole."""
        asked_of = all(slot.scope == "element" for _, slot in self.slots()) or self.gradient is None
        return asked_of and not self.couples and all(slot.apart(shape) for _, slot in self.slots())

    @cached_property
    def couples(self) -> str:
        """What the tensors are coupled over by totals: "" (nothing), "group" or "model"."""
        return max(slot.couples for _, slot in self.slots()) if self.slots() else ""

    @cached_property
    def needs_loss(self) -> bool:
        """Whether the step must be given the loss."""
        return any(slot.needs_loss for _, slot in self.slots())

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Host numbers kept per parameter, with their starting values."""
        return {k: v for _, slot in self.slots() for k, v in slot.numbers.items()}

    @cached_property
    def group_numbers(self) -> dict[str, float]:
        """Host numbers kept per parameter group, with their starting values."""
        return {k: v for _, slot in self.slots() for k, v in slot.group_numbers.items()}

    @cached_property
    def coupled_slots(self) -> tuple[tuple[str, Slot], ...]:
        """The single slots that ask for totals, with their places: where two recipes share one, it couples them."""
        return tuple((place, link) for place, slot in self.slots() for link in slot.links if link.couples)

    @cached_property
    def silent(self) -> int:
        """How many first steps of each parameter move nothing; the slots' own steps are counted from the next."""
        return max((slot.silent for _, slot in self.slots()), default=0)

    def sparse_obstacle(self, h: Mapping[str, Any], shape: tuple[int, ...]) -> str | None:
        """Why rows that a sparse gradient leaves out could not be left alone; None where they can."""
        if self.scope != "element" or any(spec.shape is not None for spec in self.state(shape).values()):
            return "its step needs whole tensors"
        if self.outer is not None:
            return f"{type(self.outer).__name__} acts on every row"
        if any(slot.lazy for _, slot in self.slots()):
            return None
        busy = next((slot for _, slot in self.slots() if not slot.idle(h)), None)
        if busy is None:
            return None
        return f"{type(busy).__name__} acts on every row with these options, unless techniques=['lazy'] is given"

    def hypers(self) -> dict[str, Hyper]:
        """Every number the recipe reads from its group, by reference."""
        found = {"lr": RATE}
        for _, slot in self.slots():
            found.update(slot.hypers())
        return found

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        """The state tensors of a parameter of that shape, by role."""
        states: dict[tuple[int, ...], dict[str, State]] = self._states  # type: ignore[attr-defined]
        if shape not in states:
            states[shape] = {role: spec for _, slot in self.slots() for role, spec in slot.state(shape).items()}
        return states[shape]

    def scalars(
        self, h: Mapping[str, Any], t: int, numbers: dict[str, float], shape: tuple[int, ...] | None = None
    ) -> Scalars:
        """This step's host numbers of every slot, in float64; ``numbers`` moves on in place.

        ``shape`` is of the parameter, for ``sized`` recipes.

        In a silent step (see ``silent``) slots see the numbers of the first one that moves.
        """
        silent = self.silent > 0 and t <= self.silent
        t, numbers = (1, dict(numbers)) if silent else (t - self.silent, numbers)
        lr = h.get("lr")
        for slot in (self.rate, self.outer):
            if slot is not None:
                lr = slot.lr({**h, "lr": lr}, t)
        h = {**h, "lr": lr, "shape": shape}
        found: Scalars = {"": {} if lr is None else {"lr": lr}}
        if self.silent:
            found[""]["silent"] = silent
        for name, slot in self.slots():
            found[name] = slot.scalars(h, t, numbers)
        return found

    @cached_property
    def spec(self) -> str:
        """One line that identifies the recipe in a checkpoint: its slots and fields."""
        return repr(self)

    def __repr__(self) -> str:
        parts = [f"{name}={slot!r}" for name, slot in self.slots()]
        if self.flow is not flows.moment_first:
            parts.append(f"flow={self.flow.__name__}")
        return f"Recipe({', '.join(parts)})"

    def equations(self) -> list[str]:
        """The update rule, a line an idea, in the order in which the flow applies them."""
        quotient_first = self.flow in (flows.normalise_first, flows.step_first, flows.clip_first)
        lines: list[str] = []
        now = "g"  # the letter of what goes on to the next place
        order = "gradient second ratio scale rate first" if quotient_first else "gradient first basis second ratio"
        order += " decay" if quotient_first else " direction coupled scale rate decay"
        for place in order.split():
            slot = getattr(self, place)
            if place == "first" and self.flow is flows.step_first:
                lines.append(f"u = lr*{now}")
                now = "u"
            if place == "first" and self.flow is flows.rate_within:
                now = f"(lr*{now})"
            if slot is None:
                continue
            if place in ("direction", "coupled", "scale") and now != "u":
                lines.append(f"u = {now}")
                now = "u"
            lines.append(slot.equation("g" if place == "second" else now))
            if place == "first":
                now = "u" if lines[-1].startswith("u =") else "m"
            elif place == "ratio":
                now = "u"
        within = self.flow in (flows.step_first, flows.rate_within)
        lines.append(f"p <- p - {'' if within else 'lr*'}{now}")
        if self.after is not None:
            lines.append(self.after.equation("p"))
        return lines if self.outer is None else [*lines, self.outer.equation()]

    def state_bytes(self, shape: tuple[int, ...] = (1024, 1024), itemsize: int = 4) -> float:
        """Bytes of state tensors per element of a parameter of that shape."""
        size = 1
        for n in shape:
            size *= n
        kept = 0
        for spec in self.state(shape).values():
            count = 1
            for n in shape if spec.shape is None else spec.shape:
                count *= n
            kept += count * (spec.dtype.itemsize if spec.dtype else itemsize)
        return kept / max(size, 1)

    def words(self) -> float:
        """Elements read and written per parameter element in one step, counted in the recorded graphs."""
        from thalweg.engine.record import traffic

        return float(sum(traffic(self)))

    def passes(self) -> int:
        """Passes over memory in one step: the update, and each barrier whose reduction reads whole tensors."""
        from thalweg.engine.record import traffic

        return sum(words > 0 for words in traffic(self))

    def __str__(self) -> str:
        lines = "\n".join(f"  {line}" for line in self.equations())
        state = ", ".join(self.state((1024, 1024))) or "none"
        passes = self.passes()
        return (
            f"{lines}\n  state: {state} ({self.state_bytes():.3g} bytes per parameter)\n"
            f"  memory: {passes} pass{'es' if passes > 1 else ''}, {self.words():.3g} words per element"
        )


@cache
def with_techniques(recipe: Recipe, techniques: tuple[Slot, ...], outer: Slot | None) -> Recipe:
    """The recipe with techniques added in turn, inside an outer method; a ValueError where they do not fit."""
    for technique in techniques:
        name = type(technique).__name__
        try:
            recipe = technique.into(recipe)
        except ValueError as error:
            raise ValueError(str(error) if name in str(error) else f"{name} does not fit here: {error}") from None
    if outer is None:
        return recipe
    if outer.place == "outer":
        return outer.into(recipe)
    if recipe.outer is not None and recipe.outer != outer:
        raise ValueError(f"this recipe already has the outer method {recipe.outer!r}; use recipe.but(outer={outer!r})")
    return recipe.but(outer=outer)
