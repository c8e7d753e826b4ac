"""What wraps the whole: methods that turn the inner step into another one. They are called with the new parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from thalweg.hyper import ANY, EPS, Hyper
from thalweg.ops import mix
from thalweg.scalars import least, most, plain, sqrt
from thalweg.slots.base import Slot, State
from thalweg.slots.ratio import rectification, switched_root
from thalweg.techniques import technique

ALONE = "no other outer method"


@dataclass(frozen=True, repr=False)
class Outer(Slot):
    """Base of the outer methods: a recipe has at most one."""

    place: ClassVar[str] = "outer"

    def into(self, recipe: Any) -> Any:
        if recipe.outer not in (None, self):
            raise ValueError(
                f"{type(self).__name__} needs the place of the outer method, and this recipe already has"
                f" {recipe.outer!r} there; use one of the two"
            )
        return recipe.but(outer=self)


@technique("lookahead", source="arXiv 1907.08610", needs=ALONE)
@dataclass(frozen=True, repr=False)
class Lookahead(Outer):
    """Every k steps the slow weights move part of the way to the fast ones, which restart from there.

    ``every k steps: slow <- slow + alpha*(p - slow) ; p <- slow``. Each parameter counts its own steps; its slow copy
    starts as the parameter at its first step. Source: arXiv 1907.08610, github.com/michaelrzhang/lookahead.

    ``momentum`` is what becomes of the inner optimizer's first moment at that step: "keep", "pullback" (it moves by
    alpha from its own slow copy, which starts at zero, and the copy follows), or "reset" (it is zero again; corrections
    of its bias go on counting).

    Args:
        k: a whole number of at least 1.
        alpha: 0 < x <= 1.
        momentum: "keep", "pullback" or "reset"; the last two need a recipe with a first moment.
        roles: the first moment's states; found when the method is put around a recipe.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, outer=thalweg.Lookahead(2, 0.5))
        >>> for _ in range(2): p.grad = torch.ones(2); opt.step()
        >>> p.data
        tensor([0.9000, 0.9000])
    """

    k: int = 5
    alpha: float = 0.5
    momentum: str = "keep"
    roles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"Invalid k: {self.k!r}; Lookahead needs a whole number of steps of at least 1")
        Hyper(0.5, 0.0, 1.0, open_low=True, open_high=False).check("alpha", self.alpha)
        if self.momentum not in ("keep", "pullback", "reset"):
            raise ValueError(f"Invalid momentum: {self.momentum!r}; legal are 'keep', 'pullback' and 'reset'")

    def into(self, recipe: Any) -> Any:
        if self.momentum == "keep":
            return super().into(recipe)
        specs = {} if recipe.first is None else recipe.first.state((8, 8))
        if not specs or any(spec.shape is not None for spec in specs.values()):
            kept = "keeps none" if not specs else f"keeps it as {recipe.first!r}"
            raise ValueError(
                f"Lookahead(momentum={self.momentum!r}) needs a first moment of the parameter's shape, and this recipe"
                f" {kept}; use momentum='keep'"
            )
        return super(Lookahead, replace(self, roles=tuple(specs))).into(recipe)

    def check(self, recipe: Any) -> None:
        if self.momentum != "keep" and not self.roles:
            raise ValueError(
                f"Lookahead(momentum={self.momentum!r}) must find the recipe's first moment: pass it to the optimizer"
                " as outer=, or take Lookahead(...).into(recipe)"
            )

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        cached = self.roles if self.momentum == "pullback" else ()
        return {"slow": State("param"), **{f"slow_{role}": State() for role in cached}}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"sync": t % self.k == 0, "alpha": self.alpha, "beta": 1 - self.alpha}

    def __call__(self, x: Any, h: Any, old: Any, new: Any) -> Any:
        if not h.sync:
            return new
        for role in self.roles:
            if self.momentum == "reset":
                x[role] = torch.zeros_like(x[role])
            else:
                x[role] = x[f"slow_{role}"] = mix(h.beta, x[f"slow_{role}"], h.alpha, x[role])
        x["slow"] = slow = mix(h.beta, x["slow"], h.alpha, new)
        return slow

    def equation(self, x: str = "g") -> str:
        rest = {
            "keep": "",
            "pullback": f" ; slow_m <- slow_m + {self.alpha:g}*(m - slow_m) ; m <- slow_m",
            "reset": " ; m <- 0",
        }[self.momentum]
        return f"every {self.k} steps: slow <- slow + {self.alpha:g}*(p - slow) ; p <- slow{rest}"


#: What may multiply Schedule-Free's rate, and with it its weights, besides the warm-up.
RATES = ("plain", "corrected", "rectified", "silent")


@technique("schedule_free", source="arXiv 2405.15682", needs=ALONE)
@dataclass(frozen=True, repr=False)
class ScheduleFree(Outer):
    """Schedule-Free averaging: the parameter holds y, between the base iterate z and its average x.

    Gradients are taken at y in ``train()`` mode; ``eval()`` puts x into the parameter. No schedule is needed.
    ``z <- z + step ; x <- (1-c)*x + c*z ; y = beta*x + (1-beta)*z`` with ``c`` the newest weight over the sum of
    weights ``(k+1)^r * lr_max^weight_lr_power``. Source: arXiv 2405.15682, github.com/facebookresearch/schedule_free.

    Args:
        beta: 0 < x < 1.
        warmup_steps: the rate rises linearly over so many steps, a whole number of at least 0.
        r: any number; weights grow as k^r.
        weight_lr_power: any number; weights follow the largest rate so far to this power.
        rate: what multiplies the rate besides: nothing ("plain"), Adam's second-moment correction sqrt(1-betas[1]^k)
            ("corrected"), or RAdam's rectification once its rho_k > 4 and before that 1 ("rectified") or 0 ("silent").

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, outer=thalweg.ScheduleFree())
        >>> for _ in range(2): p.grad = torch.ones(2); opt.step()
        >>> _ = opt.eval(); p.data
        tensor([0.8500, 0.8500])
    """

    beta: float = 0.9
    warmup_steps: int = 0
    r: float = 0.0
    weight_lr_power: float = 2.0
    rate: str = "plain"
    has_modes: ClassVar[bool] = True
    group_numbers: ClassVar[Mapping[str, float]] = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0, "newest": 0.0}

    def __post_init__(self) -> None:
        Hyper(0.9, 0.0, 1.0, open_low=True).check("beta", self.beta)
        for name in ("r", "weight_lr_power"):
            ANY.check(name, getattr(self, name))
        if isinstance(self.warmup_steps, bool) or not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
            raise ValueError(f"Invalid warmup_steps: {self.warmup_steps!r}; legal is a whole number of at least 0")
        if self.rate not in RATES:
            raise ValueError(f"Invalid rate: {self.rate!r}; legal are {', '.join(map(repr, RATES))}")

    def hypers(self) -> dict[str, Hyper]:
        return {} if self.rate == "plain" else {"betas.1": Hyper(0.999, 0.0, 1.0)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"z": State("param")}

    def turn(self, param: Any, state: dict[str, Any], training: bool) -> None:
        """Between y, where gradients are taken, and the average x."""
        param.lerp_(state["z"].to(param.dtype), 1 - self.beta if training else 1 - 1 / self.beta)

    def _factor(self, k: int, beta: float) -> float:
        """What multiplies lr at the k-th update, k = 1, 2, ..."""
        warm = least(1.0, k / self.warmup_steps) if self.warmup_steps else 1.0
        if self.rate == "plain":
            return warm
        if self.rate == "corrected":
            return warm * sqrt(1 - beta**k)
        rectified = rectification(beta, k, 4.0)
        if rectified is None:
            rectified = 0.0 if self.rate == "silent" else 1.0
        return warm * rectified

    def advance(self, group: dict[str, Any], loss: float | None) -> None:
        group["k"] += 1
        lr = 1.0 if group.get("lr") is None else plain(group["lr"])
        beta = 0.0 if self.rate == "plain" else plain(group["betas"][1])
        group["lr_max"] = most(lr * self._factor(group["k"], beta), group["lr_max"])
        weight = group["k"] ** self.r * group["lr_max"] ** self.weight_lr_power
        group["weight_sum"] += weight
        group["newest"] = weight / group["weight_sum"] if group["weight_sum"] else 0.0

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        return h["lr"] * self._factor(h["k"], 0.0 if self.rate == "plain" else h["betas.1"])

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        c = h["newest"]
        return {"c": c, "keep": 1 - c, "push": 1 - self.beta * (1 - c)}

    def __call__(self, x: Any, h: Any, old: Any, new: Any) -> Any:
        step = new - old
        z = x["z"]
        x["z"] = z + step
        return mix(1, mix(h.keep, old, h.c, z), h.push, step)

    def equation(self, x: str = "g") -> str:
        warm = f", warm-up {self.warmup_steps}" if self.warmup_steps else ""
        rate = {"plain": "", "corrected": ", lr*sqrt(1-betas.1^k)"}.get(self.rate, ", lr rectified as RAdam's step")
        return f"z <- z + (p_new - p) ; x <- (1-c)*x + c*z ; p = y = {self.beta:g}*x + {1 - self.beta:g}*z{warm}{rate}"


@dataclass(frozen=True, repr=False)
class OnceRectified(Slot):
    """Schedule-Free RAdam's direction: the gradient over the root of v once rho_k > 4, the bare gradient before.

    k is the count of the group, as in the rate of ``ScheduleFree(rate="rectified")``, which holds the rectification.
    """

    def check(self, recipe: Any) -> None:
        if recipe.outer is not None and getattr(recipe.outer, "rate", "") not in ("rectified", "silent"):
            raise ValueError("OnceRectified needs outer=ScheduleFree(rate='rectified') or rate='silent'")

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.1": Hyper(0.999, 0.0, 1.0), "eps": EPS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        if rectification(h["betas.1"], h["k"], 4.0) is None:
            return {"root": 0.0, "plus": 1.0}
        return {"root": 1.0, "plus": h["eps"]}

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        return m / switched_root(h, v)

    def equation(self, x: str = "g") -> str:
        return f"u = {x}/(sqrt(v) + eps) if rho_k > 4 else {x}"
