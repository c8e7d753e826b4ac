"""The registry: names, sources and traits of the optimizers. It drives ``list``, ``create``, the tests and the docs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

from torch import nn

from thalweg.hyper import suggest
from thalweg.named import Named
from thalweg.optimizer import Optimizer
from thalweg.recipe import Recipe

T = TypeVar("T", bound=Optimizer)


@dataclass(frozen=True)
class Entry:
    """What is known of a registered optimizer."""

    name: str
    cls: type[Optimizer]
    recipe: Recipe
    source: str
    code: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """One line saying what it is."""
        return (inspect.getdoc(self.cls) or self.name).splitlines()[0].replace("``", "")

    @property
    def defaults(self) -> dict[str, Any]:
        """Options with their defaults, as in the signature."""
        parameters = inspect.signature(self.cls.__init__).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    @property
    def needs_loss(self) -> bool:
        """Whether ``step`` must be given the loss."""
        return self.recipe.needs_loss


_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}


def register(
    name: str, *, source: str, code: str = "", aliases: tuple[str, ...] = (), recipe: Recipe | None = None
) -> Callable[[type[T]], type[T]]:
    """Class decorator: make an optimizer known by name.

    ``source`` is its arXiv id or reference, ``code`` the repository of the authors' code. ``recipe`` is needed where
    the class does not build one from its options.
    """

    def add(cls: type[T]) -> type[T]:
        found = recipe
        if found is None:
            assert issubclass(cls, Named)
            parameters = inspect.signature(cls.__init__).parameters
            found = cls.build(**{k: parameters[k].default for k in cls.structure})
        _add(Entry(name, cls, found, source, code, aliases))
        return cls

    return add


def _add(entry: Entry) -> None:
    taken = [n for n in (entry.name, *entry.aliases) if n in _ENTRIES or n in _ALIASES]
    if taken:
        raise ValueError(f"an optimizer named {taken[0]!r} is registered already")
    _ENTRIES[entry.name] = entry
    _ALIASES.update(dict.fromkeys(entry.aliases, entry.name))


@cache
def load_all(package: str) -> None:
    """Import every module of a package, so that what they register is known."""
    where = import_module(package)
    for module in iter_modules(where.__path__):
        import_module(f"{package}.{module.name}")


def list_optimizers() -> list[str]:
    """The names of all registered optimizers.

    Example:
        >>> import thalweg
        >>> "adamw" in thalweg.list_optimizers()
        True
    """
    load_all("thalweg.optimizers")
    return sorted(_ENTRIES)


def get(name: str) -> Entry:
    """The entry of a name or alias, whatever its case; a KeyError names the nearest ones.

    Example:
        >>> import thalweg
        >>> thalweg.get("AdamW").source
        'arXiv 1711.05101'
    """
    load_all("thalweg.optimizers")
    key = name.lower()
    key = _ALIASES.get(key, key)
    if key not in _ENTRIES:
        raise KeyError(f"no optimizer is named {name!r}." + suggest(key, _ENTRIES))
    return _ENTRIES[key]


def create(name: str, model_or_params: nn.Module | Iterable[Any], **hyper: Any) -> Any:
    """Build an optimizer by name, over a model or over parameters, pairs or groups.

    Given a model, optimizers that treat parameters by role (Muon) route them by module type. ``"lbfgs"`` is built too,
    though it is no recipe and so not listed.

    Example:
        >>> import thalweg, torch
        >>> opt = thalweg.create("lion", torch.nn.Linear(4, 2), lr=1e-4)
        >>> type(opt).__name__
        'Lion'
    """
    params: Any = model_or_params
    if name.lower() == "lbfgs":
        from thalweg.optimizers.lbfgs import LBFGS

        return LBFGS(params.parameters() if isinstance(params, nn.Module) else params, **hyper)
    entry = get(name)
    if isinstance(model_or_params, nn.Module):
        if entry.cls.needs_model:
            return entry.cls.from_model(model_or_params, **hyper)  # type: ignore[attr-defined]
        params = model_or_params.named_parameters()
    return entry.cls(params, **hyper)


def define(name: str, recipe: Recipe, *, source: str = "", doc: str = "", **defaults: Any) -> type[Optimizer]:
    """A named optimizer class from a recipe: a new idea in ten lines. Registered in lower case.

    Args:
        name: the class name.
        recipe: the update rule.
        source: where it comes from.
        doc: the class docstring.
        defaults: numbers that differ from the recipe's own defaults.

    Example:
        >>> import torch, thalweg
        >>> from dataclasses import dataclass
        >>> from thalweg.slots import Average
        >>> @dataclass(frozen=True, repr=False)
        ... class Belief(Average):
        ...     "Variance of the gradient around its own mean (AdaBelief, arXiv 2010.07468)."
        ...     def __call__(self, x, h, g):
        ...         return super().__call__(x, h, g - x["exp_avg"])
        >>> belief = Belief("exp_avg_sq", thalweg.slots.Debiased("betas.1", 0.999), power=2)
        >>> recipe = thalweg.ADAMW.but(flow=thalweg.flows.first_then_second, second=belief)
        >>> AdaBelief = thalweg.define("AdaBeliefExample", recipe, lr=1e-3)
        >>> opt = AdaBelief([torch.nn.Parameter(torch.ones(3))], weight_decay=0.1)
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, got {recipe!r}")
    load_all("thalweg.optimizers")  # so that a name that the library has is noticed now

    def __init__(self: Optimizer, params: Any, **hyper: Any) -> None:
        Optimizer.__init__(self, params, recipe, **{**defaults, **hyper})

    cls = type(name, (Optimizer,), {"__init__": __init__, "__doc__": doc or f"{name}: {recipe!r}"})
    cls.__module__ = inspect.stack()[1].frame.f_globals.get("__name__", cls.__module__)
    _add(Entry(name.lower(), cls, recipe, source))
    return cls
