"""AdamA: gradient accumulation in Adam's moments instead of in a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.optimizer import Chosen
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW
from thalweg.registry import register
from thalweg.slots.average import adam_moments
from thalweg.slots.moments import Folding

ADAMA = ADAMW.but(**adam_moments(Folding("betas.0", 0.9), Folding("betas.1", 0.999)))


@cache
def _folding(recipe: Recipe) -> Recipe:
    """The part of a recipe that a micro-batch goes through."""
    return recipe.but(flow=flows.fold, rate=None, decay=None, after=None, outer=None)


@register("adama", source="arXiv 2305.19982")
class AdamA(Named):
    """AdamA: AdamW that takes each micro-batch into its moments at once, so that no gradient is summed up.

    Equations::

        m <- betas[0]*m ; v <- betas[1]*v                                            once a step
        m <- m + (1-betas[0])*g_j ; v <- v + (1-betas[1])*g_j^2                      for each micro-batch j
        p <- p*(1 - lr*weight_decay)
        p <- p - lr*m/(1-betas[0]^t)/(sqrt(v/(1-betas[1]^t)) + eps)

    ``accumulate()`` takes the present gradients in, after which they may be freed; ``step()`` takes in those that are
    there, if any, and moves. g_j is the micro-batch's part of the mean gradient: divide its loss sum by the size of
    the whole batch. With one micro-batch a step, by ``step()`` alone, this is AdamW.

    Not equal to the large batch: v gathers sums of squares where the batch's gradient is the square of a sum. Where
    micro-batches agree, v is as many times smaller as there are micro-batches, and steps longer by the root of that.
    ``thalweg.Accumulator`` is exact, and keeps a gradient. Averaging the moments over processes is left to the caller.

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        betas: two numbers, 0 <= x < 1.
        eps: >= 0.
        weight_decay: >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, exp_avg_sq, 8 bytes per parameter, and folds, one number a tensor: micro-batches taken in since the
    last step. Memory: 1 pass, 7 words per element (``accumulate``: 5).

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdamA([p], lr=0.1)
        >>> for size in (1.0, 3.0):
        ...     (size*p/2).sum().backward(); opt.accumulate(); opt.zero_grad()
        >>> opt.step(); p.data
        tensor([0.8735, 0.8735])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADAMA

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        if group["capturable"]:
            raise ValueError(
                "capturable=True does not work with AdamA, which keeps on the host what waits for a step;"
                " leave it False"
            )

    @torch.no_grad()
    def accumulate(self) -> None:
        """Take the present gradients into the moments; move nothing. Call ``zero_grad()`` afterwards."""
        groups = [
            (group, self.recipe_of(group), params)
            for group in self.param_groups
            if (params := [p for p in group["params"] if p.grad is not None])
        ]
        self._fold(groups)

    def _fold(self, groups: Sequence[Chosen]) -> None:
        for p in (p for _, _, params in groups for p in params):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise RuntimeError("AdamA does not support sparse gradients; build embeddings with sparse=False")
        works, _, steps, _ = self._prepare([(group, _folding(recipe), params) for group, recipe, params in groups])
        self._run(works)
        for numbers, states in steps:
            for state in states:
                state["folds"].fill_(numbers["folds"] + 1)

    def _take_step(self, loss: Any) -> None:
        """The step of all that have a gradient or have taken one in; the latter by a gradient of zeros."""
        waiting = [p for p in self.state if p.grad is None and self.state[p].get("folds", 0) > 0]
        try:
            for p in waiting:
                p.grad = torch.zeros_like(p)
            super()._take_step(loss)
        finally:
            for p in waiting:
                p.grad = None

    def _move(self, groups: Sequence[Chosen]) -> None:
        super()._move(groups)
        for p in (p for _, _, params in groups for p in params):
            self.state[p]["folds"].fill_(0)
