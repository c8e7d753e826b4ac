"""Optimizers that the benchmark's tests measure, in a module that its child process can import."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

Named = list[tuple[str, Parameter]]


class Plain(Optimizer):
    """A step that allocates one temporary per tensor, two at a time, and declares its words."""

    def __init__(self, params: Any, lr: float = 1e-3, eps: tuple[float, float] = (1e-30, 1e-3)) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})
        self.losses: list[float] = []

    def words_per_element(self) -> float:
        return 3.5

    @torch.no_grad()
    def step(self, closure: Any = None, *, loss: torch.Tensor | None = None) -> None:  # type: ignore[override]
        self.losses.append(float(loss))  # type: ignore[arg-type]
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.sub_((param.grad * group["lr"]) + 0.0)


class Compiling(Plain):
    """Compiles per ten tensors with lr and the place in the list as constants: grows and recompiles."""

    def __init__(self, params: Any, lr: float = 1e-3, constants: bool = True) -> None:
        super().__init__(params, lr=lr)
        self.constants = constants

        def update(params: list[torch.Tensor], grads: list[torch.Tensor], lr: Any, place: int) -> None:
            torch._foreach_sub_(params, torch._foreach_mul(grads, lr))
            params[0].add_(place)

        self.update = torch.compile(update, backend="eager", dynamic=False)

    @torch.no_grad()
    def step(self, closure: Any = None, *, loss: torch.Tensor | None = None) -> None:  # type: ignore[override]
        group = self.param_groups[0]
        params = group["params"]
        for start in range(0, len(params), 10) if self.constants else [0]:
            chunk = params[start : start + 10] if self.constants else params
            grads = [torch.zeros_like(param) if param.grad is None else param.grad for param in chunk]
            lr = group["lr"] if self.constants else torch.tensor(group["lr"])
            self.update([param.detach() for param in chunk], grads, lr, start)


def build(name: str, named: Named) -> Optimizer:
    """The factory of these tests."""
    if name == "plain":
        return Plain(named)
    if name == "compiling":
        return Compiling(named)
    if name == "stable":
        return Compiling(named, constants=False)
    if name == "adamw":
        return torch.optim.AdamW(named, foreach=True)
    raise KeyError(f"{name}\nand more")
