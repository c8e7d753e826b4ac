"""Batch-norm statistics for weights that no forward pass in training has seen: averages of weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> int:
    """Recompute the running mean and variance of every batch norm as plain averages over ``batches``.

    Call it after ``optimizer.eval()`` where that puts averaged weights into the model (Schedule-Free, ``EMA``,
    ``PolynomialAverage``): their activations are not those that the running statistics were gathered from. Weights,
    the modules' modes and their momenta stay as they are; nothing is done, and no batch drawn, for a model without
    batch norms.

    Args:
        model: the model; each batch is passed as ``model(batch)``, or ``model(*batch)`` for a tuple or list.
        batches: inputs, a few hundred samples or more.

    Returns:
        how many batches were used.

    Raises:
        ValueError: there were no batches; the statistics are as before.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        >>> thalweg.recalibrate(model, [torch.randn(8, 3) for _ in range(4)])
        4
    """
    norms = _norms(model)
    if not norms:
        return 0
    modes = {m: m.training for m in model.modules()}
    kept = _statistics(norms)
    momenta = [m.momentum for m in norms]
    count = 0
    done = False
    try:
        model.eval()  # dropout stays off
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # a plain average over the batches
            m.train()
        for batch in batches:
            model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
            count += 1
        done = count > 0
    finally:
        for m, momentum, buffers in zip(norms, momenta, kept, strict=True):
            m.momentum = momentum
            if not done:
                _restore(m, buffers)
        for module, mode in modes.items():
            module.training = mode
    if not count:
        raise ValueError("no batches: batch-norm statistics need some inputs to be gathered from")
    return count


@contextmanager
def averaged(optimizer: Any, model: nn.Module, batches: Iterable[Any] = ()) -> Iterator[nn.Module]:
    """The model as it is to be evaluated or saved: averaged weights, and batch norms recalibrated for them.

    Inside, ``optimizer.eval()`` has put the averages into the model and its batch norms hold the statistics of
    ``batches`` (needed only where there are batch norms). Afterwards training goes on from exactly where it was, also
    if what happens inside raises.

    Raises:
        ValueError: the model has batch norms and there are no batches.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        >>> opt = thalweg.AdamW(model.parameters(), outer=thalweg.EMA(0.9))
        >>> model(torch.randn(8, 3)).sum().backward(); opt.step()
        >>> with thalweg.averaged(opt, model, [torch.randn(8, 3)]):
        ...     best = {k: v.clone() for k, v in model.state_dict().items()}
    """
    norms = _norms(model)
    kept = _statistics(norms)
    optimizer.eval()
    try:
        if norms:
            recalibrate(model, batches)
        yield model
    finally:
        optimizer.train()
        for m, buffers in zip(norms, kept, strict=True):
            _restore(m, buffers)


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    kind = nn.modules.batchnorm._BatchNorm
    return [m for m in model.modules() if isinstance(m, kind) and m.track_running_stats]


def _statistics(norms: list[nn.modules.batchnorm._BatchNorm]) -> list[dict[str, torch.Tensor]]:
    return [{name: buffer.clone() for name, buffer in m.named_buffers(recurse=False)} for m in norms]


def _restore(norm: nn.Module, buffers: dict[str, torch.Tensor]) -> None:
    for name, buffer in norm.named_buffers(recurse=False):
        buffer.copy_(buffers[name])
