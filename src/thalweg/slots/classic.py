"""What Adadelta, Rprop and ASGD need, and laziness on sparse gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.hyper import BETA, EPS, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Slot, State
from thalweg.techniques import technique


@technique("lazy", source="torch.optim.SparseAdam", needs="a recipe that treats every element by itself")
@dataclass(frozen=True, repr=False)
class Lazy(Slot):
    """Rows that a sparse gradient leaves out are left alone: no average fades there, nothing decays, nothing moves.

    Step counts, and with them bias corrections, go on for the whole tensor. Dense gradients name every row, and so
    change nothing about the step.

    Example:
        >>> import torch, thalweg
        >>> table = torch.nn.Embedding(4, 2, sparse=True)
        >>> opt = thalweg.AdamW(table.parameters(), lr=0.1, techniques=["lazy"])
        >>> before = table.weight.detach().clone()
        >>> table(torch.tensor([1, 3])).sum().backward(); opt.step()
        >>> (table.weight != before).all(1)
        tensor([False,  True, False,  True])
    """

    place: ClassVar[str] = "gradient"
    lazy: ClassVar[bool] = True

    def into(self, recipe: Any) -> Any:
        if recipe.scope != "element":
            raise ValueError("the technique 'lazy' needs a recipe that treats every element by itself")
        return super().into(recipe)

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        return g

    def equation(self, x: str = "g") -> str:
        return f"{x} = {x} of the rows that a sparse gradient names"


@dataclass(frozen=True, repr=False)
class OverDeltas(Slot):
    """Adadelta: the root mean square of past steps over that of past gradients, so that units cancel."""

    role: str = "acc_delta"

    def hypers(self) -> dict[str, Hyper]:
        return {"rho": Hyper(0.9, BETA.low, BETA.high), "eps": Hyper(1e-6, EPS.low, EPS.high)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"keep": h["rho"], "gain": 1 - h["rho"], "eps": h["eps"]}

    def __call__(self, x: Any, h: Any, m: Any, v: Any) -> Any:
        past = x[self.role]
        u = (past + h.eps).sqrt() / (v + h.eps).sqrt() * m
        x[self.role] = mix(h.keep, past, h.gain, u, u)
        return u

    def equation(self, x: str = "g") -> str:
        return f"u = sqrt(d + eps)/sqrt(v + eps)*{x} ; d <- rho*d + (1-rho)*u^2"


@dataclass(frozen=True, repr=False)
class Resilient(Slot):
    """Rprop (iRprop-): each coordinate has its own step, longer after equal signs and shorter after a change.

    After a change of sign the coordinate rests for one step. The signs are multiplied, not the gradients, whose
    product can underflow.
    """

    def hypers(self) -> dict[str, Hyper]:
        return {
            "lr": Hyper(1e-2),
            "etas.0": Hyper(0.5, 0.0, 1.0, open_low=True),
            "etas.1": Hyper(1.2, 1.0, open_low=True),
            "step_sizes.0": Hyper(1e-6),
            "step_sizes.1": Hyper(50.0),
        }

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {"prev": State(), "step_size": State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        found = {"down": h["etas.0"], "up": h["etas.1"], "least": h["step_sizes.0"], "most": h["step_sizes.1"]}
        return {**found, "first": t == 1, "lr": h["lr"]}

    def __call__(self, x: Any, h: Any, g: Any) -> Any:
        size = torch.zeros_like(g) + h.lr if h.first else x["step_size"]
        turn = g.sign() * x["prev"].sign()
        size = torch.where(turn > 0, size * h.up, torch.where(turn < 0, size * h.down, size))
        g = torch.where(turn < 0, 0.0, g)
        x["step_size"] = size = size.clamp(min=h.least).clamp(max=h.most)
        x["prev"] = g
        return size * g.sign()

    def equation(self, x: str = "g") -> str:
        return (
            f"a = sign({x}*prev) ; size <- clip(size*(etas.1 if a > 0, etas.0 if a < 0, else 1), step_sizes) ;"
            f" prev <- {x}, 0 if a < 0 ; u = size*sign(prev)"
        )


@dataclass(frozen=True, repr=False)
class RateInSteps(Slot):
    """The steps are complete as they are: lr has only set their first length (Rprop)."""

    def __call__(self, x: Any, h: Any) -> Any:
        return 1.0

    def equation(self, x: str = "g") -> str:
        return "lr <- 1 (lr is the first size)"


@dataclass(frozen=True, repr=False)
class FallingRate(Slot):
    """ASGD's rate: lr at the first step, then what the step before left behind as ``eta``."""

    numbers: ClassVar[Mapping[str, float]] = {"eta": 0.0}

    def hypers(self) -> dict[str, Hyper]:
        return {"lr": Hyper(1e-2), "lambd": Hyper(1e-4), "alpha": Hyper(0.75)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        eta = h["lr"] if t == 1 else numbers["eta"]
        numbers["eta"] = h["lr"] / (1 + h["lambd"] * h["lr"] * t) ** h["alpha"]
        return {"eta": eta}

    def __call__(self, x: Any, h: Any) -> Any:
        return h.eta

    def equation(self, x: str = "g") -> str:
        return "lr <- eta ; for the next step: eta <- lr/(1 + lambd*lr*t)^alpha"


@dataclass(frozen=True, repr=False)
class AverageAfter(Slot):
    """ASGD's average of the parameters themselves, a copy until t0 and their mean from then on."""

    place: ClassVar[str] = "after"
    numbers: ClassVar[Mapping[str, float]] = {"mu": 1.0}
    role: str = "ax"

    def hypers(self) -> dict[str, Hyper]:
        return {"t0": Hyper(1e6)}

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        return {self.role: State()}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        mu = numbers["mu"]
        numbers["mu"] = 1 / max(1, t - h["t0"])
        return {"copy": mu == 1, "gain": mu, "keep": 1 - mu}

    def __call__(self, x: Any, h: Any, new: Any) -> Any:
        x[self.role] = new if h.copy else mix(h.keep, x[self.role], h.gain, new)
        return new

    def equation(self, x: str = "p") -> str:
        return f"ax <- ax + mu*({x} - ax), mu = 1/max(1, t-1-t0)"
