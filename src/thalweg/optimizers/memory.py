"""Optimizers that keep less than a number per parameter: SM3, SMMF, Amos, and two conventions of Adafactor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import ParamsT

from thalweg import flows
from thalweg.named import Named
from thalweg.recipe import Recipe
from thalweg.recipes import ADAFACTOR
from thalweg.registry import register
from thalweg.slots.amos import KINDS, AmosStep
from thalweg.slots.average import Average
from thalweg.slots.clipping import ClipValue
from thalweg.slots.compact import Capped, Cover, Factored, FlooredFactored
from thalweg.slots.decay import Decoupled
from thalweg.slots.gradient import L2
from thalweg.slots.law import Plain
from thalweg.slots.rate import RelativeRate
from thalweg.slots.ratio import OverSqrt
from thalweg.slots.scale import ClipRMS
from thalweg.slots.square import NoDecay, Square, SquareMomentum

SM3_II = Recipe(
    second=Cover(),
    ratio=OverSqrt(eps=1e-30, inside=True),
    first=Average("momentum_buffer", Plain("momentum")),
    decay=Decoupled(),
    flow=flows.normalise_first,
)
SQUARE = Recipe(first=SquareMomentum(), second=Square(), ratio=OverSqrt(), decay=Decoupled())
AMOS = Recipe(ratio=AmosStep(), decay=Decoupled(), flow=flows.step_first)
ADAFACTOR_TORCH = ADAFACTOR.but(
    second=FlooredFactored(), scale=ClipRMS("d"), rate=RelativeRate(relative=False, capped=True), decay=Decoupled()
)
ADAFACTOR_BV = Recipe(
    second=Factored(
        Capped(), axes="largest", least=16, eps="eps", names=("exp_avg_sq", "exp_avg_sq_r", "exp_avg_sq_c")
    ),
    ratio=OverSqrt(eps=None),
    decay=Decoupled(),
    flow=flows.clip_first,
)


@register("sm3", source="arXiv 1901.11150", code="github.com/google-research/google-research")
class SM3(Named):
    """SM3: Adagrad that keeps one number per index of each axis, and takes the least of those that cover an entry.

    Equations::

        v = min_i a_i + g^2                        a_i: one number per index of axis i
        a_i <- max of v over all axes but i        variant "I": a_i <- a_i + max of g^2 ; v = min_i a_i
        u = g/sqrt(v + eps)                        0-d and 1-d tensors: v is Adagrad's sum
        m <- momentum*m + (1-momentum)*u           not corrected: the first step is lr*(1-momentum)*sign(g)
        p <- p*(1 - lr*weight_decay) - lr*m

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; steps shrink as Adagrad's do, so warm it up and leave it there.
        momentum: 0 <= x < 1; 0 keeps no buffer.
        eps: under the root, >= 0; 0 makes nan where a gradient is 0 from the first step on.
        weight_decay: decoupled, >= 0; the authors have none.
        variant: "II", or "I", whose v is never smaller.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: accumulator_0, accumulator_1, ... of shape (1, ..., d_i, ..., 1), together 4*sum(d)/prod(d) bytes per
    parameter (1-d: 4), and momentum_buffer, 4. Memory: 1 pass, 5 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.SM3([p], lr=0.1, momentum=0)
        >>> (p**2).sum().backward(); opt.step(); p.data[0]
        tensor([0.9000, 0.9000])
    """

    structure = ("momentum", "variant")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.9,
        eps: float = 1e-30,
        weight_decay: float = 0.0,
        variant: str = "II",
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        hyper = {"lr": lr, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options, **hyper, variant=variant, maximize=maximize)

    @classmethod
    def build(cls, momentum: bool, variant: str) -> Recipe:  # type: ignore[override]
        recipe = SM3_II.but(second=Cover(variant=variant))
        return recipe if momentum else recipe.but(first=None)


@register("smmf", source="arXiv 2412.08894", code="github.com/eai-lab/SMMF")
class SMMF(Named):
    """SMMF: Adam whose two moments are kept as row and column sums of a square view, and a sign bit each.

    Equations::

        b = beta*growth_rate^(t-1) ; B = 1 - t^decay_rate
        G = g as the most nearly square matrix of as many elements (n x m, n >= m)
        M = b*S*outer(r_m, c_m) + (1-b)*G ; V = B*outer(r_v, c_v) + (1-B)*G^2
        S <- sign of M ; r <- row sums, c <- column sums over the total, of |M| and of V
        p <- p*(1 - lr*weight_decay) - lr*M/(sqrt(V) + eps)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0; the first step is lr*(1-beta)*sign(g).
        beta: 0 <= x <= 1, or None for no first moment.
        eps: >= 0.
        weight_decay: >= 0.
        decay_rate: -1 <= x <= 0; the authors take -0.5 for convolutions and -0.8 for transformers.
        growth_rate: 0 <= x <= 1; of beta, with t.
        vector_reshape: factor tensors with one axis longer than 1 too; False keeps both their moments whole.
        weight_decay_mode: "adamw" (decoupled), "adam" (coupled, L2), or "none", which leaves weight_decay without
            effect as the authors' "adam" mode does.
        packed: keep eight signs to a byte; False keeps booleans, which take eight times the memory.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg_row, exp_avg_col, exp_avg_sq_row, exp_avg_sq_col, 16/sqrt(n) bytes per parameter of a tensor of n
    (near-)square elements, and exp_avg_sign, 1/8: a row of bytes for each row of the view, lowest bit first. A prime
    number of elements has no square view: 8 and 1. Memory: 1 pass, 3 words per element. The view follows C order,
    whatever the layout in memory.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(4, 4))
        >>> opt = thalweg.SMMF([p], lr=0.1)
        >>> (p**2).sum().backward(); opt.step(); p.data[0, :2]
        tensor([0.9900, 0.9900])
    """

    structure = ("beta", "vector_reshape", "weight_decay_mode", "packed")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        beta: float | None = 0.9,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decay_rate: float = -0.5,
        growth_rate: float = 0.999,
        vector_reshape: bool = True,
        weight_decay_mode: str = "adamw",
        packed: bool = True,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            beta=beta,
            eps=eps,
            weight_decay=weight_decay,
            decay_rate=decay_rate,
            growth_rate=growth_rate,
            vector_reshape=vector_reshape,
            weight_decay_mode=weight_decay_mode,
            packed=packed,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls, beta: Any, vector_reshape: bool, weight_decay_mode: str, packed: bool
    ) -> Recipe:
        decays = {"adamw": (None, Decoupled()), "adam": (L2(), None), "none": (None, NoDecay())}
        if weight_decay_mode not in decays:
            raise ValueError(f"Invalid weight_decay_mode: {weight_decay_mode!r}; legal are {', '.join(decays)}")
        gradient, decay = decays[weight_decay_mode]
        first = None if beta is None else SquareMomentum(vectors=vector_reshape, packed=packed)
        return SQUARE.but(gradient=gradient, first=first, second=Square(vectors=vector_reshape), decay=decay)

    def _check_options(self, group: Mapping[str, Any]) -> None:
        super()._check_options(group)
        if group["decay_rate"] < -1:
            raise ValueError(f"Invalid decay_rate: {group['decay_rate']!r}; legal is a number with -1 <= x <= 0")


@register("amos", source="arXiv 2210.11693", code="github.com/google-research/jestimator")
class Amos(Named):
    """Amos: normalised steps towards the size a parameter should have, with decays of rate and weights built in.

    Equations::

        q = mean of g^2 over what a slot covers ; v <- beta*v + (1-beta)*q ; r = (1-beta^t)/max(v, epsilon)
        s = lr^2*r*q/sqrt(1 + c_coef*sqrt(lr)*b)                           b starts at 0
        u = ((s/2 + extra_l2)*p + lr*eta*sqrt(r)*g)/(1 + d_coef*sqrt(lr*eta)*b) ; b <- b + s*(1 + b)
        momentum: m <- momentum*m + (1-momentum)*u ; u = m
        p <- p*(1 - lr*weight_decay) - u

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: xi, >= 0; about 1/sqrt(number of batches in the training set). Warm it up; it needs no decay.
        eta: the size to expect of a trained parameter's entries, > 0; a function of a parameter that returns it, which
            makes a group of the parameters with each size; or None: 0.5 for vectors, sqrt(2/fan_in) for the others.
        beta: 0 <= x < 1; 1-beta of the order of lr.
        momentum: None, or 0 <= x < 1.
        slots: one v and b for a "tensor", each "row" (the first axis; the authors' choice for linear layers and
            embeddings), each "col" (all axes but the first), or each entry ("full"); vectors have one unless "full".
        clip_value: None, or the largest size of a gradient's entry, > 0.
        extra_l2: >= 0, not scaled by lr, but nothing moves where lr is 0.
        c_coef: of b in the decay of the weights, >= 0.
        d_coef: of b in the decay of the step, >= 0.
        epsilon: least v, > 0.
        weight_decay: decoupled decay on top, >= 0; Amos decays by itself and wants none.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: exp_avg_sq and decay, one number a slot each, 0 bytes per parameter but for "full" (8); scale, one number a
    tensor, with eta None; momentum: exp_avg, 4. Memory: 2 passes, 4 words per element.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.Amos([p], lr=0.1, eta=0.5)
        >>> (p**2).sum().backward(); opt.step(); p.data[0]
        tensor([0.9450, 0.9450])
    """

    structure = ("eta", "momentum", "slots", "clip_value")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        eta: float | Callable[[torch.Tensor], float] | None = None,
        beta: float = 0.999,
        momentum: float | None = None,
        slots: str = "tensor",
        clip_value: float | None = None,
        extra_l2: float = 0.0,
        c_coef: float = 0.25,
        d_coef: float = 0.25,
        epsilon: float = 2.0**-125,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            eta=eta,
            beta=beta,
            momentum=momentum,
            slots=slots,
            clip_value=clip_value,
            extra_l2=extra_l2,
            c_coef=c_coef,
            d_coef=d_coef,
            epsilon=epsilon,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    @classmethod
    def build(cls, eta: Any, momentum: Any, slots: str, clip_value: Any) -> Recipe:  # type: ignore[override]
        if slots not in KINDS:
            raise ValueError(f"Invalid slots: {slots!r}; legal are {', '.join(map(repr, KINDS))}")
        return AMOS.but(
            gradient=None if clip_value is None else ClipValue("clip_value"),
            ratio=AmosStep(slots, shaped=eta is None),
            first=None if momentum is None else Average("exp_avg", Plain("momentum")),
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; with a function for ``eta``, one group for each value it gives."""
        eta = param_group.get("eta", self.defaults["eta"]) if isinstance(param_group, dict) else None
        if not callable(eta):
            super().add_param_group(param_group)
            return
        given = param_group.get("params")
        if given is None or isinstance(given, (set, frozenset)):
            raise TypeError("a parameter group needs its params, in an order: pass a list")
        parts: dict[float, list[Any]] = {}
        for entry in [given] if isinstance(given, torch.Tensor) else list(given):
            parts.setdefault(float(eta(entry[1] if isinstance(entry, tuple) else entry)), []).append(entry)
        before = len(self.param_groups)
        try:
            for size, members in parts.items():
                super().add_param_group({**param_group, "params": members, "eta": size})
        except Exception:
            del self.param_groups[before:]
            raise


