"""SM3, SMMF and Amos, and the conventions of Adafactor beside the common one."""

import math
from typing import Any, ClassVar

import numpy as np

from .base import Array, Reference, Slot, rms


class SM3(Reference):
    """SM3 (arXiv 1901.11150), variants I and II.

    ::

        one accumulator a_i per axis i, of the length of that axis; tensors with fewer than two axes have one per entry
        II:  nu = min over i of a_i + g^2 ;  a_i = max of nu over the other axes
        I:   a_i = a_i + max of g^2 over the other axes ;  nu = min over i of a_i
        u = g/sqrt(nu + eps) ;  m = momentum*m + (1 - momentum)*u
        p = p*(1 - lr*weight_decay) - lr*m
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 0.1,
        "momentum": 0.9,
        "eps": 1e-30,
        "weight_decay": 0.0,
        "variant": "II",
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        square = g * g
        if g.ndim < 2:
            nu = slot.state["a"] = slot.get("a") + square
        else:
            axes = range(g.ndim)
            kept = [slot.state.setdefault(f"a{i}", np.zeros(g.shape[i])) for i in axes]

            def spread(a: Array, i: int) -> Array:
                return a.reshape([-1 if j == i else 1 for j in axes])

            def top(x: Array, i: int) -> Array:
                return x.max(axis=tuple(j for j in axes if j != i))

            if h["variant"] == "I":
                kept = [a + top(square, i) for i, a in enumerate(kept)]
            least = np.full(g.shape, np.inf)
            for i, a in enumerate(kept):
                least = np.minimum(least, spread(a, i))
            nu = least if h["variant"] == "I" else least + square
            for i in axes:
                slot.state[f"a{i}"] = kept[i] if h["variant"] == "I" else top(nu, i)
        u = g / np.sqrt(nu + h["eps"])
        m = slot.ema("m", u, h["momentum"])
        return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * m


def nearest_square(size: int) -> tuple[int, int]:
    """Rows and columns of the square view: the largest divisor up to the root is the number of columns."""
    columns = max(k for k in range(1, int(math.sqrt(size)) + 1) if size % k == 0)
    return size // columns, columns


def factors(matrix: Array) -> tuple[Array, Array]:
    """Row sums and column sums, the shorter of the two (the columns, where equally long) over its total."""
    rows, columns = matrix.sum(axis=1), matrix.sum(axis=0)
    if len(rows) < len(columns):
        return rows / (rows.sum() or 1.0), columns
    return rows, columns / (columns.sum() or 1.0)


class SMMF(Reference):
    """SMMF (arXiv 2412.08894).

    ::

        b = beta*growth_rate^(t-1) ;  B = 1 - t^decay_rate
        G = g in C order, n x m with m the largest divisor up to sqrt(n*m)
        M = b*M' + (1 - b)*G ;  V = B*V' + (1 - B)*G^2      M', V': what the factors and signs of the last step give
        p = p*(1 - lr*weight_decay) - lr*M/(sqrt(V) + eps)
        signs = M > 0 ;  factors of |M| and V

    With ``beta`` None M is G. Without ``vector_reshape`` tensors of one axis longer than 1 keep M and V themselves.
    Mode "adam" adds weight_decay*p to g instead, mode "none" does neither.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "beta": 0.9,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decay_rate": -0.5,
        "growth_rate": 0.999,
        "vector_reshape": True,
        "weight_decay_mode": "adamw",
        "packed": True,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        state = slot.state
        if h["weight_decay_mode"] == "adam":
            g = g + h["weight_decay"] * p
        keep_v = 1 - t ** h["decay_rate"]
        keep_m = 0.0 if h["beta"] is None else h["beta"] * h["growth_rate"] ** (t - 1)
        whole = not h["vector_reshape"] and len([n for n in g.shape if n > 1]) == 1
        if whole:
            m, v = slot.ema("M", g, keep_m), slot.ema("V", g * g, keep_v)
        else:
            n, k = nearest_square(g.size)
            square = g.reshape(n, k)
            m, v = np.zeros((n, k)), np.zeros((n, k))
            if t > 1:
                m = np.where(state["S"], 1.0, -1.0) * np.outer(state["rM"], state["cM"])
                v = np.outer(state["rV"], state["cV"])
            m = keep_m * m + (1 - keep_m) * square
            v = keep_v * v + (1 - keep_v) * square**2
            state["S"] = m > 0
            state["rM"], state["cM"] = factors(np.abs(m))
            state["rV"], state["cV"] = factors(v)
        decay = h["lr"] * h["weight_decay"] if h["weight_decay_mode"] == "adamw" else 0.0
        return p * (1 - decay) - h["lr"] * (m / (np.sqrt(v) + h["eps"])).reshape(p.shape)


