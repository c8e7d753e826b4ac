"""Optimizers without a second moment: Lion, nSGDA and AdaLo."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADALO, LION, NSGDA
from thalweg.registry import register
from thalweg.slots.rate import LossRate
from thalweg.slots.scale import UnitNorm


@register("lion", source="arXiv 2302.06675", code="github.com/google/automl")
class Lion(Named):
    """Lion: the sign of a momentum that is read with one beta and kept with another.

    Equations::

        p <- p*(1 - lr*weight_decay)
        u = sign(betas[0]*m + (1-betas[0])*g)
        m <- betas[1]*m + (1-betas[1])*g
        p <- p - lr*u

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; 3 to 10 times smaller than AdamW's, with weight_decay as much larger.
        betas: two numbers, 0 <= x < 1; language models often use (0.95, 0.98).
        weight_decay: >= 0.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, 4 bytes per parameter. Memory: 1 pass, 5 words per element.
    A NaN gradient leaves a NaN in the state while the parameter stays finite: watch the state, not the weights.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Lion([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, options, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return LION


@register("nsgda", source="arXiv 2210.04319")
class nSGDA(Named):
    """nSGDA: momentum steps of a fixed length, per tensor or over all tensors; made for the two players of a GAN.

    Equations::

        g = g + weight_decay*p
        m <- momentum*m + (1-momentum)*g ; m_hat = m/(1-momentum^t)
        N = |m_hat| of the tensor (scope "layer"), or of all tensors together (scope "global")
        p <- p - lr*m_hat/(N + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups; one optimizer for each player.
        lr: length of a step, >= 0. Every layer moves by exactly lr, whatever its size.
        momentum: 0 <= x < 1.
        eps: >= 0.
        weight_decay: coupled (L2) decay, >= 0.
        scope: "layer" or "global".
        maximize: ascend, for the ascending player.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, 4 bytes per parameter. Memory: 2 passes, 8 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> opt = thalweg.nSGDA([p], lr=0.1, weight_decay=0)
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([2.9400, 3.9200])
    """

    structure = ("scope",)

    def __init__(
        self,
        params: ParamsT,
        lr: float = 4e-5,
        momentum: float = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        scope: str = "layer",
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            momentum=momentum,
            eps=eps,
            weight_decay=weight_decay,
            scope=scope,
            maximize=maximize,
        )

    @classmethod
    def build(cls, scope: str) -> Recipe:  # type: ignore[override]
        if scope not in ("layer", "global"):
            raise ValueError(f"Invalid scope: {scope!r}; legal are 'layer' and 'global'")
        return NSGDA if scope == "layer" else NSGDA.but(scale=UnitNorm("model"))


@register("adalo", source="Information Sciences 690 (2025) 121607", code="github.com/cpuimage/AdaLo")
class AdaLo(Named):
    """AdaLo: momentum steps at one global rate that follows the loss; ``step`` must be given the loss.

    Equations::

        e <- betas[1]*e + (1-betas[1])/(2 + loss)  once a step, for all parameters (e starts at 0)
        a = lr*max(e/kappa, eps)                   mode "adversarial": a big loss means small steps
        a = lr*max((1-e)/kappa, eps)               mode "compliant": a big loss means big steps
        m <- betas[0]*m + (1-betas[0])*g
        p <- p*(1 - a*weight_decay) ; p <- p - a*m

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: multiplies the rate, >= 0; 1 is the published method, whose lr has no effect.
        betas: two numbers, 0 <= x < 1.
        eps: smallest rate, >= 0.
        weight_decay: >= 0.
        kappa: > 0; rule of thumb 0.2 to 0.3 times the initial loss.
        mode: "adversarial" (the published code) or "compliant" (the paper's idea).
        debias: read e/(1-betas[1]^t), which removes a hidden warm-up of about 1/(1-betas[1]) steps.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg, 4 bytes per parameter; e is one number in the group (``loss_average``).
    Memory: 1 pass, 5 words per element. Reading the loss waits for it on a GPU.
    With gradient accumulation pass the mean loss of the whole batch; under DDP, the mean over the ranks.

    Raises:
        ValueError: no loss was ever given, or it is negative or not finite.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.AdaLo([p], mode="compliant")
        >>> loss = (p**2).sum(); loss.backward(); opt.step(loss=loss.detach()); p.data
        tensor([0.9300, 0.9300])
    """

    structure = ("mode", "debias")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        kappa: float = 3.0,
        mode: str = "adversarial",
        debias: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            kappa=kappa,
            mode=mode,
            debias=debias,
            maximize=maximize,
        )

    @classmethod
    def build(cls, mode: str, debias: bool) -> Recipe:  # type: ignore[override]
        if mode not in ("adversarial", "compliant"):
            raise ValueError(f"Invalid mode: {mode!r}; legal are 'adversarial' and 'compliant'")
        return ADALO.but(rate=LossRate(mode, debias))
