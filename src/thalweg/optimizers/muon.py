"""Muon: orthogonalised momentum for matrices, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.optimizer import ParamsT

from thalweg.hyper import Hyper, join, validate
from thalweg.optimizer import Optimizer, find_recipe
from thalweg.recipe import with_techniques
from thalweg.recipes import ADAMW, MUON
from thalweg.registry import register
from thalweg.routing import route
from thalweg.slots.average import Average
from thalweg.slots.direction import Orthogonal
from thalweg.slots.law import LookingAhead, Plain
from thalweg.slots.newton_schulz import COEFFICIENTS, QUINTIC
from thalweg.slots.scale import ShapeScale

#: What everything but hidden matrices gets, unless ``rest`` says otherwise.
REST: dict[str, Any] = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10}


@register(
    "muon",
    source="Jordan et al. 2024, kellerjordan.github.io/posts/muon",
    code="github.com/KellerJordan/Muon",
    recipe=MUON,
)
class Muon(Optimizer):
    """Muon: momentum with its singular values set to one, for hidden matrices; AdamW for all other parameters.

    Equations (matrices; axes after the first are flattened)::

        b <- momentum*b + (1-momentum)*g
        u = momentum*b + (1-momentum)*g            (nesterov; else u = b)
        X = u/(|u| + eps) ; ns_steps times: A = X X^T, X <- a*X + (b*A + c*A^2)*X
        p <- p*(1 - lr*weight_decay) ; p <- p - lr*scale*X
        scale = sqrt(max(1, rows/columns)) ("keller"), 0.2*sqrt(max(rows, columns)) ("moonlight"), 1 ("none")

    Args:
        params: parameters, pairs or groups. Each group is split: tensors of 2 axes and more are matrices, the others
            go to AdamW. Embeddings and the output head look like matrices but are not: use
            ``thalweg.create("muon", model)`` or ``Muon.from_model(model)``, which route by module type, or give
            groups with ``recipe=thalweg.ADAMW``.
        lr: learning rate of matrices, >= 0.
        weight_decay: of matrices, >= 0.
        momentum: 0 <= x < 1.
        nesterov: look one step ahead.
        eps: >= 0.
        ns_steps: iterations, >= 1.
        ns_coefficients: (a, b, c), a list of them for successive iterations, the last of which repeats, or a name:
            "polar_express" (arXiv 2505.16932; published with ns_safety 1.01), "modded_nanogpt" (five rows for
            ns_safety 1.02, eps 1e-6). Lists are made for their own safety factor.
        ns_dtype: "auto" (bfloat16 on accelerators, the compute dtype on the CPU), "float32", "float64", "bfloat16",
            which halves the time on CPUs with bfloat16 instructions.
        ns_safety: the norm is multiplied by this before dividing, >= 1.
        adjust_lr: "keller", "moonlight" or "none".
        exact: take the singular value decomposition instead of the iteration.
        rest: options of AdamW for everything else (lr 3e-4, betas (0.9, 0.95), eps 1e-10, weight_decay 0).
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``.

    State: momentum_buffer, 4 bytes per matrix parameter; AdamW's 8 for the rest.
    Memory: the matrix products dominate; equal shapes are stacked. Oblong matrices are iterated on their Gram matrix,
    in about half the arithmetic; the reference engine computes what is written above. Convolutions are scaled by their
    flattened shape (the authors' code takes the kernel's), and ``p.grad`` is left as it is.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Linear(4, 2)
        >>> opt = thalweg.create("muon", model, lr=0.02)
        >>> model(torch.ones(1, 4)).sum().backward(); opt.step()
        >>> [len(group["params"]) for group in opt.param_groups]
        [1, 1]
    """

    needs_model: ClassVar[bool] = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        eps: float = 1e-7,
        ns_steps: int = 5,
        ns_coefficients: Any = QUINTIC[0],
        ns_dtype: str = "auto",
        ns_safety: float = 1.0,
        adjust_lr: str = "keller",
        exact: bool = False,
        rest: Mapping[str, Any] | None = None,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(ns_steps, bool) or not isinstance(ns_steps, int) or ns_steps < 1:
            raise ValueError(f"Invalid ns_steps: {ns_steps!r}; legal is a whole number of at least 1")
        if ns_dtype not in ("auto", "float32", "float64", "bfloat16"):
            raise ValueError(f"Invalid ns_dtype: {ns_dtype!r}; legal are 'auto', 'float32', 'float64', 'bfloat16'")
        if adjust_lr not in ("keller", "moonlight", "none"):
            raise ValueError(f"Invalid adjust_lr: {adjust_lr!r}; legal are 'keller', 'moonlight', 'none'")
        Hyper(1.0, 1.0).check("ns_safety", ns_safety)
        for name, switch in (("nesterov", nesterov), ("exact", exact)):
            if not isinstance(switch, bool):
                raise TypeError(f"{name} must be True or False, got {switch!r}")
        law = LookingAhead("momentum") if nesterov else Plain("momentum", 0.95)
        recipe = MUON.but(
            first=Average("momentum_buffer", law),
            direction=Orthogonal(ns_steps, _coefficients(ns_coefficients), ns_dtype, float(ns_safety), exact),
            scale=None if adjust_lr == "none" else ShapeScale(adjust_lr),
        )
        self._rest = {**REST, "weight_decay": 0.0, **(rest or {})}
        validate({**join(ADAMW.hypers()), **self._rest}, ADAMW.hypers())
        numbers: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "eps": eps}
        super().__init__(params, recipe, maximize=maximize, **numbers, **options)

    @classmethod
    def from_model(cls, model: nn.Module, **options: Any) -> Muon:
        """Muon over a model: hidden matrices by module type, AdamW for embeddings, head, norms and biases."""
        plan = route(model, matrices={"recipe": MUON}, rest={"recipe": ADAMW})
        return cls([{k: v for k, v in group.items() if v is not MUON} for group in plan], **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; one that names no recipe is split into its matrices and the rest."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, got {type(param_group).__name__}")
        recipe = param_group.get("recipe")
        if recipe is not None:
            rest = self._rest if find_recipe(recipe) == with_techniques(ADAMW, self.techniques, self.outer) else {}
            super().add_param_group({**rest, **param_group})
            return
        if "params" not in param_group:
            raise ValueError("this group has no 'params'")
        given = param_group["params"]
        if isinstance(given, (set, frozenset)):
            raise TypeError("params must have an order: a set was given; pass a list")
        params = [given] if isinstance(given, torch.Tensor) else list(given)
        matrices = [p for p in params if _axes(p) >= 2]
        others = [p for p in params if _axes(p) < 2]
        before = len(self.param_groups)
        try:
            if matrices or not others:
                super().add_param_group({**{k: v for k, v in param_group.items() if k != "betas"}, "params": matrices})
            if others:
                own = {
                    k: v for k, v in param_group.items() if k not in ("lr", "weight_decay", "momentum", "eps", "parts")
                }
                super().add_param_group({**self._rest, **own, "params": others, "recipe": ADAMW})
        except Exception:
            del self.param_groups[before:]
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rest": self._rest}


def _axes(param: Any) -> int:
    tensor = param[1] if isinstance(param, tuple) else param
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"optimizer can only optimize Tensors, but one of the params is {type(tensor).__name__}")
    return tensor.ndim


def _coefficients(given: Any) -> tuple[tuple[float, float, float], ...]:
    if isinstance(given, str) and given in COEFFICIENTS:
        return COEFFICIENTS[given]
    rows = [given] if isinstance(given, (tuple, list)) and given and isinstance(given[0], (int, float)) else given
    if isinstance(rows, (tuple, list)) and rows and all(isinstance(r, (tuple, list)) and len(r) == 3 for r in rows):
        return tuple((float(a), float(b), float(c)) for a, b, c in rows)
    known = ", ".join(map(repr, COEFFICIENTS))
    raise ValueError(f"Invalid ns_coefficients: {given!r}; legal is (a, b, c), a list of triples, or one of {known}")
