"""``Partitioned``: the base of optimizers that have another rule for each kind of parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from thalweg.hyper import join
from thalweg.optimizer import Optimizer
from thalweg.recipe import Recipe


class Kind(NamedTuple):
    """What parameters of one kind get: a recipe, options of their own, and whether those of the group count too."""

    recipe: Recipe
    options: Mapping[str, Any]
    inherits: bool = True


class Partitioned(Optimizer):
    """Base of the optimizers that split each group by the kind of its parameters.

    A subclass sets ``kinds`` before ``super().__init__`` and says in ``kind_of`` which of them a parameter is. Groups
    come in the order of ``kinds``. A group that names a recipe is added as it is.
    """

    kinds: dict[str, Kind]

    def kind_of(self, name: str, param: torch.Tensor, group: dict[str, Any]) -> str:
        """The kind of a parameter; ``name`` is empty where none was given."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one that names no recipe is split by kind. Nothing is added if an option is not legal."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        if param_group.get("recipe") is not None:
            super().add_param_group(param_group)
            return
        if "params" not in param_group:
            raise ValueError("this group has no 'params'")
        group = dict(param_group)
        given = group.pop("params")
        if isinstance(given, (set, frozenset)):
            raise TypeError("params must have an order: a set was given; pass a list")
        found: dict[str, list[Any]] = {kind: [] for kind in self.kinds}
        for entry in [given] if isinstance(given, torch.Tensor) else given:
            name, param = entry if isinstance(entry, tuple) else ("", entry)
            if not isinstance(param, torch.Tensor):
                raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(param).__name__}")
            found[self.kind_of(name, param, group)].append(entry)
        main = next(iter(self.kinds))
        group = {k: v for k, v in group.items() if k not in self.consumed}
        private = join(self.kinds[main].recipe.hypers()).keys()
        before = len(self.param_groups)
        try:
            for kind, params in found.items():
                if not params and (kind != main or any(found.values())):
                    continue
                recipe, options, inherits = self.kinds[kind]
                own = group if inherits else {k: v for k, v in group.items() if k not in private}
                super().add_param_group({**own, **options, "params": params, "recipe": recipe})
        except Exception:
            del self.param_groups[before:]
            raise

    #: Keys of a group that only ``kind_of`` reads.
    consumed: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "kinds": self.kinds}
