"""Methods that set their own step: Prodigy, D-Adapt Adam, DoG, LDoG, MoMo, MoMo-Adam and adaptive-memory momentum."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Reference, Slot, norm


def dot(x: Array, y: Array) -> float:
    """Sum of products."""
    return float(np.sum(x * y))


class Prodigy(Reference):
    """Prodigy (arXiv 2306.06101, authors' package); d is one number for the model, t counts each tensor's updates.

    ::

        c_t = sqrt(1 - b2^t)/(1 - b1^t) with use_bias_correction, else 1 ;  a = d*lr*c_t ;  no decouple: g = g + wd*p
        num = b3*num + sum over tensors of (d/d0)*a*<g, p0 - p>
        m = b1*m + d*(1 - b1)*g ;  v = b2*v + d^2*(1 - b2)*g^2
        s = b3*s + (d/d0)*a*g ;  with safeguard_warmup (d/d0)*d*g
        nothing more if the sum of |s| is 0
        d_hat = d_coef*num/(sum of |s|) ;  d = max(d, d_hat) if d = d0 ;  d_max = max(d_max, d_hat)
        d' = min(d_max, d*growth_rate)
        p = p - a*wd*p with decouple ;  p = p - a*m/(sqrt(v) + d'*eps) ;  for b1 = 0, m = d'*g

    The scalar products and s see every slice_p-th entry only. A rate of 0 leaves s, num and d alone.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "beta3": None,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decouple": True,
        "use_bias_correction": False,
        "safeguard_warmup": False,
        "d0": 1e-6,
        "d_coef": 1.0,
        "growth_rate": math.inf,
        "slice_p": 1,
    }

    def __init__(self, params: Sequence[ArrayLike], **hyper: Any) -> None:
        super().__init__(params, **hyper)
        self.d = self.d_max = self.hyper["d0"]
        self.num = 0.0
        self.moves = True

    def rate(self, slot: Slot) -> float:
        """The rate a at the present d."""
        h = self.hyper
        b1, b2 = h["betas"]
        c = math.sqrt(1 - b2**slot.t) / (1 - b1**slot.t) if h["use_bias_correction"] else 1.0
        return self.d * h["lr"] * c

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        b1, b2 = h["betas"]
        b3 = math.sqrt(b2) if h["beta3"] is None else h["beta3"]
        d, every = self.d, h["slice_p"]
        pushed = length = 0.0
        for slot in active:
            if not h["decouple"]:
                slot.g = slot.g + h["weight_decay"] * slot.p
            a = self.rate(slot)
            slot.state["a"] = np.asarray(a)
            g, p = slot.g.ravel()[::every], slot.p.ravel()[::every]
            p0 = slot.state.setdefault("p0", p.copy())
            s = slot.state.setdefault("s", np.zeros_like(p))
            slot.state["m"] = b1 * slot.get("m") + d * (1 - b1) * slot.g
            slot.state["v"] = b2 * slot.get("v") + d * d * (1 - b2) * slot.g**2
            if a > 0:
                pushed += d / h["d0"] * a * dot(g, p0 - p)
                s = slot.state["s"] = b3 * s + d / h["d0"] * (d if h["safeguard_warmup"] else a) * g
                length += float(np.sum(np.abs(s)))
        self.moves = length > 0
        if not self.moves:
            return
        self.num = b3 * self.num + pushed
        d_hat = h["d_coef"] * self.num / length
        self.before = d
        if d == h["d0"]:
            d = max(d, d_hat)
        self.d_max = max(self.d_max, d_hat)
        self.d = min(self.d_max, d * float(h["growth_rate"]))

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if not self.moves:
            return p
        a, m = float(slot.state["a"]), slot.state["m"]
        if h["betas"][0] == 0:
            m = self.d * g
        if h["decouple"]:
            p = p - a * h["weight_decay"] * p
        return p - a * m / (np.sqrt(slot.state["v"]) + self.d * h["eps"])


class DAdaptAdam(Reference):
    """D-Adapt Adam (arXiv 2301.07733, authors' package); d is one number for the model.

    ::

        a = d*lr*c_t, c_t as in Prodigy ;  q = sqrt(b2) ;  g = g + wd*p without decouple
        acc = sum over tensors of a*<g, s/(sqrt(v) + eps)>, s and v as they are before this step
        m = b1*m + a*(1 - b1)*g ;  v = b2*v + (1 - b2)*g^2 ;  s = q*s + a*(1 - q)*g
        nothing more if the sum of |s| is 0
        nw = q*nw + (1 - q)*acc ;  d = max(d, min(nw/((1 - q)*sum of |s|), d*growth_rate))
        p = p - a*wd*p with decouple ;  p = p - m/(sqrt(v) + eps)

    layer_scale multiplies acc, m and the sum of |s|.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decouple": False,
        "use_bias_correction": False,
        "d0": 1e-6,
        "growth_rate": math.inf,
        "layer_scale": 1.0,
    }

    def __init__(self, params: Sequence[ArrayLike], **hyper: Any) -> None:
        super().__init__(params, **hyper)
        self.d = self.hyper["d0"]
        self.nw = 0.0
        self.moves = True

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        b1, b2 = h["betas"]
        q, r = math.sqrt(b2), h["layer_scale"]
        acc = length = 0.0
        for slot in active:
            c = math.sqrt(1 - b2**slot.t) / (1 - b1**slot.t) if h["use_bias_correction"] else 1.0
            a = self.d * h["lr"] * c
            slot.state["a"] = np.asarray(a)
            if not h["decouple"]:
                slot.g = slot.g + h["weight_decay"] * slot.p
            s, v = slot.get("s"), slot.get("v")
            slot.state["m"] = b1 * slot.get("m") + r * a * (1 - b1) * slot.g
            slot.state["v"] = b2 * v + (1 - b2) * slot.g**2
            if a > 0:
                acc += r * a * dot(slot.g, s / (np.sqrt(v) + h["eps"]))
                slot.state["s"] = q * s + a * (1 - q) * slot.g
                length += r * float(np.sum(np.abs(slot.state["s"])))
        self.moves = length > 0
        if self.moves:
            self.nw = q * self.nw + (1 - q) * acc
            self.d = max(self.d, min(self.nw / ((1 - q) * length), self.d * float(h["growth_rate"])))

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        if not self.moves:
            return p
        if h["decouple"]:
            p = p - float(slot.state["a"]) * h["weight_decay"] * p
        return p - slot.state["m"] / (np.sqrt(slot.state["v"]) + h["eps"])


class DoG(Reference):
    """DoG (arXiv 2302.12022): one distance and one sum of squared gradients for all tensors.

    ::

        g = g + weight_decay*p
        first step:  rbar = reps_rel*(1 + |x0|) ;  G = eps + sum |g|^2
        later:       rbar = max(rbar, |p - x0|) ;  G = G + sum |g|^2
        eta = lr*rbar/sqrt(G) ;  p = p - eta*g ;  init_eta, where given, is the first eta, with rbar = 0
    """

    defaults: ClassVar[dict[str, Any]] = {
        "reps_rel": 1e-6,
        "lr": 1.0,
        "weight_decay": 0.0,
        "eps": 1e-8,
        "init_eta": None,
    }

    def __init__(self, params: Sequence[ArrayLike], **hyper: Any) -> None:
        super().__init__(params, **hyper)
        self.rbar = self.G = 0.0
        self.steps = 0

    def eta(self, first: bool, rbar: float, far: float, start: float) -> tuple[float, float]:
        """The new rbar, and what to use of init_eta."""
        h = self.hyper
        if not first:
            return max(rbar, far), math.nan
        if h["init_eta"] is not None:
            return 0.0, h["init_eta"]
        return h["reps_rel"] * (1 + start), math.nan

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        self.steps += 1
        for slot in active:
            slot.g = slot.g + h["weight_decay"] * slot.p
            slot.state.setdefault("x0", slot.p.copy())
        far = math.sqrt(sum(norm(slot.p - slot.state["x0"]) ** 2 for slot in active))
        start = math.sqrt(sum(norm(slot.p) ** 2 for slot in active))
        self.rbar, given = self.eta(self.steps == 1, self.rbar, far, start)
        self.G += sum(norm(slot.g) ** 2 for slot in active) + (h["eps"] if self.steps == 1 else 0.0)
        self.now = h["lr"] * self.rbar / math.sqrt(self.G) if math.isnan(given) else given

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        return p - self.now * g


class LDoG(DoG):
    """Layer-wise DoG (arXiv 2302.12022): DoG for every tensor by itself."""

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        for slot in active:
            slot.g = slot.g + h["weight_decay"] * slot.p
            x0 = slot.state.setdefault("x0", slot.p.copy())
            first = slot.t == 1
            rbar, given = self.eta(first, float(slot.get("rbar").ravel()[0]) if slot.p.size else 0.0,
                                   norm(slot.p - x0), norm(slot.p))  # fmt: skip
            slot.state["rbar"] = np.full(slot.p.shape, rbar)
            slot.state["G"] = slot.get("G") + norm(slot.g) ** 2 + (h["eps"] if first else 0.0)
            eta = h["lr"] * slot.state["rbar"] / np.sqrt(slot.state["G"])
            slot.state["eta"] = eta if math.isnan(given) else np.full(slot.p.shape, given)

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        return p - slot.state["eta"] * g


class MoMo(Reference):
    """MoMo (arXiv 2305.07583, authors' package).

    ::

        f, d, c are averages with factor beta of the loss, of g and (for each tensor) of <p, g>: with bias_correction
        from 0, and rho = 1 - beta^k with k the steps of the model; else from their first values, and rho = 1
        w = 1 + lr*wd ;  tau = min(lr/rho, max(w*(f - rho*lb) + sum <p, d> - w*sum c, 0)/sum |d|^2), 0 where d = 0
        p = (p - tau*d)/w

    With use_fstar lb changes: before tau, cap = w*f + sum <p, d> - w*sum c and, if cap < w*rho*lb,
    lb = max(cap/(2*w*rho), lb0) ; after it lb = max((f + sum <p, d> - sum c - tau*sum |d|^2/2)/rho, lb0).
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "weight_decay": 0.0,
        "beta": 0.9,
        "lb": 0.0,
        "bias_correction": False,
        "use_fstar": False,
    }

    def __init__(self, params: Sequence[ArrayLike], **hyper: Any) -> None:
        super().__init__(params, **hyper)
        self.k = 0
        self.f = 0.0
        self.lb = self.hyper["lb"]

    def check_step(self, loss: float | None) -> None:
        if loss is None:
            raise ValueError("MoMo needs the loss")

    def average(self, slot: Slot, name: str, x: Any, beta: float, first: bool) -> Array:
        """An average that starts at its first value, or at 0."""
        whole = first and not self.from_zero
        slot.state[name] = np.asarray(x if whole else beta * slot.state.get(name, np.asarray(0.0)) + (1 - beta) * x)
        return slot.state[name]

    @property
    def from_zero(self) -> bool:
        """Whether the averages start at 0."""
        return self.hyper["bias_correction"]

    @property
    def beta(self) -> float:
        """The factor of the averages."""
        return self.hyper["beta"]

    def metric(self, slot: Slot) -> Array:
        """What divides the direction."""
        return np.ones_like(slot.p)

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h, beta = self.hyper, self.beta
        self.k += 1
        whole = self.k == 1 and not self.from_zero
        self.f = loss if whole else beta * self.f + (1 - beta) * loss
        rho = 1 - beta**self.k if self.from_zero else 1.0
        joint = gamma = square = 0.0
        for slot in active:
            d = self.average(slot, "d", slot.g, beta, slot.t == 1)
            gamma += float(self.average(slot, "c", dot(slot.p, slot.g), beta, slot.t == 1))
            slot.state["D"] = self.metric(slot)
            joint += dot(slot.p, d)
            square += dot(d, d / slot.state["D"])
        w = 1 + h["lr"] * h["weight_decay"]
        bound = self.lb if h["use_fstar"] else h["lb"]
        cap = w * self.f + joint - w * gamma
        if h["use_fstar"] and cap < w * rho * bound:
            bound = max(cap / (2 * w * rho), h["lb"])
        self.tau = min(h["lr"] / rho, max(cap - w * rho * bound, 0.0) / square) if square > 0 else 0.0
        if h["use_fstar"]:
            self.lb = max((self.f + joint - gamma - self.tau * square / 2) / rho, h["lb"])

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        return (p - self.tau * slot.state["d"]) / (1 + self.hyper["lr"] * self.hyper["weight_decay"])


class MoMoAdam(MoMo):
    """MoMo-Adam (arXiv 2305.07583): MoMo in Adam's metric D = sqrt(v/(1 - b2^t)) + eps, all averages from 0.

    The step is d/D and the squared length sum <d, d/D>; with divide=False p = p*(1 - lr*wd) before the step in place
    of the division.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "lb": 0.0,
        "divide": True,
        "use_fstar": False,
    }
    from_zero = True  # type: ignore[assignment]

    @property
    def beta(self) -> float:
        return self.hyper["betas"][0]

    def metric(self, slot: Slot) -> Array:
        b2 = self.hyper["betas"][1]
        return np.sqrt(slot.ema("v", slot.g**2, b2) / (1 - b2**slot.t)) + self.hyper["eps"]

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        shrink, step = h["lr"] * h["weight_decay"], self.tau * slot.state["d"] / slot.state["D"]
        return (p - step) / (1 + shrink) if h["divide"] else p * (1 - shrink) - step


class AMMSGD(Reference):
    """Adaptive-memory SGD (arXiv 2510.04988): one momentum for the model.

    ::

        g = g + wd*p ;  a tensor's first step: d = g
        beta = clip((|g|^2 + 2*lam*<g, d> - lam*|d|^2)/|d - g|^2, 0, beta_max), sums over the tensors with an older d
        d = (beta + lam)/(1 + lam)*d + (1 - beta)/(1 + lam)*g ;  p = p - lr*d
    """

    defaults: ClassVar[dict[str, Any]] = {"lr": 1e-3, "lam": 0.1, "beta_max": 0.9, "weight_decay": 0.0}

    def prepare(self, active: list[Slot], loss: float | None) -> None:
        h = self.hyper
        lam = h["lam"]
        above = below = 0.0
        for slot in active:
            slot.g = slot.g + h["weight_decay"] * slot.p
            if "d" in slot.state:
                g, d = slot.g, slot.state["d"]
                above += dot(g, g) + 2 * lam * dot(g, d) - lam * dot(d, d)
                below += dot(d - g, d - g)
        beta = float(np.clip(above / below, 0.0, h["beta_max"])) if below > 0 else 0.0
        for slot in active:
            d = slot.state.get("d")
            slot.state["d"] = slot.g if d is None else (beta + lam) / (1 + lam) * d + (1 - beta) / (1 + lam) * slot.g

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        return p - self.hyper["lr"] * slot.state["d"]


class AMAdamW(Reference):
    """Adaptive-memory AdamW (arXiv 2510.04988): a momentum for each tensor, at most b1 = betas[0].

    ::

        v = b2*v + (1 - b2)*g^2 ;  P = (1 - b1*Pi)*(sqrt(v/(1 - b2^t)) + eps), Pi the product of the earlier beta
        t = 1: beta = b1.  Later, with D = d - g and W = 1/(P*(1 + lam*P)):
        num = (1 + wd*lr)*lr_prev*<g, d/P + wd*p>/lr - sum(D*(g + lam*P*d)*W) - wd*<p, D>   without the first if lr = 0
        beta = clip(num/sum(D^2*W), 0, b1), 0 if the sum is 0
        d = ((1 - beta)*g + (lam*P + beta)*d)/(1 + lam*P) ;  p = p*(1 - lr*wd) - lr*d/P
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "betas": (0.89, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.01,
        "lam": 0.1,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        b1, b2 = h["betas"]
        lr, wd, lam = h["lr"], h["weight_decay"], h["lam"]
        product = float(slot.state.get("Pi", np.asarray(1.0)))
        metric = (1 - b1 * product) * (np.sqrt(slot.ema("v", g * g, b2) / (1 - b2**t)) + h["eps"])
        d = slot.get("d")
        beta = b1
        if t > 1:
            apart, weight = d - g, 1 / (metric * (1 + lam * metric))
            num = -float(np.sum(apart * (g + lam * metric * d) * weight)) - wd * dot(p, apart)
            if lr:
                num += (1 + wd * lr) * float(slot.state["lr_prev"]) * dot(g, d / metric + wd * p) / lr
            size = float(np.sum(apart**2 * weight))
            beta = float(np.clip(num / size, 0.0, b1)) if size > 0 else 0.0
        d = ((1 - beta) * g + (lam * metric + beta) * d) / (1 + lam * metric)
        slot.state.update(d=d, Pi=np.asarray(product * beta), lr_prev=np.asarray(lr))
        return p * (1 - lr * wd) - lr * d / metric
