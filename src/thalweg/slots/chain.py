"""``Chain``: several slots in one place of a recipe, applied one after the other."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from inspect import isgenerator
from types import SimpleNamespace
from typing import Any

from thalweg.hyper import Hyper
from thalweg.slots.base import SCOPES, Slot, State


@dataclass(frozen=True, repr=False)
class Chain(Slot):
    """Several slots in one place; each takes what the one before it gave."""

    slots: tuple[Slot, ...]

    @property
    def links(self) -> tuple[Slot, ...]:
        return self.slots

    @property
    def scope(self) -> str:  # type: ignore[override]
        return max((slot.scope for slot in self.slots), key=SCOPES.index)

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return max(slot.alike(shape) for slot in self.slots)

    def apart(self, shape: tuple[int, ...]) -> bool:
        return all(slot.apart(shape) for slot in self.slots)

    @property
    def couples(self) -> str:  # type: ignore[override]
        return max(slot.couples for slot in self.slots)

    @property
    def needs_loss(self) -> bool:  # type: ignore[override]
        return any(slot.needs_loss for slot in self.slots)

    @property
    def lazy(self) -> bool:  # type: ignore[override]
        return any(slot.lazy for slot in self.slots)

    @property
    def numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return {k: v for slot in self.slots for k, v in slot.numbers.items()}

    @property
    def group_numbers(self) -> Mapping[str, float]:  # type: ignore[override]
        return {k: v for slot in self.slots for k, v in slot.group_numbers.items()}

    @property
    def on_host(self) -> bool:
        return all(slot.on_host for slot in self.slots)

    def idle(self, h: Mapping[str, Any]) -> bool:
        return all(slot.idle(h) for slot in self.slots)

    def hypers(self) -> dict[str, Hyper]:
        return {k: v for slot in self.slots for k, v in slot.hypers().items()}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        found: dict[str, State] = {}
        for slot in self.slots:
            for role, spec in slot.state(shape).items():
                if role in found:
                    raise ValueError(f"two slots of one chain both keep the state {role!r}; rename one")
                found[role] = spec
        return found

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        for slot in self.slots:
            slot.advance(group, loss)

    def lr(self, h: Mapping[str, Any], t: int) -> float | None:
        lr = h.get("lr")
        for slot in self.slots:
            lr = slot.lr({**h, "lr": lr}, t)
        return lr

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        own = (slot.scalars(h, t, numbers) for slot in self.slots)
        return {f"{i}.{key}": value for i, values in enumerate(own) for key, value in values.items()}

    def __call__(self, x: Any, h: Any, *values: Any) -> Generator[Any, Any, Any]:
        for i, slot in enumerate(self.slots):
            if slot.on_host:
                continue
            mine = f"{i}."
            own = {k.removeprefix(mine): v for k, v in vars(h).items() if k.startswith(mine)}
            out = slot(x, SimpleNamespace(**own), *values)
            if isgenerator(out):
                out = yield from out
            values = (*values[:-1], out) if values else (out,)
        return values[-1]

    def equation(self, x: str = "g") -> str:
        lines = []
        for slot in self.slots:
            lines.append(slot.equation(x))
            x = lines[-1].partition(" = ")[0] if " = " in lines[-1] else x
        return " ; ".join(lines)
