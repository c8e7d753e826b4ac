"""Newer first and second moments: StableAdamW, ADOPT, AdEMAMix, PNM, MARS, AdaBelief, and AdamA's folding."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from thalweg.hyper import BETA, EPS, Hyper
from thalweg.ops import mix
from thalweg.slots.average import Average
from thalweg.slots.base import Request, Slot, State, mean, total
from thalweg.slots.law import Debiased, Law, Plain, Weights
from thalweg.techniques import technique

# ------------------------------------------------------------------------------------------------------------- laws


@dataclass(frozen=True, repr=False)
class Normalised(Plain):
    """Exponential average with the correction in its beta, so that what is kept needs none (StableAdamW)."""

    def text(self, s: str, x: str) -> str:
        return f"B = {self.beta}*(1-{self.beta}^(t-1))/(1-{self.beta}^t) ; {s} <- B*{s} + (1-B)*{x}"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        beta = h[self.beta]
        power = 1 - beta**t
        return Weights(beta * (1 - beta ** (t - 1)) / power, (1 - beta) / power)


@dataclass(frozen=True, repr=False)
class Folding(Debiased):
    """Exponential average that takes in several values a step and forgets once (AdamA).

    ``folds``, a number of each parameter, counts the values of this step so far; the optimizer moves it.
    """

    numbers: ClassVar[Mapping[str, float]] = {"folds": 0.0}

    def text(self, s: str, x: str) -> str:
        b = self.beta
        return f"{s} <- {b}*{s}, then {s} <- {s} + (1-{b})*{x} for each micro-batch ; read {s}/(1-{b}^t)"

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        weights = super().weights(h, t, numbers)
        return weights._replace(keep=1.0) if numbers["folds"] else weights


# ---------------------------------------------------------------------------------------------------- first moments


@dataclass(frozen=True, repr=False)
class TwoMomenta(Slot):
    """AdEMAMix: a fast, corrected average plus alpha times a slow one that is not corrected.

    Warm-ups raise alpha linearly, and the slow beta so that its half-life grows linearly. Without ``fast`` the
    gradient itself stands for the fast average (betas.0 = 0).
    """

    fast: bool = True
    role: str = "exp_avg"
    slow: str = "exp_avg_slow"

    def hypers(self) -> dict[str, Hyper]:
        return {
            "betas.0": BETA,
            "betas.2": Hyper(0.9999, 0.0, 1.0),
            "alpha": Hyper(2.0),
            "alpha_warmup": Hyper(None, 1.0),
            "beta3_warmup": Hyper(None, 1.0),
        }

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State(), self.slow: State()} if self.fast else {self.slow: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        beta, slow = h["betas.0"], _risen(h["betas.0"], h["betas.2"], t, h["beta3_warmup"])
        ramp = 1.0 if h["alpha_warmup"] is None else min(1.0, t / h["alpha_warmup"])
        found: dict[str, float | bool] = {"keep": slow, "gain": 1 - slow, "alpha": h["alpha"] * ramp}
        return {**found, "b": beta, "c": 1 - beta, "fix": 1 / (1 - beta**t)} if self.fast else found

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        x[self.slow] = slow = mix(h.keep, x[self.slow], h.gain, g)
        if not self.fast:
            return mix(1, g, h.alpha, slow)
        x[self.role] = m = mix(h.b, x[self.role], h.c, g)
        return mix(h.fix, m, h.alpha, slow)

    def equation(self, x: str = "g") -> str:
        fast = "m <- betas.0*m + (1-betas.0)*g ; " if self.fast else ""
        read = "m/(1-betas.0^t)" if self.fast else x
        return (
            f"{fast}n <- B_t*n + (1-B_t)*{x} ; m_hat = {read} + alpha_t*n   (B_t, alpha_t: betas.2, alpha, warmed up)"
        )


def _risen(start: float, end: float, t: int, steps: float | None) -> float:
    """The beta on its way from ``start`` to ``end``, with a half-life that grows linearly."""
    if steps is None or t >= steps:
        return end

    def life(beta: float) -> float:
        return math.log(0.5) / math.log(beta + 1e-8) - 1

    share = t / steps
    return float(0.5 ** (1 / ((1 - share) * life(start) + share * life(end) + 1)))


@dataclass(frozen=True, repr=False)
class PositiveNegative(Slot):
    """Positive-negative momentum: of two averages that take gradients in turn, one more of the newer less of the older.

    ``exp_avg`` takes the gradients of odd steps, ``neg_exp_avg`` of even ones. ``corrects`` divides by 1 - betas.0^t as
    AdaPNM does, though each average sees only every second gradient.
    """

    beta0: str = "betas.1"
    corrects: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.0": BETA, self.beta0: Hyper(1.0)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"exp_avg": State(), "neg_exp_avg": State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        beta, b0 = h["betas.0"], h[self.beta0]
        scale = math.hypot(1 + b0, b0) * ((1 - beta**t) if self.corrects else 1.0)
        shares = {"plus": (1 + b0) / scale, "minus": -b0 / scale}
        return {"odd": t % 2 == 1, "keep": beta**2, "gain": 1 - beta**2, **shares}

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        newer, older = ("exp_avg", "neg_exp_avg") if h.odd else ("neg_exp_avg", "exp_avg")
        x[newer] = m = mix(h.keep, x[newer], h.gain, g)
        return mix(h.plus, m, h.minus, x[older])

    def equation(self, x: str = "g") -> str:
        b, c = self.beta0, "/(1-betas.0^t)" if self.corrects else ""
        return f"n, m <- m, betas.0^2*n + (1-betas.0^2)*{x} ; m_hat = ((1+{b})*m - {b}*n)/sqrt((1+{b})^2 + {b}^2){c}"


# --------------------------------------------------------------------------------------------------- second moments


@dataclass(frozen=True, repr=False)
class Watched(Average):
    """A second moment that also notes how far gradients exceed what it expects: ``rms``, a number of each tensor."""

    scope = "tensor"

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "eps": EPS}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {**super().state(shape), "rms": State(shape=())}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {**super().scalars(h, t, numbers), "eps": h["eps"]}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        v = super().__call__(x, h, g)
        # The quotient before its square: g^2/v is inf/inf where g^2 overflows.
        q = g / v.sqrt().clamp(min=h.eps)
        square = yield mean(q * q)
        x["rms"] = square.sqrt()
        return v

    def equation(self, x: str = "g") -> str:
        return f"{super().equation(x)} ; RMS = sqrt(mean({x}^2/max(v, eps^2)))"


@dataclass(frozen=True, repr=False)
class Restrained(Slot):
    """StableAdamW: the rate falls where a gradient exceeds what the second moment expects by clip_threshold."""

    scope = "tensor"

    def hypers(self) -> dict[str, Hyper]:
        return {"clip_threshold": Hyper(1.0, open_low=True)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"lr": h["lr"], "threshold": h["clip_threshold"]}

    def __call__(self, x: Any, h: Any) -> Any:
        return h.lr / (x["rms"] / h.threshold).clamp(min=1)

    def equation(self, x: str = "g") -> str:
        return "lr <- lr/max(1, RMS/clip_threshold)"


@dataclass(frozen=True, repr=False)
class Past(Average):
    """ADOPT: the average as it was before this gradient, so that a gradient is not divided by itself."""

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        before = x[self.role]
        self.accumulate(x, h, g)
        return before

    def equation(self, x: str = "g") -> str:
        return f"v_past = v ; {super().equation(x)}"


@dataclass(frozen=True, repr=False)
class OverPast(Slot):
    """ADOPT: the gradient over the root of the past second moment, clipped to (t-1)^clip_power, so to 0 at t = 1."""

    clip: bool = True

    def hypers(self) -> dict[str, Hyper]:
        found = {"eps": Hyper(1e-6, EPS.low, EPS.high)}
        return {**found, "clip_power": Hyper(0.25)} if self.clip else found

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        bound = (t - 1.0) ** h["clip_power"] if self.clip else math.inf
        return {"eps": h["eps"], "bound": 0.0 if t == 1 else bound}

    def __call__(self, x: Any, h: Any, g: Any, v: Any) -> Any:
        return (g / v.sqrt().clamp(min=h.eps)).clamp(-h.bound, h.bound)

    def equation(self, x: str = "g") -> str:
        n = f"{x}/max(sqrt(v_past), eps)"
        return f"u = min(max({n}, -c), c), c = (t-1)^clip_power" if self.clip else f"u = {n} (at t=1: 0)"


@dataclass(frozen=True, repr=False)
class FromSecond(Slot):
    """ADOPT: nothing moves in the first step."""

    def lr(self, h: Mapping[str, Any], t: int) -> float:
        return 0.0 if t == 1 else h["lr"]

    def equation(self, x: str = "g") -> str:
        return "lr <- 0 at t = 1"


@dataclass(frozen=True, repr=False)
class Belief(Average):
    """AdaBelief: the mean squared distance of the gradient from its own average, plus eps in every step.

    ``around`` names the average, which is taken first; None squares the gradient itself (AdamNorm's published code).
    """

    role: str = "exp_avg_var"
    law: Law = Debiased("betas.1", 0.999)
    power: int = 2
    around: str | None = "exp_avg"

    def hypers(self) -> dict[str, Hyper]:
        return {**super().hypers(), "eps": EPS}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {**super().scalars(h, t, numbers), "eps": h["eps"]}

    def accumulate(self, x: Any, h: Any, g: Any) -> Any:
        r = g if self.around is None else g - x[self.around]
        x[self.role] = v = mix(h.keep, x[self.role], h.gain, r, r) + h.eps
        return v

    def equation(self, x: str = "g") -> str:
        return self.law.text("v", f"{x}^2" if self.around is None else f"({x}-m)^2").replace(" ;", " + eps ;", 1)


# --------------------------------------------------------------------------------------------------------- gradient


@technique("mars", source="arXiv 2411.10438", needs="a recipe that reads betas[0]")
@dataclass(frozen=True, repr=False)
class VarianceReduced(Slot):
    """MARS: the gradient plus a share of its change since the last step, brought to length one where it is longer.

    ``c = g + gamma*beta/(1-beta)*(g - g_last) ; c = c/max(1, |c|)``, |c| over the tensor, beta the recipe's betas[0].
    g_last is 0 before the first step, as in the authors' code; this is their approximate form, in which g_last is of
    the last batch.

    Args:
        gamma: >= 0, how much of the change counts; 0 leaves the clipping alone.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.Lion([p], lr=0.1, techniques=[thalweg.VarianceReduced(gamma=0.05)])
        >>> (p**2).sum().backward(); opt.step(); p.data
        tensor([0.9000, 0.9000])
    """

    place = "gradient"
    scope = "tensor"
    gamma: float = 0.025
    role: str = "last_grad"

    def __post_init__(self) -> None:
        Hyper(0.025).check("gamma", self.gamma)

    def into(self, recipe: Any) -> Any:
        if "betas.0" not in recipe.hypers():
            raise ValueError(
                "VarianceReduced scales the gradient's change by betas[0], which this recipe does not read"
            )
        return super().into(recipe)

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.0": BETA}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        share = self.gamma * h["betas.0"] / (1 - h["betas.0"])
        return {"now": 1 + share, "last": -share}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        c = mix(h.now, g, h.last, x[self.role])
        x[self.role] = g
        square = yield total(c * c)
        return c / square.sqrt().clamp(min=1)

    def equation(self, x: str = "g") -> str:
        return f"c = {x} + {self.gamma:g}*betas.0/(1-betas.0)*({x} - {x}_last) ; {x}_last <- {x} ; {x} = c/max(1, |c|)"
