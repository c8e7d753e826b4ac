"""The registry of techniques: ideas that switch on for any optimizer they are defined for, by name or as slots."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from thalweg.hyper import suggest

if TYPE_CHECKING:  # slots register themselves here
    from thalweg.slots.base import Slot

T = TypeVar("T", bound="Slot")


@dataclass(frozen=True)
class Technique:
    """What is known of a registered technique; ``slot()`` makes one with its defaults."""

    name: str
    slot: type[Slot]
    source: str
    needs: str
    """What a recipe must have for it, in words; empty if any recipe will do."""

    @property
    def title(self) -> str:
        """One line saying what it does."""
        return (inspect.getdoc(self.slot) or self.name).splitlines()[0].replace("``", "")


_ENTRIES: dict[str, Technique] = {}


def technique(name: str, *, source: str, needs: str = "") -> Callable[[type[T]], type[T]]:
    """Class decorator: make a slot known as a technique."""

    def add(slot: type[T]) -> type[T]:
        if name in _ENTRIES:
            raise ValueError(f"a technique named {name!r} is registered already")
        _ENTRIES[name] = Technique(name, slot, source, needs)
        return slot

    return add


def admitting(name: str) -> list[str]:
    """The names of the registered optimizers that can be built with the technique of that name and its defaults.

    Example:
        >>> from thalweg.techniques import admitting
        >>> "adamw" in admitting("cautious"), "sgd" in admitting("eps_inside")
        (True, False)
    """
    from thalweg.registry import get as entry
    from thalweg.registry import list_optimizers

    def admits(optimizer: str) -> bool:
        params = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))]
        try:
            entry(optimizer).cls(params, techniques=[get(name).slot()])
        except ValueError:
            return False
        return True

    return [optimizer for optimizer in list_optimizers() if admits(optimizer)]


def _load() -> None:
    """Import every slot, so that all techniques are known."""
    from thalweg.registry import load_all

    load_all("thalweg.slots")


def list_techniques() -> list[str]:
    """The names of all techniques.

    Example:
        >>> import thalweg
        >>> "cautious" in thalweg.list_techniques()
        True
    """
    _load()
    return sorted(_ENTRIES)


def get(name: str) -> Technique:
    """The technique of a name; a KeyError names the nearest ones."""
    _load()
    key = name.lower()
    if key not in _ENTRIES:
        raise KeyError(f"no technique is named {name!r}." + suggest(key, _ENTRIES))
    return _ENTRIES[key]
