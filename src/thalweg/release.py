"""Gradient release: the optimizer's step runs inside ``backward``, and frees each gradient as soon as it is final."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import RLock
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.parallel import DistributedDataParallel

from thalweg.engine.compiled import PLANS
from thalweg.optimizer import Chosen, Optimizer
from thalweg.optimizers.adama import AdamA
from thalweg.recipe import Recipe

#: Elements of gradients that are collected before a step is taken on them, see ``GradientRelease``.
POOL = 1 << 20


class GradientRelease:
    """Makes an optimizer step inside ``backward``: peak memory falls by nearly all of the gradients.

    Final gradients are collected until they hold ``pool`` elements, then stepped on and freed. ``optimizer.step()``
    ends the step: it moves what is left, and leaves no gradient behind. The most that gradients hold is

        pool + the largest gradient

    elements, where an ordinary step holds all of them. The numbers are those of the ordinary step: every tensor's
    step uses that tensor alone. The loop is unchanged, and ``zero_grad`` is not needed.

    Every ``backward`` that reaches the optimizer's parameters is part of a step, so a step has one: further ones
    belong into ``accumulate()``. Gradients must not be changed between ``backward`` and ``step()``
    (``clip_grad_norm_``, ``Accumulator.finish``): most of them are gone by then. Where that is noticed, it raises; a
    ``GradScaler`` always is.

    Args:
        optimizer: any optimizer of this library whose tensors do not depend on each other.
        model: needed where several processes train together: the ``DistributedDataParallel`` module, built with
            ``gradient_as_bucket_view=True``, whose gradients are stepped on bucket by bucket as they arrive; or the
            model itself where something else than DDP exchanges gradients.
        pool: gradient elements to collect, >= 0. 0 steps on every tensor at once; a larger pool costs memory, and
            saves the fixed cost of a step (small tensors are joined, and share their calls).

    Raises:
        TypeError: not an optimizer of this library.
        ValueError: a recipe that couples tensors (global norms, Prodigy) or needs the loss; DDP without bucket views;
            several processes and no model; a second release of the same optimizer.

    Example:
        >>> import torch, thalweg
        >>> from thalweg.release import GradientRelease
        >>> model = torch.nn.Linear(2, 1)
        >>> opt = thalweg.AdamW(model.parameters(), lr=0.1)
        >>> release = GradientRelease(opt)
        >>> for x in torch.ones(3, 4, 2):
        ...     model(x).square().mean().backward()  # steps on what is large
        ...     opt.step()  # and on the rest
        >>> model.weight.grad is None
        True
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None, *, pool: int = POOL) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"GradientRelease takes a thalweg optimizer that needs no closure, not {type(optimizer).__name__}"
            )
        if pool < 0:
            raise ValueError(f"pool must be a number of elements, at least 0, got {pool!r}")
        if optimizer._advanced != ():
            raise ValueError("this optimizer's gradients are released already; call remove() on the first one")
        self.optimizer = optimizer
        self.pool = pool
        self.parallel = _parallel(model)
        for index, group in enumerate(optimizer.param_groups):
            _check_apart(optimizer.recipe_of(group), index)
        self._holding = False
        self._advanced: set[int] = set()
        self._moved: set[Tensor] = set()
        self._pending: dict[Tensor, int] = {}  # with the version of the gradient
        self._held = 0
        self._sent: tuple[list[Tensor], Any] | None = None
        self._lock = RLock()  # two devices' gradients come from two threads
        optimizer._advanced = self._advanced
        # A GradScaler then leaves its scale with the optimizer, which is how it is noticed; see _before_step.
        optimizer._step_supports_amp_scaling = True  # type: ignore[attr-defined]
        self._tensor_hooks: dict[Tensor, Any] = {}
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(lambda *_: self._end()),
            optimizer.register_state_dict_pre_hook(lambda _: self._check_between_steps("state_dict()")),
            optimizer.register_load_state_dict_post_hook(lambda _: self._end() if self._moved else None),
        ]
        self._watch()
        if self.parallel is not None:
            try:
                # DDP compares annotations by identity, and this module's are text.
                self.parallel.register_comm_hook(
                    self.parallel.process_group, lambda group, bucket: self._exchange(group, bucket)
                )
            except RuntimeError as error:
                self.remove()
                raise ValueError(f"DDP takes one communication hook, and has one already: {error}") from error

    def remove(self) -> None:
        """Back to ordinary steps. Not between ``backward`` and ``step()``."""
        self._check_between_steps("remove()")
        for hook in (*self._hooks, *self._tensor_hooks.values()):
            hook.remove()
        self._hooks, self._tensor_hooks = [], {}
        self.optimizer._compiled.limit = PLANS
        self.optimizer._advanced = ()
        del self.optimizer._step_supports_amp_scaling  # type: ignore[attr-defined]

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """All micro-batches of a step but the last: their gradients are summed up, and nothing moves.

        The sum is kept in ``p.grad``, so memory is that of ordinary accumulation; AdamA instead takes every gradient
        into its moments and frees it. A DDP model's forward pass must be inside too (its ``no_sync``).

        Example:
            >>> import torch, thalweg
            >>> from thalweg.release import GradientRelease
            >>> model = torch.nn.Linear(2, 1)
            >>> opt = thalweg.AdamA(model.parameters())
            >>> release = GradientRelease(opt)
            >>> *first, last = torch.ones(3, 4, 2)
            >>> with release.accumulate():
            ...     for x in first:
            ...         (model(x).sum() / 12).backward()
            >>> (model(last).sum() / 12).backward(); opt.step()
        """
        self._check_between_steps("accumulate()")
        with nullcontext() if self.parallel is None else self.parallel.no_sync():
            self._holding = True
            try:
                yield
                if self._folds:
                    self._flush()
            finally:
                self._holding = False

    @property
    def _folds(self) -> bool:
        return self._holding and self.parallel is None and isinstance(self.optimizer, AdamA)

    def _watch(self) -> None:
        """Hook every parameter that is trained and not hooked yet."""
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.parallel is None:
            for p in params:
                if p.requires_grad and p not in self._tensor_hooks:
                    self._tensor_hooks[p] = p.register_post_accumulate_grad_hook(self._final)
        self.optimizer._compiled.limit = PLANS + len(params)

    def _final(self, param: Tensor) -> None:
        """A gradient is final: the parameter's hook, called by ``backward``."""
        if self._holding and not self._folds:
            return
        with self._lock:
            self._collect(param)

    def _exchange(self, group: Any, bucket: dist.GradBucket) -> Any:
        """DDP's hook: send this bucket's gradients on their way, and step on those of the bucket before."""
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        future = allreduce_hook(group, bucket)
        if self._hooks:
            with self._lock:
                if self._sent is not None:
                    params, sent = self._sent
                    sent.wait()
                    for p in params:
                        if p.grad is not None:  # else not in this process's graph: DDP sets it later
                            self._collect(p)
                self._sent = bucket.parameters(), future
        return future

    def _collect(self, param: Tensor) -> None:
        grad = param.grad
        assert grad is not None
        if param in self._moved:
            raise RuntimeError(
                "a second backward reached a parameter that has moved in this step already: its gradient must be"
                " whole when it is used. Run all backward passes of a step but the last in `with release.accumulate():`"
            )
        if grad.requires_grad:
            raise RuntimeError("gradients with a graph (create_graph=True) cannot be released: take an ordinary step")
        if grad.layout != torch.strided:
            return  # small by nature; the step takes it
        if param not in self._pending:
            self._held += grad.numel()
        self._pending[param] = grad._version
        if self._held >= self.pool:
            self._flush()

    @torch.no_grad()
    def _flush(self) -> None:
        """Step on what has been collected, and free it."""
        chosen: list[Chosen] = []
        for index, group in enumerate(self.optimizer.param_groups):
            params = [p for p in group["params"] if p in self._pending]
            if params:
                recipe = self.optimizer.recipe_of(group)
                _check_apart(recipe, index)
                if not group.get("train_mode", True):
                    raise RuntimeError(
                        "backward in eval mode: the parameters hold the averaged weights; call optimizer.train() first"
                    )
                chosen.append((group, recipe, params))
        if self._folds:
            self.optimizer._fold(chosen)  # type: ignore[attr-defined]
        else:
            self.optimizer._advance(chosen, None)
            self._advanced.update(id(group) for group, _, _ in chosen)
            self.optimizer._move(chosen)
            self._moved.update(self._pending)
            increment_version(list(self._pending))  # autograd does not see the writes of compiled kernels
        for p in self._pending:
            p.grad = None if self.parallel is None else p.grad
        self._pending.clear()
        self._held = 0

    def _before_step(self, _: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """The optimizer's pre-hook: what ``step()`` finds is what ``backward`` left."""
        if args[1:2] not in ((), (None,)) or options.get("closure") is not None:
            raise RuntimeError("with released gradients step() takes no closure: call backward() first, then step()")
        if hasattr(self.optimizer, "grad_scale"):
            raise RuntimeError(
                "a GradScaler looks for infinite gradients when backward has ended, and then skips the step; released"
                " gradients have been used by then. Train in bfloat16, which needs no scaler, or take an ordinary step"
            )
        if self._moved:
            for p, version in self._pending.items():
                if p.grad is None or p.grad._version != version:
                    raise RuntimeError(
                        "gradients were changed between backward and step(), when the others had been used and freed:"
                        " clip per tensor (techniques=['agc']) instead of by clip_grad_norm_, and divide the loss"
                        " instead of gradients; or take an ordinary step"
                    )
            for p in self._moved:
                p.grad = None  # DDP sets them again

    def _end(self) -> None:
        """The step is over, or what was begun of it is overwritten by a checkpoint."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None
        self._pending.clear()
        self._moved.clear()
        self._advanced.clear()
        self._held = 0
        self._sent = None
        self._watch()

    def _check_between_steps(self, what: str) -> None:
        if self._moved:
            raise RuntimeError(f"{what} in the middle of a step: backward has moved parameters; call step() first")


def _parallel(model: nn.Module | None) -> DistributedDataParallel | None:
    """The DDP module, if that is what the model is; a ValueError where gradients would be stepped on too early."""
    if isinstance(model, DistributedDataParallel):
        if not model.gradient_as_bucket_view:
            raise ValueError(
                "DDP keeps a second copy of every gradient here: build it with gradient_as_bucket_view=True"
            )
        return model
    if model is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            f"{dist.get_world_size()} processes train here, and a step must wait for their gradients: pass the"
            " DistributedDataParallel module as `model` (or the plain model, where its gradients arrive summed)"
        )
    return None


def _check_apart(recipe: Recipe, index: int) -> None:
    """Refuse a recipe whose step of one tensor needs more than that tensor and its gradient."""
    why = ""
    if recipe.needs_loss:
        why = "its step needs the loss, which step(loss=...) would bring too late"
    elif recipe.couples:
        names = " and ".join(sorted({type(slot).__name__ for _, slot in recipe.coupled_slots})) or "a slot"
        why = f"{names} needs totals over the {recipe.couples}, known only when every gradient is"
    if why:
        raise ValueError(
            f"group {index}: gradients cannot be released, because {why}. Use what looks at one tensor at a time"
            " (techniques 'agc', 'clip_value', 'soft_clip', 'clip_rms'), or an ordinary step"
        )
