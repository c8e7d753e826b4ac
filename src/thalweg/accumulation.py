"""Gradient accumulation that equals the large batch, over uneven micro-batches and data-parallel processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Accumulator:
    """Sums the gradients of micro-batches and divides them once, by what the whole batch holds.

    Let micro-batch j hold n_j samples (or unmasked tokens, or any weight) and have the loss *sum* S_j. The large
    batch's gradient is ``grad(sum_j S_j)/N``, ``N = sum_j n_j`` over micro-batches and processes. The mean of the
    micro-batches' means, ``1/J * sum_j grad(S_j/n_j)``, is another number wherever the n_j differ, and is what loops
    that divide by the number of micro-batches compute.

    Not made equal by this, or by anything of the kind: batch-norm statistics, dropout's random numbers, contrastive
    losses, and losses that are normalised per batch.

    Args:
        model: the module whose parameters take the gradients. A ``DistributedDataParallel`` module is recognised: its
            gradients are exchanged at the last micro-batch only, and its averaging over processes is undone.
        wide: sum the gradients of half-precision parameters in float32 until ``finish``; in bfloat16 small terms are
            lost. Costs 4 bytes per half-precision parameter; not available under ``DistributedDataParallel``, whose
            buckets hold the gradients in the parameters' dtype.

    Example:
        >>> import torch, thalweg
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = thalweg.SGD(model.parameters(), lr=0.1)
        >>> batches = [(torch.ones(3, 2), torch.ones(3, 1)), (torch.zeros(1, 2), torch.ones(1, 1))]
        >>> sums = thalweg.Accumulator(model)
        >>> for x, y in sums.over(batches):
        ...     sums.backward((model(x) - y).square().sum(), count=len(x))
        >>> mean_loss = sums.finish()
        >>> opt.step(loss=mean_loss); opt.zero_grad()
    """

    def __init__(self, model: nn.Module, *, wide: bool = True) -> None:
        self.model = model
        self.parallel = isinstance(model, nn.parallel.DistributedDataParallel)
        self.wide = wide and not self.parallel
        self.count = 0.0
        self.loss = 0.0
        self.last = True
        self._wide: dict[nn.Parameter, Tensor] = {}

    def over(self, micro_batches: Iterable[Any]) -> Iterator[Any]:
        """The micro-batches, one after the other, marking the last one: there DDP exchanges its gradients.

        A process without any micro-batch must not take part in the step; a DDP process needs at least one.
        """
        items = iter(micro_batches)
        try:
            held = next(items)
        except StopIteration:
            raise ValueError("no micro-batches: a step needs at least one") from None
        for item in items:
            self.last = False
            yield held
            held = item
        self.last = True
        yield held

    @property
    def sync(self) -> AbstractContextManager[Any]:
        """The context for the forward pass and backward of one micro-batch; DDP's ``no_sync`` before the last.

        ``backward`` enters it by itself; a DDP forward pass must be inside too: ``with sums.sync: out = model(x)``.
        """
        if self.parallel and not self.last:
            return self.model.no_sync()  # type: ignore[operator]
        return nullcontext()

    def backward(self, loss_sum: Tensor, count: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """Backward of one micro-batch's loss sum, of ``count`` samples, tokens or weights; scaled by ``scaler``.

        Raises:
            ValueError: ``count`` is negative or not a number, or the loss is not one number.
        """
        if not count >= 0:
            raise ValueError(f"count must be the number of samples or tokens, at least 0, got {count!r}")
        if loss_sum.numel() != 1:
            raise ValueError(f"the loss must be the sum over the micro-batch, got a tensor of {tuple(loss_sum.shape)}")
        with self.sync:
            (loss_sum if scaler is None else scaler.scale(loss_sum)).backward()
        self.count += float(count)
        self.loss += float(loss_sum.detach())
        if self.wide:
            self._widen()

    def _widen(self) -> None:
        """Move half-precision gradients into float32 sums."""
        for p in self.model.parameters():
            if p.grad is not None and p.dtype in (torch.bfloat16, torch.float16):
                if p in self._wide:
                    self._wide[p] += p.grad
                else:
                    self._wide[p] = p.grad.float()
                p.grad = None

    def finish(self) -> float:
        """Divide the summed gradients by the count of all micro-batches and processes; return the mean loss.

        Call it before unscaling is checked, clipping and ``optimizer.step``. The accumulator then starts anew.

        Raises:
            RuntimeError: nothing was accumulated, or the counts of all processes are zero.
        """
        found = torch.tensor([self.count, self.loss], dtype=torch.float64)
        processes = 1
        if self.parallel:
            together: Any = self.model.process_group
            processes = dist.get_world_size(together)
            found = found.to(next(self.model.parameters()).device)
            dist.all_reduce(found, group=together)
        total, loss = found.tolist()
        if not total > 0:
            raise RuntimeError("nothing to divide by: every micro-batch had a count of 0, or backward was not called")
        for p, wide in self._wide.items():
            p.grad = wide.div_(total).to(p.dtype)
        for p in self.model.parameters():
            if p.grad is not None and p not in self._wide:
                p.grad.mul_(processes / total)
        self.count = self.loss = 0.0
        self.last = True
        self._wide = {}
        return float(loss / total)