class Amos(Reference):
    """Amos (arXiv 2210.11693, the authors' JAX code).

    ::

        g = clip(g, -clip_value, clip_value), where that is given
        q = mean of g^2 over what shares a slot ;  v = beta*v + (1 - beta)*q ;  r = (1 - beta^t)/max(v, epsilon)
        gamma = lr^2*r*q/sqrt(1 + c_coef*sqrt(lr)*b)
        u = ((gamma/2 + extra_l2)*p + lr*eta*sqrt(r)*g)/(1 + d_coef*sqrt(lr*eta)*b)
        b = b + gamma*(1 + b)
        with momentum:  m = momentum*m + (1 - momentum)*u ;  u = m
        p = p*(1 - lr*weight_decay) - u

    Slots: one for the tensor, one per row (first axis), one per column (all but the first axis), or one per entry
    ("full"); a tensor with fewer than two axes has one unless "full". ``eta`` None: 0.5 with fewer than two axes, else
    sqrt(2/fan_in). At lr = 0 extra_l2 is left out.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-3,
        "eta": None,
        "beta": 0.999,
        "momentum": None,
        "slots": "tensor",
        "clip_value": None,
        "extra_l2": 0.0,
        "c_coef": 0.25,
        "d_coef": 0.25,
        "epsilon": 2.0**-125,
        "weight_decay": 0.0,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        lr, state = h["lr"], slot.state
        if h["clip_value"] is not None:
            g = np.clip(g, -h["clip_value"], h["clip_value"])
        eta = h["eta"]
        if eta is None:
            eta = 0.5 if p.ndim < 2 else math.sqrt(2 / (p.size / p.shape[0]))
        over: tuple[int, ...] = tuple(range(p.ndim))
        if h["slots"] == "full":
            over = ()
        elif p.ndim > 1 and h["slots"] != "tensor":
            over = over[1:] if h["slots"] == "row" else over[:1]
        q = (g * g).mean(axis=over, keepdims=True) if over else g * g
        v = state["v"] = h["beta"] * state.get("v", 0.0) + (1 - h["beta"]) * q
        b = state.get("b", np.zeros_like(q))
        r = (1 - h["beta"] ** t) / np.maximum(v, h["epsilon"])
        gamma = lr**2 * r * q / np.sqrt(1 + h["c_coef"] * math.sqrt(lr) * b)
        extra = h["extra_l2"] if lr else 0.0
        u = ((gamma / 2 + extra) * p + lr * eta * np.sqrt(r) * g) / (1 + h["d_coef"] * math.sqrt(lr * eta) * b)
        state["b"] = b + gamma * (1 + b)
        if h["momentum"] is not None:
            u = slot.ema("m", u, h["momentum"])
        return p * (1 - lr * h["weight_decay"]) - u


class AdafactorTorch(Reference):
    """Adafactor (arXiv 1804.04235) as in torch.optim 2.13.

    ::

        alpha = max(eps2, rms(p))*min(lr, 1/sqrt(t)) ;  p = p*(1 - lr*weight_decay)
        B = 1 - t^beta2_decay
        two or more axes:  R, C = averages of the means of g^2 over the last and the second-last axis
                           V = R*C/max(mean(R), eps1)
        else:              V = average of g^2
        u = g/sqrt(max(V, eps1^2)) ;  p = p - alpha*u/max(1, rms(u)/d)

    eps1 None is the machine epsilon of float64.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "beta2_decay": -0.8,
        "eps": (None, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        eps1 = np.finfo(np.float64).eps if h["eps"][0] is None else h["eps"][0]
        alpha = max(h["eps"][1], rms(p)) * min(h["lr"], 1 / math.sqrt(t))
        keep = 1 - t ** h["beta2_decay"]
        square = g * g
        if g.ndim >= 2:
            rows = slot.state["R"] = keep * slot.state.get("R", 0.0) + (1 - keep) * square.mean(-1, keepdims=True)
            cols = slot.state["C"] = keep * slot.state.get("C", 0.0) + (1 - keep) * square.mean(-2, keepdims=True)
            v = rows * cols / np.maximum(rows.mean(-2, keepdims=True), eps1)
        else:
            v = slot.ema("V", square, keep)
        u = g / np.sqrt(np.maximum(np.maximum(v, eps1**2), 1.2e-38))
        return p * (1 - h["lr"] * h["weight_decay"]) - alpha * u / max(1.0, rms(u) / h["d"])


class AdafactorBV(Reference):
    """Adafactor (arXiv 1804.04235) as in big_vision and timm 1.0.31.

    ::

        B = min(beta2_cap, 1 - max(t - decay_offset, 1)^-decay_rate) ;  s = g^2 + eps
        the two largest axes, of equal ones the later, both of min_dim_size_to_factor at least:
            R, C = averages of the means of s over the largest and over the other ;  V = R*C/mean(R over the other)
        else V = average of s
        u = g/sqrt(V) ;  u = u/max(1, rms(u)/clipping_threshold) ;  m = momentum*m + (1 - momentum)*u
        p = p*(1 - lr*weight_decay), or p*(1 - weight_decay) with unscaled_wd ;  p = p - lr*m
    """

    defaults: ClassVar[dict[str, Any]] = {
        "lr": 1.0,
        "min_dim_size_to_factor": 16,
        "decay_rate": 0.8,
        "decay_offset": 0,
        "beta2_cap": 0.999,
        "momentum": 0.9,
        "eps": 1e-30,
        "weight_decay": 0.0,
        "clipping_threshold": None,
        "unscaled_wd": False,
    }

    def update(self, slot: Slot, p: Array, g: Array, t: int) -> Array:
        h = self.hyper
        keep = min(h["beta2_cap"], 1 - max(t - h["decay_offset"], 1) ** -h["decay_rate"])
        s = g * g + (1e-30 if h["eps"] is None else h["eps"])
        order = np.argsort(np.array(g.shape), kind="stable")
        if g.ndim >= 2 and g.shape[order[-2]] >= h["min_dim_size_to_factor"]:
            largest, other = int(order[-1]), int(order[-2])
            rows = slot.state["R"] = keep * slot.state.get("R", 0.0) + (1 - keep) * s.mean(largest, keepdims=True)
            cols = slot.state["C"] = keep * slot.state.get("C", 0.0) + (1 - keep) * s.mean(other, keepdims=True)
            v = rows / rows.mean(other, keepdims=True) * cols
        else:
            v = slot.ema("V", s, keep)
        u = g / np.sqrt(v)
        if h["clipping_threshold"] is not None:
            u = u / max(1.0, rms(u) / h["clipping_threshold"])
        if h["momentum"] is not None:
            u = slot.ema("m", u, h["momentum"])
        decay = h["weight_decay"] * (1.0 if h["unscaled_wd"] else h["lr"])
        return p * (1 - decay) - h["lr"] * u
