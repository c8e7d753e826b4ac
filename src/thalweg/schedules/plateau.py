"""The one schedule that depends on how training goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsFloat

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thalweg.hyper import Hyper
from thalweg.schedules.base import FACTOR, chosen, whole


class Plateau(ReduceLROnPlateau):
    """lr <- max(lr*factor, min_lr) after more than ``patience`` steps in a row whose metric was no better.

    ``scheduler.step(metric)`` after each validation. Better than the best b so far is, with mode min, a metric below
    b - threshold*|b| (rel) or b - threshold (abs); with mode max, above b + the same. torch takes b*(1 -+ threshold),
    which for negative metrics counts slightly worse values as better; ``published=True`` does so too. A NaN is no
    better. A new rate is set only if it is lower by more than ``eps``; the counts start anew either way. It is a
    ``ReduceLROnPlateau`` to the loops that look for one, and loads its state.

    Args:
        optimizer: any torch optimizer.
        mode: "min" or "max".
        factor: 0 <= factor < 1.
        patience: whole number >= 0 of bad steps that are tolerated; the next one reduces.
        threshold: >= 0.
        threshold_mode: "rel" or "abs".
        cooldown: whole number >= 0 of steps after a reduction in which bad ones are not counted.
        min_lr: >= 0, or one for each group; groups added later get the last.
        eps: >= 0.
        published: torch's comparison for negative metrics.

    Example:
        >>> import torch
        >>> from thalweg.schedules import Plateau
        >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> scheduler = Plateau(opt, factor=0.5, patience=1)
        >>> for loss in (-3.0, -3.0, -3.0):
        ...     scheduler.step(loss)
        >>> opt.param_groups[0]["lr"]
        0.5
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0,
        eps: float = 1e-8,
        published: bool = False,
    ) -> None:
        chosen("mode", mode, ("min", "max"))
        Hyper(0.1, 0.0, 1.0).check("factor", factor)
        whole("patience", patience, 0)
        FACTOR.check("threshold", threshold)
        chosen("threshold_mode", threshold_mode, ("rel", "abs"))
        whole("cooldown", cooldown, 0)
        FACTOR.check("eps", eps)
        lows = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr]
        for low in lows:
            FACTOR.check("min_lr", low)
        for i, group in enumerate(optimizer.param_groups):
            if group.get("lr") is None:
                raise ValueError(f"group {i} has no learning rate (lr=None) to reduce; give it one")
        super().__init__(
            optimizer,
            mode,  # type: ignore[arg-type]
            factor,
            patience,
            threshold,
            threshold_mode,  # type: ignore[arg-type]
            cooldown,
            lows if isinstance(min_lr, Sequence) else min_lr,
            eps,
        )
        self.published = published

    def better(self, metric: float) -> bool:
        """Whether a metric is better than the best so far."""
        if math.isinf(self.best):
            return metric < self.best if self.mode == "min" else metric > self.best
        worse = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "abs":
            bound = self.best - worse * self.threshold
        else:
            towards = worse if self.published or self.best > 0 else -worse
            bound = self.best * (1.0 - towards * self.threshold)
        return metric < bound if self.mode == "min" else metric > bound

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take in a metric; ``epoch`` only sets ``last_epoch``."""
        metric = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.better(metric):
            self.best, self.num_bad_epochs = metric, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _reduce(self) -> None:
        for i, group in enumerate(self.optimizer.param_groups):
            lr = float(group["lr"])
            lower = max(lr * self.factor, self.min_lrs[min(i, len(self.min_lrs) - 1)])
            if lr - lower <= self.eps:
                continue
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lower)
            else:
                group["lr"] = lower

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of torch's; the counts and the best, not the settings."""
        for key in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr"):
            setattr(self, key, state_dict[key])
