"""Routing: which parameter of a model gets which recipe and options, by the kind of module that owns it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from thalweg.hyper import suggest

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
_CONVS = (nn.modules.conv._ConvNd,)
#: What a parameter can be to its model, and what that means.
ROLES: dict[str, str] = {
    "embedding": "tables of vectors: embeddings, also where tied to a head, position tables and class tokens",
    "head": "the linear layer that gives the output, outside every repeated block",
    "norm": "scales and shifts of normalisation layers",
    "bias": "biases",
    "stem": "the first convolution, which sees the raw input",
    "conv": "kernels of the other convolutions",
    "matrix": "weights of hidden linear layers",
    "fused": "several matrices stacked along the outputs: query, key and value in one, gates of recurrent cells",
    "expert": "a stack of matrices, one an expert: three axes and more",
    "scalar": "anything else with fewer than two axes: gains, temperatures",
}
#: Roles together under one name.
TOGETHER = {"matrices": ("matrix", "conv", "fused", "expert")}
#: No weight decay unless their role is named in the call.
UNDECAYED = ("norm", "bias", "scalar")


@dataclass(frozen=True)
class Placed:
    """One parameter's place in its model."""

    name: str
    param: Parameter
    role: str
    parts: int = 1
    """Matrices stacked along the first axis, of a ``fused`` or an ``expert`` parameter."""


def roles(model: nn.Module, assign: Mapping[str, str] | None = None) -> dict[str, str]:
    """The role of every trainable parameter, by name: one of ``thalweg.routing.ROLES``.

    Modules decide, by their type and by where they stand; names only tell a fused projection from a wide one, and
    then its shape must agree. A tied parameter appears once, with its first name; tied to an embedding, it is one.

    Args:
        model: the model.
        assign: roles of parameters by name or pattern (``"*.router.weight"``), which go before anything else.

    Raises:
        ValueError: ``assign`` holds an unknown role, or a pattern that no parameter matches.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> thalweg.roles(model)["0.weight"], thalweg.roles(model)["2.weight"]
        ('embedding', 'head')
    """
    return {placed.name: placed.role for placed in place(model, assign)}


def place(model: nn.Module, assign: Mapping[str, str] | None = None) -> list[Placed]:
    """Every trainable parameter with its role; see ``roles``."""
    assign = assign or {}
    for pattern, role in assign.items():
        if role not in ROLES:
            raise ValueError(f"assign[{pattern!r}]: no role is named {role!r}." + suggest(role, ROLES))
        if not any(fnmatchcase(name, pattern) for name, _ in model.named_parameters()):
            raise ValueError(f"assign: no parameter's name matches {pattern!r}")
    head = _head(model)
    stem = next((m.weight for m in model.modules() if isinstance(m, _CONVS)), None)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, _EMBEDDINGS)}
    found: dict[int, Placed] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for short, param in module.named_parameters(recurse=False):
            if not param.requires_grad:
                continue
            name = f"{path}.{short}" if path else short
            if id(param) in found:
                continue
            if id(param) in tables:
                role = "embedding"
            else:
                role = "head" if param is head else "stem" if param is stem else _role(module, short, param)
            parts = _parts(module, name, param) if role == "matrix" else 1
            found[id(param)] = Placed(name, param, "fused" if parts > 1 else role, parts)
    given = []
    for placed in found.values():
        role = next((r for pattern, r in assign.items() if fnmatchcase(placed.name, pattern)), placed.role)
        parts = placed.param.shape[0] if role == "expert" else placed.parts if role == "fused" else 1
        given.append(Placed(placed.name, placed.param, role, parts))
    return given


def _head(model: nn.Module) -> Tensor | None:
    """The weight of the last linear layer, if it stands outside every repeated block."""
    linears = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    others = (*_EMBEDDINGS, *_CONVS, nn.RNNBase, nn.RNNCellBase)
    if not linears or (len(linears) == 1 and not any(isinstance(m, others) for m in model.modules())):
        return None
    path, last = linears[-1]
    steps = path.split(".")
    for depth in range(1, len(steps)):
        block = model.get_submodule(".".join(steps[:depth]))
        siblings = model.get_submodule(".".join(steps[: depth - 1])).children()
        if sum(type(s) is type(block) for s in siblings) > 1:
            return None
    return last.weight


def _role(module: nn.Module, name: str, param: Parameter) -> str:
    if isinstance(module, _EMBEDDINGS):
        return "embedding"
    if isinstance(module, _NORMS) or "norm" in type(module).__name__.lower():
        return "norm"
    if name.startswith("bias") or name.endswith("bias"):
        return "bias"
    if param.ndim < 2:
        return "scalar"
    if isinstance(module, _CONVS):
        return "conv"
    bare = not isinstance(module, (nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase))
    if bare and param.ndim > 2:
        # A lone leading axis counts nothing: position tables (1, n, d) and class tokens (1, 1, d).
        return "embedding" if param.shape[0] == 1 else "expert"
    if bare and any(part in name for part in ("embed", "token", "bias_table")):
        return "embedding"
    return "matrix"


