"""Routing: which parameter of a model gets which recipe and options, by the kind of module that owns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
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
#: The roles a parameter can have.
ROLES = ("embedding", "head", "norm", "bias", "conv", "matrix", "scalar")


def roles(model: nn.Module) -> dict[str, str]:
    """The role of every trainable parameter, by name: one of ``ROLES``. A tied parameter has its first name.

    "head" is the last linear layer of the model in order of definition, or any linear layer tied to an embedding
    (which then counts as "embedding"). "scalar" is what has fewer than two axes and is neither norm nor bias.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 9))
        >>> thalweg.roles(model)["0.weight"], thalweg.roles(model)["2.weight"]
        ('embedding', 'head')
    """
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    head = linears[-1].weight if len(linears) > 1 else None
    found: dict[int, str] = {}
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for name, param in module.named_parameters(recurse=False):
            if not param.requires_grad:
                continue
            names.setdefault(id(param), f"{prefix}.{name}" if prefix else name)
            role = _role(module, name, param, param is head)
            if id(param) not in found or role == "embedding":
                found[id(param)] = role
    return {name: found[key] for key, name in names.items()}


def _role(module: nn.Module, name: str, param: Parameter, is_head: bool) -> str:
    if isinstance(module, _EMBEDDINGS):
        return "embedding"
    if isinstance(module, _NORMS) or "norm" in type(module).__name__.lower():
        return "norm"
    if name == "bias" or name.endswith("_bias") or name.startswith("bias_"):
        return "bias"
    if param.ndim < 2:
        return "scalar"
    if is_head:
        return "head"
    return "conv" if isinstance(module, _CONVS) else "matrix"


def route(model: nn.Module, **where: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Parameter groups of a model, by role.

    Args:
        model: the model.
        where: options for a role (``embedding``, ``head``, ``norm``, ``bias``, ``conv``, ``matrix``, ``scalar``), for
            ``matrices`` (matrix and conv) or for the ``rest``. Options are a dict of group options, with ``recipe``
            to choose the update rule. Norms, biases and scalars get ``weight_decay=0`` unless their role names one.

    Returns:
        Groups with named parameters, in the order of ``where``; empty ones are left out.

    Raises:
        ValueError: an unknown role, or a parameter that no option places.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        >>> groups = thalweg.route(model, matrices=dict(recipe=thalweg.MUON, lr=0.02), rest=dict(recipe=thalweg.ADAMW))
        >>> [[name for name, _ in group["params"]] for group in groups]
        [['0.weight'], ['2.weight'], ['0.bias', '1.weight', '1.bias', '2.bias']]
    """
    legal = {*ROLES, "matrices", "rest"}
    for key in where.keys() - legal:
        raise ValueError(f"route has no role {key!r}." + suggest(key, legal))
    params = dict(model.named_parameters())
    placed: dict[tuple[str, bool], list[tuple[str, Parameter]]] = {}
    for name, role in roles(model).items():
        wanted = (role, *(["matrices"] if role in ("matrix", "conv") else []), "rest")
        place = next((k for k in wanted if k in where), None)
        if place is None:
            raise ValueError(f"{name} is a {role}, and neither {role!r} nor 'rest' is given: add rest=dict(...)")
        undecayed = role in ("norm", "bias", "scalar") and place != role
        placed.setdefault((place, undecayed), []).append((name, params[name]))
    groups = []
    for named, options in where.items():
        for undecayed in (False, True):
            if (named, undecayed) in placed:
                extra = {"weight_decay": 0.0} if undecayed else {}
                groups.append({"params": placed[named, undecayed], **options, **extra})
    return groups
