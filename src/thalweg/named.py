"""``Named``: the base of the named optimizers, which build their recipe from the options of each group."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from torch.optim.optimizer import ParamsT

from thalweg.hyper import join, suggest
from thalweg.optimizer import FLAGS, Optimizer
from thalweg.recipe import Recipe, with_techniques
from thalweg.slots.base import Slot


class Named(Optimizer):
    """Base of the named optimizers: torch's signature, and a recipe built from the options of each group."""

    def __init__(self, params: ParamsT, options: Mapping[str, Any], **hyper: Any) -> None:
        options = dict(options)
        outer, engine = options.pop("outer", None), options.pop("engine", "auto")
        rounding, techniques = options.pop("rounding", "nearest"), options.pop("techniques", ())
        state = options.pop("state", "float32")
        unknown = options.keys() - FLAGS.keys()
        if unknown:
            legal = (hyper.keys() | FLAGS.keys() | {"techniques", "outer", "engine", "state", "rounding"}) - {"params"}
            name = sorted(unknown)[0]
            raise ValueError(f"{type(self).__name__} has no option {name!r}." + suggest(name, legal))
        engine = self._torch_engine(engine, options)
        made = {"techniques": techniques, "outer": outer, "engine": engine, "state": state, "rounding": rounding}
        super().__init__(params, **made, **{**FLAGS, **options, **hyper})

    def _torch_engine(self, engine: str, options: Mapping[str, Any]) -> str:
        """torch's switches: ``fused=True`` is the compiled engine, ``foreach=True/False`` foreach and reference."""
        if options.get("fused") and options.get("foreach"):
            raise ValueError("fused and foreach cannot both be True")
        if engine == "auto":
            if options.get("fused"):
                return "compiled"
            if options.get("foreach") is not None:
                return "foreach" if options["foreach"] else "reference"
        return engine

    @classmethod
    def build(cls, **options: Any) -> Recipe:
        """The recipe for these options (``structure`` names them)."""
        raise NotImplementedError

    #: Options of a group that shape the recipe. Of a float, ``build`` sees only whether it is zero.
    structure: ClassVar[tuple[str, ...]] = ()

    def _option_names(self) -> set[str]:
        return {*super()._option_names(), *self._given}

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        for key in self.structure:
            if isinstance(self._signature_default(key), bool) and not isinstance(group[key], bool):
                raise TypeError(f"{key} must be True or False, got {group[key]!r}")

    def _choose_recipe(self, group: dict[str, Any]) -> Recipe:
        if isinstance(group.pop("recipe", None), Recipe):
            raise ValueError(
                f"{type(self).__name__} has its own recipe; use thalweg.Optimizer for groups that name one"
            )
        recipe = self._built(group)
        read = join(recipe.hypers()).keys() | super()._option_names() | set(self.structure)
        for key in self._given - read:
            default = self._signature_default(key)
            if group[key] != default:
                given = "options and techniques" if self.techniques else "options"
                raise ValueError(
                    f"{type(self).__name__}: {key}={group[key]!r} has no effect with these {given};"
                    f" leave it at {default!r}"
                )
        return recipe

    def _built(self, group: Mapping[str, Any]) -> Recipe:
        values = [bool(v) if isinstance(v := group[k], float) else v for k in self.structure]
        cls: Any = type(self)
        try:
            return _build(cls, self.techniques, self._outer_of(group), repr(values), *values)
        except TypeError:
            for key, value in zip(self.structure, values, strict=True):
                if type(value).__hash__ is None:
                    raise TypeError(f"{key} cannot be a {type(value).__name__}, got {value!r}") from None
            raise

    def _outer_of(self, group: Mapping[str, Any]) -> Slot | None:
        """The outer method of a group; for classes where the group's options shape it."""
        return self.outer

    def recipe_of(self, group: Mapping[str, Any]) -> Recipe:
        """The recipe for the group's options as they are now; a changed option takes effect at the next step."""
        recipe = self._built(group)
        if isinstance(group, dict) and group.get("recipe") != recipe.spec:
            group["recipe"] = recipe.spec
        return recipe

    @classmethod
    def _signature_default(cls, key: str) -> Any:
        return inspect.signature(cls.__init__).parameters[key].default


@cache
def _build(cls: Any, techniques: tuple[Slot, ...], outer: Slot | None, written: str, *values: Any) -> Recipe:
    # ``written`` tells apart what is equal, but not alike: ("power", 2) is legal, ("power", 2.0) is not.
    return with_techniques(cls.build(**dict(zip(cls.structure, values, strict=True))), techniques, outer)