def _parts(module: nn.Module, name: str, param: Parameter) -> int:
    """How many matrices are stacked along the first axis."""
    if isinstance(module, nn.MultiheadAttention):
        return 3 if name.endswith("in_proj_weight") else 1
    if isinstance(module, (nn.LSTM, nn.LSTMCell)):
        return 1 if "weight_hr" in name else 4
    if isinstance(module, (nn.GRU, nn.GRUCell)):
        return 3
    if isinstance(module, nn.Linear) and param.shape[0] == 3 * param.shape[1]:
        short = name.lower().split(".")[-2] if "." in name else ""
        if any(word in short for word in ("qkv", "in_proj", "c_attn", "wqkv", "query_key_value")):
            return 3
    return 1


class Plan(list[dict[str, Any]]):
    """Parameter groups, as optimizers take them; ``print`` shows them as a table."""

    def __init__(self, groups: list[dict[str, Any]], found: list[Placed]) -> None:
        super().__init__(groups)
        self._roles = {placed.name: placed.role for placed in found}

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "group", "roles", "tensors", "parameters", "recipe and options", "first"
        for i, group in enumerate(self):
            names = [name for name, _ in group["params"]]
            held = dict.fromkeys(self._roles[name] for name in names)
            options = {k: v for k, v in group.items() if k not in ("params", "recipe")}
            recipe = group.get("recipe")
            words = [recipe if isinstance(recipe, str) else _named(recipe)] if recipe is not None else []
            words += [f"{k}={v!r}" for k, v in options.items()]
            count = sum(p.numel() for _, p in group["params"])
            yield str(i), ", ".join(held), str(len(names)), f"{count:,}", ", ".join(words), names[0]

    def __str__(self) -> str:
        rows = list(self._rows())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        right = (2, 3)
        lines = []
        for row in rows:
            cells = enumerate(zip(row, widths, strict=True))
            lines.append("  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in cells).rstrip())
        return "\n".join(lines)


def _treats_matrices(recipe: Any) -> bool:
    from thalweg.optimizer import find_recipe

    return recipe is not None and find_recipe(recipe).scope == "matrix"


def _named(recipe: Any) -> str:
    """The name of a recipe that the library has, else its own line."""
    from thalweg import recipes

    return next((name for name, value in vars(recipes).items() if value == recipe), repr(recipe))


def route(model: nn.Module, *, assign: Mapping[str, str] | None = None, **where: Mapping[str, Any]) -> Plan:
    """Parameter groups of a model, by role.

    Args:
        model: the model.
        assign: roles of single parameters, by name or pattern; see ``roles``.
        where: options for a role (``embedding``, ``head``, ``norm``, ``bias``, ``stem``, ``conv``, ``matrix``,
            ``fused``, ``expert``, ``scalar``), for ``matrices`` (matrix, conv, fused and expert), or for the ``rest``.
            Options are a dict of group options, with ``recipe`` to choose the update rule. Recipes that treat whole
            matrices (Muon) get ``parts`` with fused parameters and stacks of experts, and treat their matrices one by
            one. Norms, biases and scalars get ``weight_decay=0`` unless their role is named.

    Returns:
        Groups with named parameters, in the order of ``where``; empty ones are left out. ``print`` shows the plan.

    Raises:
        ValueError: an unknown role, or a parameter that no option places.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        >>> plan = thalweg.route(model, matrices=dict(recipe=thalweg.MUON, lr=0.02), rest=dict(recipe=thalweg.ADAMW))
        >>> print(plan)
        group  roles       tensors  parameters  recipe and options       first
        0      matrix            1          16  MUON, lr=0.02            0.weight
        1      head              1           8  ADAMW                    2.weight
        2      bias, norm        4          14  ADAMW, weight_decay=0.0  0.bias
    """
    legal = {*ROLES, *TOGETHER, "rest"}
    for key in where.keys() - legal:
        raise ValueError(f"route has no role {key!r}." + suggest(key, legal))
    found = place(model, assign)
    groups: dict[tuple[str, bool, int], list[tuple[str, Parameter]]] = {}
    for placed in found:
        role = placed.role
        wanted = (role, *(name for name, held in TOGETHER.items() if role in held), "rest")
        chosen = next((k for k in wanted if k in where), None)
        if chosen is None:
            raise ValueError(
                f"{placed.name} of shape {tuple(placed.param.shape)} is a {role}, and neither {role!r} nor 'rest' is"
                f" given: add rest=dict(...), or say what it is with assign={{{placed.name!r}: role}}"
            )
        undecayed = role in UNDECAYED and chosen != role
        parts = placed.parts if _treats_matrices(where[chosen].get("recipe")) else 1
        groups.setdefault((chosen, undecayed, parts), []).append((placed.name, placed.param))
    plan = []
    for name, options in where.items():
        for _, undecayed, parts in sorted(k for k in groups if k[0] == name):
            group = {"params": groups[name, undecayed, parts], **options}
            if undecayed:
                group["weight_decay"] = 0.0
            if parts > 1:
                group["parts"] = parts
            plan.append(group)
    return Plan(plan, found)
