"""L-BFGS: torch's, behind this library's checks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from thalweg.hyper import EPS, RATE


class LBFGS(torch.optim.LBFGS):
    """L-BFGS: quasi-Newton steps from the last gradients and steps; calls its closure several times a step.

    Source: Nocedal 1980; Liu & Nocedal, Math. Programming 45 (1989). It is no recipe, since a recipe takes one step
    from one gradient: it is not registered, has no engines, techniques or outer methods, and no weight decay (add it
    to the loss). The rule is torch.optim.LBFGS's own; what differs is that wrong options and checkpoints that do not
    fit are refused before anything changes, and that a loaded state shares no memory with the checkpoint.

    Equations::

        s = last step, y = change of gradient; a pair is kept where y.s > 1e-10, the oldest goes beyond history_size
        d = -H*g by the two-loop recursion over the pairs, from H = y.s/(y.y)
        p <- p + t*d          t = lr (first step: lr*min(1, 1/|g|_1)), or from the strong Wolfe line search

    Args:
        params: parameters or ``(name, parameter)`` pairs, in one group.
        lr: learning rate, >= 0; the first trial step of a line search.
        max_iter: steps taken by one call of ``step``, >= 1.
        max_eval: calls of the closure by one call of ``step``, >= 1; by default max_iter*5/4.
        tolerance_grad: stop where no entry of the gradient is larger, >= 0.
        tolerance_change: stop where neither parameters nor loss change by more, >= 0.
        history_size: pairs kept, >= 1.
        line_search_fn: None or "strong_wolfe".

    State: on the first parameter; 2*history_size + 4 vectors, 8*history_size + 16 bytes per parameter.
    Memory: about 4*history_size words per element and step, besides the closure.
    A noisy loss (mini-batches, dropout) spoils the pairs; use the same batch in all calls of a step.

    Raises:
        ValueError: several groups, an option out of range, a checkpoint that does not fit.
        TypeError: ``step`` without a closure.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> opt = thalweg.LBFGS([p], line_search_fn="strong_wolfe")
        >>> def closure():
        ...     opt.zero_grad()
        ...     loss = ((p - 3) ** 2).sum()
        ...     loss.backward()
        ...     return loss
        >>> opt.step(closure).item(); p.data
        8.0
        tensor([3., 3.])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        if isinstance(params, (set, frozenset)):
            raise TypeError("params must have an order: a set was given; pass a list")
        options: dict[str, Any] = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        _check(options)
        super().__init__(params, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the one group there is; a second one is refused, since the history couples all parameters."""
        if self.param_groups:
            raise ValueError("LBFGS has one group of parameters: they share one history; pass them as one list")
        if isinstance(param_group, dict):
            _check(param_group)
            unknown = param_group.keys() - self.defaults.keys() - {"params", "param_names", "initial_lr", "name"}
            if unknown:
                raise ValueError(f"LBFGS has no option {sorted(unknown)[0]!r}; legal: {', '.join(self.defaults)}")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """Up to ``max_iter`` steps; returns the loss before the first. ``loss`` is not used: only a closure will do."""
        if closure is None:
            raise TypeError(
                "LBFGS evaluates the loss several times: pass step(closure), where closure zeroes the gradients,"
                " computes the loss, calls backward and returns the loss"
            )
        return super().step(closure)

    def train(self, mode: bool = True) -> LBFGS:
        """Nothing: the parameters always hold the one iterate there is."""
        return self

    def eval(self) -> LBFGS:
        """Nothing: the parameters always hold the one iterate there is."""
        return self

    def state_bytes(self) -> int:
        """Bytes of all state tensors that exist now."""
        values = [v for state in self.state.values() for v in state.values()]
        lists = [t for v in values if isinstance(v, list) for t in v]
        return sum(t.nbytes for t in (*values, *lists) if isinstance(t, Tensor))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a checkpoint of this class or of torch.optim.LBFGS; one that does not fit changes nothing."""
        for key in ("state", "param_groups"):
            if key not in state_dict:
                raise ValueError(
                    f"not an optimizer's state_dict: it has no {key!r}, but {sorted(map(str, state_dict))}"
                )
        groups = state_dict["param_groups"]
        counts = [len(g["params"]) for g in groups]
        if counts != [len(self._params)]:
            raise ValueError(
                f"the checkpoint's groups have {counts} parameters, this optimizer's [{len(self._params)}]"
            )
        _check(groups[0])
        size = self._numel()
        for state in state_dict["state"].values():
            lists = [("old_dirs", t) for t in state.get("old_dirs") or ()] + [
                ("old_stps", t) for t in state.get("old_stps") or ()
            ]
            for role, value in (*((k, state.get(k)) for k in ("d", "prev_flat_grad")), *lists):
                if isinstance(value, Tensor) and value.numel() != size:
                    raise ValueError(f"state {role!r} has {value.numel()} entries, the parameters have {size}")
        super().load_state_dict(copy.deepcopy(state_dict))


def _check(options: dict[str, Any]) -> None:
    """Raise for the first option that is not legal."""
    for name, hyper in (("lr", RATE), ("tolerance_grad", EPS), ("tolerance_change", EPS)):
        if name in options:
            hyper.check(name, options[name])
    for name in ("max_iter", "max_eval", "history_size"):
        value = options.get(name, 1)
        if value is None and name == "max_eval":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number of at least 1, got {value!r}")
        if value < 1:
            raise ValueError(f"Invalid {name}: {value!r}; legal is a whole number of at least 1")
    if options.get("line_search_fn") not in (None, "strong_wolfe"):
        raise ValueError(f"Invalid line_search_fn: {options['line_search_fn']!r}; legal are None and 'strong_wolfe'")