@register("adafactor_torch", source="arXiv 1804.04235", code="github.com/pytorch/pytorch", aliases=("adafactortorch",))
class AdafactorTorch(Named):
    """Adafactor as torch.optim has it: its drop-in, with eps as a floor, lr as a cap and decay by the bare lr.

    Equations::

        a = max(eps[1], rms(p))*min(lr, 1/sqrt(t)) ; p <- p*(1 - lr*weight_decay)
        B = 1 - t^beta2_decay
        R <- B*R + (1-B)*rowmean(g^2) ; C <- B*C + (1-B)*columnmean(g^2)         (last two axes)
        V = max(R*C/max(mean(R), eps[0]), eps[0]^2)     0-d and 1-d tensors: V = max(average of g^2, eps[0]^2)
        u = g/sqrt(V) ; p <- p - a*u/max(1, rms(u)/d)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: the largest relative step, >= 0.
        beta2_decay: < 0.
        eps: (floor, least rms of a parameter); a floor of None is the machine epsilon.
        d: clipping threshold, > 0.
        weight_decay: >= 0, scaled by lr.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    State: row_var and col_var, 4*(r+c)/(r*c) bytes per parameter (1-d: variance, 4); names and shapes are torch's, and
    its checkpoints load. Memory: 3 passes, 6 words per element.
    The default floor changes what small gradients do: in float32 it bites below an rms of 3.5e-4. ``Adafactor``, or
    ``eps=(1e-30, 1e-3)``, has no such floor. Half precision has float32's epsilon here, for each parameter by itself;
    torch takes the epsilon of the group's first parameter, with which bfloat16 parameters hardly move.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.AdafactorTorch([p])
        >>> (p**2).sum().backward(); opt.step(); p.data[0]
        tensor([0.9900, 0.9900])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        hyper = {"lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay}
        super().__init__(params, options, **hyper, maximize=maximize)

    @classmethod
    def build(cls) -> Recipe:  # type: ignore[override]
        return ADAFACTOR_TORCH


@register(
    "adafactor_bv",
    source="arXiv 1804.04235; big_vision, arXiv 2106.04560",
    code="github.com/google-research/big_vision",
    aliases=("adafactorbigvision",),
)
class AdafactorBV(Named):
    """Adafactor as big_vision and timm have it: the two largest axes are factored, momentum is of bare quotients.

    Equations::

        B = min(beta2_cap, 1 - max(t - decay_offset, 1)^-decay_rate) ; q = g^2 + eps
        R <- B*R + (1-B)*mean(q, largest axis) ; C <- B*C + (1-B)*mean(q, second largest) ; V = R*C/mean(R)
        without two axes of min_dim_size_to_factor: V <- B*V + (1-B)*q
        u = g/sqrt(V) ; u = u/max(1, rms(u)/clipping_threshold)
        m <- momentum*m + (1-momentum)*u
        p <- p*(1 - lr*weight_decay) - lr*m            unscaled_wd: p*(1 - weight_decay)

    Args:
        params: parameters, ``(name, parameter)`` pairs or groups.
        lr: learning rate, >= 0.
        min_dim_size_to_factor: whole number >= 1.
        decay_rate: > 0.
        decay_offset: steps by which the memory's schedule starts later, >= 0.
        beta2_cap: 0 <= x <= 1.
        momentum: None, or 0 <= x < 1.
        eps: >= 0; added to g^2.
        weight_decay: >= 0.
        clipping_threshold: None, or > 0.
        unscaled_wd: decay by weight_decay alone, as big_vision does.
        maximize: ascend instead of descend.
        options: ``outer``, ``engine``, ``rounding``, and torch's ``foreach``, ``fused``.

    Of equal axes the later ones are factored: (2, 3, 2, 2) is averaged over axis 1 and axis 3.
    State: exp_avg_sq_r and exp_avg_sq_c, 4*(r+c)/(r*c) bytes per parameter (not factored: exp_avg_sq, 4), and exp_avg,
    4; timm keeps the momentum in bfloat16, here it is float32.
    Memory: 2 passes, 6 words per element where factored; elsewhere 1 pass, 7 words.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> opt = thalweg.AdafactorBV([p], lr=0.1, momentum=None)
        >>> (p**2).sum().backward(); opt.step(); p.data[0]
        tensor([0.9000, 0.9000])
    """

    structure = ("min_dim_size_to_factor", "momentum", "clipping_threshold", "unscaled_wd")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        min_dim_size_to_factor: int = 16,
        decay_rate: float = 0.8,
        decay_offset: int = 0,
        beta2_cap: float = 0.999,
        momentum: float | None = 0.9,
        eps: float = 1e-30,
        weight_decay: float = 0.0,
        clipping_threshold: float | None = None,
        unscaled_wd: bool = False,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            params,
            options,
            lr=lr,
            min_dim_size_to_factor=min_dim_size_to_factor,
            decay_rate=decay_rate,
            decay_offset=decay_offset,
            beta2_cap=beta2_cap,
            momentum=momentum,
            eps=eps,
            weight_decay=weight_decay,
            clipping_threshold=clipping_threshold,
            unscaled_wd=unscaled_wd,
            maximize=maximize,
        )

    @classmethod
    def build(  # type: ignore[override]
        cls, min_dim_size_to_factor: int, momentum: Any, clipping_threshold: Any, unscaled_wd: bool
    ) -> Recipe:
        least = min_dim_size_to_factor
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise ValueError(f"Invalid min_dim_size_to_factor: {least!r}; legal is a whole number of at least 1")
        second = ADAFACTOR_BV.second
        assert isinstance(second, Factored)
        return ADAFACTOR_BV.but(
            second=Factored(second.law, "largest", second.eps, least, second.names),
            first=None if momentum is None else Average("exp_avg", Plain("momentum")),
            scale=None if clipping_threshold is None else ClipRMS("clipping_threshold"),
            decay=Decoupled(power=0 if unscaled_wd else 1),
        )
