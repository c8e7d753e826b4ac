"""A schedule on an optimizer: torch's scheduler protocol around a pure function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from thalweg.schedules.base import Schedule


class Attached(LRScheduler):
    """Sets each group's learning rate to its schedule's rate at the step: ``optimizer.step(); scheduler.step()``.

    A group's own rate is its ``initial_lr``, which is its ``lr`` when the first scheduler comes, or when a group added
    later is first seen; until then such a group runs at its own rate.

    * ``step(k)`` jumps to step k.
    * Rates are computed from the group's own, so that nothing drifts. What someone else does to a group's ``lr``
      between two steps stays as a factor: schedulers chained by torch's ChainedScheduler multiply, `Plateau` keeps
      what it took away, and so does a change by hand. A jump drops it. (A rate of 0 shows no factor.)
    * The state is the step, the groups' own rates, the last rates and those factors, all plain numbers. Loading puts
      the last rates and momentum into the groups, so that the order of loading does not matter. The schedule is code:
      a run may be resumed under another one. The state of torch's schedulers, and so of transformers', loads too.
    * Where the schedule sets momentum, ``momentum`` and the first of ``betas`` of every group that has them are set.

    Args:
        optimizer: any torch optimizer; every group needs a rate (None, as of a relative Adafactor, is a ValueError).
        schedule: one for all groups, or a list with one for each; groups added later get the last.
        last_epoch: -1 to begin at step 0; k to go on at step k + 1, with ``initial_lr`` in every group.

    Example:
        >>> import torch
        >>> from thalweg.schedules import Linear
        >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> scheduler = Linear(1.0, 0.0, steps=4).attach(opt)
        >>> scheduler.step(3)
        >>> opt.param_groups[0]["lr"]
        0.125
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule | Sequence[Schedule], last_epoch: int = -1) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"a schedule is attached to a torch optimizer, not to {type(optimizer).__name__}")
        self.schedules = (schedule,) if isinstance(schedule, Schedule) else tuple(schedule)
        groups = optimizer.param_groups
        if not all(isinstance(one, Schedule) for one in self.schedules):
            raise TypeError(f"a schedule, or a list of schedules, is needed, got {schedule!r}")
        if len(self.schedules) not in (1, len(groups)):
            raise ValueError(f"{len(self.schedules)} schedules for {len(groups)} groups; give one, or one for each")
        for i, group in enumerate(groups):
            if group.get("lr") is None:
                raise ValueError(f"group {i} has no learning rate (lr=None) to schedule; give it one")
            if self._schedule(i).momentum(0) is not None and not group.keys() & {"momentum", "betas"}:
                raise ValueError(
                    f"the schedule sets momentum, and group {i} has neither momentum nor betas; pass"
                    " cycle_momentum=False"
                )
        # Another scheduler was attached, and nothing has stepped since: the two will be chained or run in sequence.
        self._joins = hasattr(optimizer.step, "_wrapped_by_lr_sched") and not getattr(optimizer, "_opt_called", False)
        self._outside: list[float] = []
        super().__init__(optimizer, last_epoch)
        optimizer._opt_called = False  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        plan = ", ".join(map(repr, self.schedules))
        return f"Attached({plan}, last_epoch={self.last_epoch}, lr={[float(lr) for lr in self._last_lr]})"

    def _schedule(self, i: int) -> Schedule:
        return self.schedules[min(i, len(self.schedules) - 1)]

    def _see_new_groups(self) -> None:
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            lr = group["lr"]
            group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)
            self.base_lrs.append(group["initial_lr"])
        self._outside += [1.0] * (len(self.base_lrs) - len(self._outside))

    def _find_outside(self) -> None:
        """What others have done to the rates since this scheduler last set them, as a factor for each group."""
        last = getattr(self, "_last_lr", [])
        for i, group in enumerate(self.optimizer.param_groups):
            lr, base = float(group["lr"]), float(self.base_lrs[i])
            if self.last_epoch == 0:
                self._outside[i] = lr / base if self._joins and base else 1.0
            elif i < len(last) and lr != float(last[i]):
                before = self._schedule(i).rate(self.last_epoch - 1, base)
                self._outside[i] = lr / before if before else self._outside[i]
            elif self.last_epoch == 1 and self._outside[i] == 0:
                # The scheduler found at attaching was at 0 and does not step: this one has replaced it.
                self._outside[i] = 1.0

    def _rates(self) -> list[float | Tensor]:
        self._set_momentum()
        own = [float(lr) for lr in self.base_lrs[: len(self.optimizer.param_groups)]]
        return [self._schedule(i).rate(self.last_epoch, lr) * self._outside[i] for i, lr in enumerate(own)]

    def _set_momentum(self) -> None:
        for i, group in enumerate(self.optimizer.param_groups):
            momentum = self._schedule(i).momentum(self.last_epoch)
            if momentum is not None and "betas" in group:
                group["betas"] = (momentum, *group["betas"][1:])
            if momentum is not None and "momentum" in group:
                group["momentum"] = momentum

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the present step; ``get_last_lr()`` has those that are set."""
        self._see_new_groups()
        if self._get_lr_called_within_step:
            self._find_outside()
        return self._rates()

    def _get_closed_form_lr(self) -> list[float | Tensor]:
        self._outside = []
        self._see_new_groups()
        return self._rates()

    def _put(self, rates: Sequence[float | Tensor]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=False):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(float(lr))
            else:
                group["lr"] = lr
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def step(self, epoch: float | None = None) -> None:
        """Go on by one step, or jump to the step ``epoch`` (>= 0)."""
        if epoch is None:
            super().step()
            return
        if not 0 <= epoch < math.inf:
            raise ValueError(f"Invalid epoch: {epoch!r}; legal is a finite number of at least 0")
        self._step_count += 1
        self.last_epoch = epoch  # type: ignore[assignment]
        self._put(self._get_closed_form_lr())

    def state_dict(self) -> dict[str, Any]:
        """The step and the rates, as plain numbers."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": [float(lr) for lr in self.base_lrs],
            "_last_lr": [float(lr) for lr in self._last_lr],
            "_step_count": self._step_count,
            "outside": list(self._outside),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of a torch scheduler, and put its last rates into the groups."""
        missing = {"last_epoch", "base_lrs", "_last_lr"} - state_dict.keys()
        if missing:
            raise ValueError(f"this is not a scheduler's state: it has no {', '.join(sorted(missing))}")
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = state_dict.get("_step_count", self.last_epoch + 1)
        loaded = list(state_dict["base_lrs"])
        self.base_lrs = loaded + list(self.base_lrs[len(loaded) :])
        self._outside = list(state_dict.get("outside", []))
        self._see_new_groups()
        self._last_lr = [float(lr) for lr in state_dict["_last_lr"]]
        if self.last_epoch < 0:
            return
        self._set_momentum()
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=False):
            group["initial_lr"] = base
        self._put(self._last_lr)
