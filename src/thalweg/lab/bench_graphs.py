"""Counts the graphs that an optimizer compiles when training changes under it.

A recompilation in the middle of a run costs seconds each time and shows in no step-time median, so it is counted.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch._dynamo

from thalweg.engine import compiled
from thalweg.lab.bench_probes import graph_count
from thalweg.lab.bench_worker import Factory, library_factory, make_parameters, stepper
from thalweg.lab.parameter_sets import Shapes, parameter_set, replicated

CHURN_KEYS = ("lr", "weight_decay", "betas", "eps")


def _varied(value: Any, step: int) -> Any:
    """A value near the given one that no other step has; shrunk only, so that betas stay below one."""
    if isinstance(value, (tuple, list)):
        return type(value)(_varied(item, step) for item in value)
    if isinstance(value, torch.Tensor):
        return value * (1 - 0.001 * (step + 1))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return (value or 1e-3) * (1 - 0.001 * (step + 1))


def _counting_all() -> AbstractContextManager[None]:
    """Lifts dynamo's recompile limit: beyond it steps run uncompiled, and a count that stands still looks good."""
    return torch._dynamo.config.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)


def _forget_graphs() -> None:
    torch._dynamo.reset()
    compiled.forget()


def graphs_under_churn(
    name: str,
    *,
    engine: str = "auto",
    factory: Factory | None = None,
    steps: int = 50,
    rotate: bool = True,
    shapes: Shapes | None = None,
) -> int:
    """Graphs compiled after the fifth of ``steps`` steps while hyperparameters and gradients keep changing.

    lr, weight_decay, betas and eps (where the optimizer has them) take a new value every step, and every third step
    some tensors have no gradient: the same third of them each time, or a different third in turn with ``rotate``.
    """
    _forget_graphs()
    named = make_parameters(shapes if shapes is not None else parameter_set("tiny"))
    opt = (factory or library_factory(engine))(name, named)
    step = stepper(opt)
    originals = [{key: group[key] for key in CHURN_KEYS if key in group} for group in opt.param_groups]
    gradients = [param.grad for _, param in named]
    after_fifth = 0
    with _counting_all():
        for index in range(steps):
            for group, original in zip(opt.param_groups, originals, strict=True):
                group.update({key: _varied(value, index) for key, value in original.items()})
            if index % 3 == 2:
                offset = (index // 3) % 3 if rotate else 0
                for _, param in named[offset::3]:
                    param.grad = None
            step()
            for (_, param), gradient in zip(named, gradients, strict=True):
                param.grad = gradient
            if index == 4:
                after_fifth = graph_count()
    return graph_count() - after_fifth


def graphs_under_scaling(
    name: str,
    *,
    engine: str = "auto",
    factory: Factory | None = None,
    times: int = 4,
    shapes: Shapes | None = None,
) -> dict[str, list[int]]:
    """Graphs compiled in three steps for a set of small tensors and for ``times`` as many of them.

    A count that grows with the tensors means that a large model compiles for minutes.
    """
    base = shapes if shapes is not None else parameter_set("tiny")
    result: dict[str, list[int]] = {"tensors": [], "graphs": []}
    for chosen in (base, replicated(base, times)):
        _forget_graphs()  # else the second set would run on the first one's graphs and count none
        named = make_parameters(chosen)
        before = graph_count()
        step = stepper((factory or library_factory(engine))(name, named))
        with _counting_all():
            for _ in range(3):
                step()
        result["tensors"].append(len(chosen))
        result["graphs"].append(graph_count() - before)
    return result
