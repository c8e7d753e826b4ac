"""Mixed precision for optimizers that need a closure or the loss, which ``GradScaler.step`` alone does not serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Halvings of the scale that a line search may try at one point before its gradient counts as infinite.
RETRIES = 30
#: The loss of a point without a finite gradient, relative to the first: infinity would turn interpolations into NaN.
HOPELESS = 1e4


def step(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor], **options: Any
) -> Tensor:
    """One optimizer step under a gradient scaler, from a closure that only *computes* the loss.

    The closure runs the forward pass, under autocast if wanted, and returns the loss; it calls neither ``zero_grad``
    nor ``backward``. Its unscaled loss reaches the optimizer. A step with an infinite or NaN gradient is skipped:
    parameters, state and step counts stay as they are, and the scale is lowered as usual. Do not call
    ``scaler.update()`` yourself.

    Line searches (L-BFGS) evaluate the closure several times, each under the scale. At later evaluations an overflow
    only means that the scale is too large for that point: the point is evaluated again at half of it. Where even that
    does not help, the loss counts as very large there and the search turns back.

    Where no closure is needed, torch's own order serves, and the loss is passed on:
    ``scaler.scale(loss).backward(); scaler.step(optimizer, loss=loss.detach()); scaler.update()``.

    Args:
        scaler: ``torch.amp.GradScaler``; one with ``enabled=False`` makes this an ordinary step.
        optimizer: any torch optimizer.
        closure: computes the loss.
        options: passed on to ``optimizer.step``.

    Returns:
        the loss at the parameters before the step, unscaled and detached.

    Raises:
        TypeError: the closure returned something else than a tensor of one element.
        RuntimeError: the closure called ``backward`` itself.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Linear(3, 1)
        >>> opt = thalweg.AdaLo(model.parameters())
        >>> scaler = torch.amp.GradScaler("cpu")
        >>> x, y = torch.ones(4, 3), torch.ones(4, 1)
        >>> def closure():
        ...     with torch.autocast("cpu", dtype=torch.bfloat16):
        ...         return torch.nn.functional.mse_loss(model(x).float(), y)
        >>> loss = thalweg.amp.step(scaler, opt, closure)
    """
    loss = _evaluate(optimizer, closure)
    scaler.scale(loss).backward()
    value = loss.detach()
    if not isinstance(optimizer, torch.optim.LBFGS):
        if "loss" not in options and hasattr(optimizer, "recipe_of"):
            options = {**options, "loss": value}
        scaler.step(optimizer, **options)
    elif not scaler.is_enabled():
        _search(optimizer, closure, value, lambda: 1.0, **options)
    else:
        scaler.unscale_(optimizer)
        if _finite(optimizer):
            _search(optimizer, closure, value, scaler.get_scale, **options)
    scaler.update()
    return value


def _evaluate(optimizer: torch.optim.Optimizer, closure: Callable[[], Tensor]) -> Tensor:
    optimizer.zero_grad()
    with torch.enable_grad():
        loss = closure()
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise TypeError(f"the closure must return the loss, a tensor of one element, got {loss!r}")
    if any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
        raise RuntimeError("the closure must only compute the loss: backward is called here, on the scaled loss")
    return loss


def _finite(optimizer: torch.optim.Optimizer) -> bool:
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return all(bool(g.isfinite().all()) for g in grads)


def _search(
    optimizer: torch.optim.Optimizer,
    closure: Callable[[], Tensor],
    first: Tensor,
    scale: Callable[[], float],
    **options: Any,
) -> None:
    """A step that evaluates the closure several times; the first evaluation is there already, with its gradients."""
    ready = True

    def again() -> Tensor:
        nonlocal ready
        if ready:
            ready = False
            return first
        factor = scale()
        for _ in range(RETRIES):
            loss = _evaluate(optimizer, closure)
            (loss * factor).backward()
            for group in optimizer.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.grad.div_(factor)
            if _finite(optimizer):
                return loss.detach()
            if factor <= 1:
                break
            factor /= 2
        optimizer.zero_grad(set_to_none=False)
        return HOPELESS * (1 + first.abs())

    take: Callable[..., Any] = optimizer.step
    take(again, **options)
