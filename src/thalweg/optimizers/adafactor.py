"""Adafactor: a second moment of rows and columns."""

from __future__ import annotations

from typing import Any

from torch.optim.optimizer import ParamsT

from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAFACTOR
from thalweg.registry import register
from thalweg.slots.average import Average
from thalweg.slots.compact import Factored
from thalweg.slots.decay import Decoupled, DecoupledByStep
from thalweg.slots.law import Plain
from thalweg.slots.rate import RelativeRate


@register("adafactor", source="arXiv 1804.04235", code="github.com/tensorflow/tensor2tensor")
class Adafactor(Named):
    """Adafactor: Adam's denominator from row and column means alone, with steps relative to the parameter's size.

    Equations::

        rho = lr, or with relative_step min(1e-2, 1/sqrt(t)), rising as 1e-6*t first with warmup_init
        a = max(eps[1], rms(p))*rho, or rho without scale_parameter
        B = 1 - t^decay_rate ; q = g^2 + eps[0]
        R <- B*R + (1-B)*rowmean(q) ; C <- B*C + (1-B)*columnmean(q) ; V = R*C/mean(R)   (last two axes)
        0-d and 1-d tensors: V <- B*V + (1-B)*q
        u = g/sqrt(V) ; u = a*u/max(1, rms(u)/clip_threshold)
        beta1: m <- beta1*m + (1-beta1)*u ; u = m
        p <- p*(1 - a*weight_decay) - u            decay_by "lr": rho for a, "lr_squared": rho^2

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: None with relative_step, else >= 0.
        eps: (added to g^2, least rms of a parameter), both >= 0.
        clip_threshold: > 0.
        decay_rate: < 0.
        beta1: None for no momentum, else 0 <= x < 1.
        weight_decay: >= 0, scaled as decay_by says.
        scale_parameter: scale the rate by the parameter's root mean square.
        relative_step: use the built-in rate; then lr must be None.
        warmup_init: start the built-in rate at 1e-6*t.
        factored: False keeps the whole second moment, as PaLM does.
        flatten_conv: factor the first axis against all the others, so that a convolution is a matrix of its outputs;
            the convention factors the last two axes, which for a kernel of 3x3 saves a third.
        decay_by: "step" scales the decay by a, "lr" by rho, "lr_squared" by rho^2 (PaLM, weight_decay 1).
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg_sq_row and exp_avg_sq_col, 4*(r+c)/(r*c) bytes per parameter (1-d and not factored: exp_avg_sq, 4),
    beta1: exp_avg, +4.
    Memory: 3 passes, 6 words per element. Conventions and state names are those of transformers and fairseq; the
    root is taken last, of R/mean(R)*C, so that only one root is rounded. torch.optim.Adafactor differs in
    its rate, its use of eps and its decay: ``AdafactorTorch``; big_vision's and timm's: ``AdafactorBV``. PaLM:
    ``Adafactor(params, factored=False, beta1=0.9, weight_decay=1.0, decay_by="lr_squared")``.

    Raises:
        ValueError: lr together with relative_step, neither of them, warmup_init without relative_step.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.Adafactor([p])
        >>> (p**2).sum().backward(); opt.step(); p.data[0]
        tensor([0.9900, 0.9900])
    """

    structure = (
        *("beta1", "scale_parameter", "relative_step", "warmup_init"),
        *("factored", "flatten_conv", "decay_by"),
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        factored: bool = True,
        flatten_conv: bool = False,
        decay_by: str = "step",
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            eps=eps,
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            beta1=beta1,
            weight_decay=weight_decay,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            warmup_init=warmup_init,
            factored=factored,
            flatten_conv=flatten_conv,
            decay_by=decay_by,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls,
        beta1: bool | None,
        scale_parameter: bool,
        relative_step: bool,
        warmup_init: bool,
        factored: bool,
        flatten_conv: bool,
        decay_by: str,
    ) -> Recipe:
        decays = {"step": DecoupledByStep(), "lr": Decoupled(), "lr_squared": Decoupled(power=2)}
        if decay_by not in decays:
            raise ValueError(f"Invalid decay_by: {decay_by!r}; legal are {', '.join(decays)}")
        if flatten_conv and not factored:
            raise ValueError("flatten_conv=True needs factored=True")
        if warmup_init and not relative_step:
            raise ValueError("warmup_init needs relative_step=True")
        axes = "none" if not factored else "first" if flatten_conv else "last"
        recipe = ADAFACTOR.but(
            second=Factored(axes=axes),
            rate=RelativeRate(scale_parameter, relative_step, warmup_init),
            decay=decays[decay_by],
        )
        return recipe if beta1 is None else recipe.but(first=Average("exp_avg", Plain("beta1", 0.9)))

    def _check_options(self, group: Any) -> None:
        super()._check_options(group)
        if group["relative_step"] and group["lr"] is not None:
            raise ValueError(f"lr={group['lr']!r} has no effect with relative_step=True: set that False, or lr to None")
        if not group["relative_step"] and group["lr"] is None:
            raise ValueError("relative_step=False needs a learning rate: pass lr, such as lr=1e-3")
