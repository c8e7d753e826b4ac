"""What is done to losses before the backward pass: a robust mean, weights of tasks, weights of examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.hyper import Hyper


def soft_median(losses: Tensor, temperature: float | None = None) -> Tensor:
    """A differentiable median of per-sample losses: outliers on either side count for little.

    ::

        x = losses, flattened and sorted ; w_i = softmax(-|i - (n-1)/2|/temperature) over i = 0..n-1
        result = sum of w_i*x_i

    Each loss's gradient is the weight of its rank. Towards temperature 0 this is the median (the average of the two
    in the middle, for even n), towards infinity the mean.

    Args:
        losses: at least one loss, of any shape (``reduction="none"``); half precision is computed in float32.
        temperature: in units of ranks, > 0; None takes max(0.1, half the standard deviation of the losses), through
            which no gradient flows. That default mixes units: it is not the same for losses in other units.

    Raises:
        ValueError: no losses, or a temperature that is not positive.

    Example:
        >>> import torch
        >>> from thalweg.losses import soft_median
        >>> soft_median(torch.tensor([1.0, 2.0, 60.0]), temperature=0.1)
        tensor(2.0026)
    """
    if losses.numel() == 0:
        raise ValueError("soft_median needs at least one loss, got an empty tensor")
    if temperature is not None:
        Hyper(1.0, open_low=True).check("temperature", temperature)
    flat = losses.reshape(-1)
    x = (flat.float() if flat.dtype in (torch.bfloat16, torch.float16) else flat).sort().values
    n = x.numel()
    if n == 1:
        return x[0]
    scale = (x.detach().std() / 2).clamp(min=0.1) if temperature is None else temperature
    ranks = torch.arange(n, device=x.device, dtype=x.dtype)
    return torch.softmax(-(ranks - (n - 1) / 2).abs() / scale, 0) @ x


class GradNorm(nn.Module):
    """GradNorm (arXiv 1711.02257): weights of tasks that make all of them train at a similar pace.

    ::

        G_i = w_i*|gradient of L_i at the shared weights| ; G = mean of G_i
        r_i = (L_i/L_i(0)) / mean_j(L_j/L_j(0))                 how far behind task i is
        w_i <- w_i - lr*sign(G_i - G*r_i^alpha)*|gradient of L_i|, then scaled so that they sum to the number of tasks

    Called with the losses it returns ``sum w_i*L_i`` with the weights as they were, and moves the weights for the next
    call. The update is the closed form of the paper's: a backward pass per task, and no second-order graph. Weights
    are held at 1e-3 or above, which the paper does not say. A task whose first loss is 0 counts as on pace.

    Args:
        tasks: their number, a whole number of at least 1.
        alpha: how strongly tasks that are behind are favoured, >= 0 (0.12 for alike tasks up to 3).
        lr: rate of the weights, >= 0.
        initial: the losses L_i(0), such as the logarithm of the number of classes; None takes the first ones seen.

    State: buffers ``weights`` and ``initial`` (NaN until it is known); they are part of ``state_dict``.

    Example:
        >>> import torch
        >>> from thalweg.losses import GradNorm
        >>> shared = torch.ones(2, requires_grad=True)
        >>> balance = GradNorm(2)
        >>> balance([(shared**2).sum(), (5 * shared).sum()], shared).backward()
        >>> balance.weights
        tensor([1.1307, 0.8693])
    """

    weights: Tensor
    initial: Tensor

    def __init__(
        self, tasks: int, alpha: float = 1.5, lr: float = 0.025, initial: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if isinstance(tasks, bool) or not isinstance(tasks, int) or tasks < 1:
            raise ValueError(f"Invalid tasks: {tasks!r}; legal is a whole number of at least 1")
        if initial is not None and len(initial) != tasks:
            raise ValueError(f"Invalid initial: {initial!r}; legal is one loss for each of the {tasks} tasks")
        Hyper(1.5).check("alpha", alpha)
        Hyper(0.025).check("lr", lr)
        self.alpha, self.lr = alpha, lr
        self.register_buffer("weights", torch.ones(tasks))
        self.register_buffer("initial", torch.full((tasks,), math.nan) if initial is None else torch.tensor(initial))

    def forward(self, losses: Sequence[Tensor] | Tensor, shared: Tensor | Sequence[Tensor]) -> Tensor:
        """The weighted sum of the losses; moves the weights.

        Args:
            losses: one 0-d loss for each task, with their graph.
            shared: the weights of the last layer that all tasks share.
        """
        each = torch.stack(list(losses))
        if each.shape != self.weights.shape:
            raise ValueError(f"losses of shape {tuple(each.shape)}; legal are {len(self.weights)} numbers, one a task")
        whole = [shared] if isinstance(shared, Tensor) else list(shared)
        total = (each * self.weights.to(each, copy=True)).sum()  # a copy: the weights move before the backward pass
        if not torch.is_grad_enabled():
            return total
        norms = torch.stack([self._norm(loss, whole) for loss in each.unbind()])
        with torch.no_grad():
            self._move(each.detach().to(self.weights), norms.to(self.weights))
        return total

    @staticmethod
    def _norm(loss: Tensor, shared: list[Tensor]) -> Tensor:
        found = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        there = [torch.linalg.vector_norm(g) for g in found if g is not None]
        return torch.linalg.vector_norm(torch.stack(there)) if there else torch.zeros_like(loss)

    def _move(self, losses: Tensor, norms: Tensor) -> None:
        self.initial.copy_(torch.where(self.initial.isnan(), losses, self.initial))
        done = torch.where(self.initial == 0, 1.0, losses / self.initial)
        behind = torch.where(done.mean() == 0, 1.0, done / done.mean())
        pull = self.weights * norms
        wanted = pull.mean() * behind**self.alpha
        moved = (self.weights - self.lr * torch.sign(pull - wanted) * norms).clamp(min=1e-3)
        self.weights.copy_(moved * (len(moved) / moved.sum()))


class GradTail(nn.Module):
    """Weights of examples by how little their gradients agree with a running mean gradient.

    The idea is GradTail's (arXiv 2201.05938). The formula is our own operational form, not a reproduction: the
    paper's activation and constants were not at hand. ::

        M <- decay*M + (1-decay)*mean of g_i                  g_i: gradient of example i's loss at one chosen layer
        c_i = <g_i,M>/(|g_i|*|M| + 1e-12)
        w_i = 1 + (w_max-1)*exp(-(c_i/width)^2), over their mean ; result = mean of w_i*l_i

    All weights are 1 during the first ``1/(1-decay)`` calls. No gradient flows through the weights.

    Args:
        decay: of the running mean, 0 <= x < 1.
        w_max: weight of an example whose gradient is orthogonal to the mean, before normalisation, >= 1.
        width: the agreement at which the extra weight has fallen to 1/e, > 0.

    State: buffers ``mean`` (made at the first call) and ``calls``.

    For a linear layer ``y = W h`` the gradients are ``torch.einsum("no,ni->noi", delta, h)``, delta being the gradient
    of the losses' sum with respect to y; ``torch.func.vmap(torch.func.grad(...))`` gives them for any layer.

    Example:
        >>> import torch
        >>> from thalweg.losses import GradTail
        >>> tail = GradTail(decay=0.0)
        >>> gradients = torch.tensor([[3.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
        >>> for _ in range(2): loss = tail(torch.ones(3), gradients)
        >>> tail.weights(gradients)
        tensor([0.5361, 0.5361, 1.9278])
    """

    mean: Tensor | None
    calls: Tensor

    def __init__(self, decay: float = 0.9, w_max: float = 5.0, width: float = 0.25) -> None:
        super().__init__()
        Hyper(0.9, 0.0, 1.0).check("decay", decay)
        Hyper(5.0, 1.0).check("w_max", w_max)
        Hyper(0.25, open_low=True).check("width", width)
        self.decay, self.w_max, self.width = decay, w_max, width
        self.register_buffer("mean", None)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def weights(self, gradients: Tensor) -> Tensor:
        """The normalised weights of examples with these gradients ``(examples, ...)``."""
        g = gradients.flatten(1)
        if self.mean is None or self.calls <= 1 / (1 - self.decay):
            return torch.ones_like(g[:, 0])
        lengths = torch.linalg.vector_norm(g, dim=1) * torch.linalg.vector_norm(self.mean)
        agreement = g @ self.mean.to(g) / (lengths + 1e-12)
        w = 1 + (self.w_max - 1) * torch.exp(-((agreement / self.width) ** 2))
        return w / w.mean()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        if self.mean is None and f"{prefix}mean" in state_dict:
            self.mean = torch.empty_like(state_dict[f"{prefix}mean"], device=self.calls.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, losses: Tensor, gradients: Tensor) -> Tensor:
        """The weighted mean of the losses; moves the running mean gradient.

        Args:
            losses: one per example, ``(examples,)``.
            gradients: each example's gradient at the chosen layer, ``(examples, ...)``.
        """
        if losses.ndim != 1 or gradients.ndim < 2 or len(gradients) != len(losses) or not len(losses):
            raise ValueError(
                f"losses of shape {tuple(losses.shape)} and gradients of shape {tuple(gradients.shape)}; legal are"
                " (examples,) and (examples, ...), with at least one example"
            )
        with torch.no_grad():
            now = gradients.flatten(1).mean(0)
            self.mean = (1 - self.decay) * now if self.mean is None else torch.lerp(now, self.mean, self.decay)
            self.calls += 1
        return (self.weights(gradients).to(losses) * losses).mean()
