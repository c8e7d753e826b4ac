"""Caution: nothing moves, or nothing decays, against the sign of something else."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.hyper import DECAY, Hyper
from thalweg.slots.base import Slot, mean, total
from thalweg.slots.regularise import Replaces
from thalweg.techniques import technique


@technique("cautious", source="arXiv 2411.16085")
@dataclass(frozen=True, repr=False)
class Cautious(Slot):
    """Cautious updates: coordinates whose step would go against this step's gradient stay where they are.

    ``mask = 1 where u*g > 0 ; u = u*mask/max(mean(mask), floor)``, per tensor, after every other bend of the
    direction (Lion's sign, Muon's orthogonalisation, whose authors' code masks the momentum instead) and before decay
    and trust ratios. ``g`` is the gradient as given; decoupled decay is not masked.

    ``scaling``: "mean" as above (the authors' AdamW), "paper" for ``u*mask*d/(sum(mask) + 1)`` with d elements (the
    authors' Lion), "none" for no rescaling. ``floor``: 0 < x <= 1; 0.1 bounds the gain at 10.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> opt = thalweg.SGD([p], lr=1.0, momentum=0.5, techniques=[thalweg.Cautious("none")])
        >>> p.grad = torch.tensor([1.0, 1.0]); opt.step()
        >>> p.grad = torch.tensor([1.0, -0.25]); opt.step(); p.data
        tensor([-2.5000, -1.0000])
    """

    place = "direction"
    scaling: str = "mean"
    floor: float = 1e-3

    def __post_init__(self) -> None:
        if self.scaling not in ("mean", "paper", "none"):
            raise ValueError(f"Invalid scaling: {self.scaling!r}; legal are 'mean', 'paper' and 'none'")
        Hyper(1e-3, 0.0, 1.0, open_low=True, open_high=False).check("floor", self.floor)

    @property
    def scope(self) -> str:  # type: ignore[override]
        return "element" if self.scaling == "none" else "tensor"

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Any, Any, Any]:
        # Signs, because the product of two small numbers is zero in float32.
        mask = (u.sign() * x.grad.sign()).clamp(min=0)
        if self.scaling == "none":
            return u * mask
        if self.scaling == "mean":
            share = yield mean(mask)
            return u * mask / share.clamp(min=self.floor)
        agreeing, count = yield total(mask), total(torch.ones_like(mask))
        return u * mask * (count / (agreeing + 1))

    def equation(self, x: str = "g") -> str:
        gain = {"mean": f"/max(mean(mask), {self.floor:g})", "paper": "*d/(sum(mask)+1)", "none": ""}[self.scaling]
        return f"mask = 1 where {x}*g > 0, else 0 ; {x} = {x}*mask{gain}"


@technique("cautious_decay", source="arXiv 2510.12402")
@dataclass(frozen=True, repr=False)
class CautiousDecay(Replaces):
    """Cautious weight decay: a weight decays only where the step does not make it larger.

    ``p <- p*(1 - lr*weight_decay*[u*p >= 0])`` with the final direction u; it takes the place of the recipe's decay.
    Where u is zero it decays; ``strict``: only where u*p > 0, as some ports have it.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.SGD([p], lr=0.1, weight_decay=0.5, techniques=[thalweg.CautiousDecay()])
        >>> p.grad = torch.tensor([1.0, -1.0]); opt.step(); p.data
        tensor([0.8500, 1.1000])
    """

    place = "decay"
    strict: bool = False

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return {"weight_decay": h["weight_decay"]}

    def idle(self, h: Mapping[str, Any]) -> bool:
        return h["weight_decay"] == 0

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Any:
        sign = u.sign() * x.param.sign()
        mask = sign.clamp(min=0) if self.strict else sign.clamp(max=0) + 1
        return 1 - mask * (lr * h.weight_decay)

    def equation(self, x: str = "g") -> str:
        return f"p <- p*(1 - lr*weight_decay) where u*p {'>' if self.strict else '>='} 0"
