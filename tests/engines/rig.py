"""Parameters, gradients and optimizers that the engine tests share; driven by the registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import thalweg
from thalweg.engine import family, inductor, native

NAMES = thalweg.list_optimizers()

#: Every layout that a parameter can have; ``never`` gets no gradient, ``rare`` none in every third step.
LAYOUTS: dict[str, Callable[[Callable[..., Tensor]], Tensor]] = {
    "scalar": lambda new: new(),
    "one": lambda new: new(1),
    "vector": lambda new: new(7),
    "matrix": lambda new: new(5, 9),
    "empty": lambda new: new(0, 4),
    "rare": lambda new: new(11),
    "never": lambda new: new(4),
    "transposed": lambda new: new(4, 6).t(),
    "conv": lambda new: new(6, 3, 3, 3),
    "channels_last": lambda new: new(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "large": lambda new: new(80, 60),
    "gaps": lambda new: new(6, 10)[:, ::2],
}
#: The layouts of fewest kernels: 0-d, 1-d and 2-d.
SIMPLE = ("scalar", "vector", "matrix", "empty", "rare", "never", "transposed")


def parameters(dtype: torch.dtype = torch.float32, layouts: tuple[str, ...] = tuple(LAYOUTS)) -> dict[str, Parameter]:
    """Parameters by name, drawn in float64 so that every dtype starts from the same numbers."""
    generator = torch.Generator().manual_seed(1)

    def new(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {name: _parameter(LAYOUTS[name](new)) for name in layouts}


def _parameter(value: Tensor) -> Parameter:
    parameter = Parameter(value)
    assert parameter.stride() == value.stride()
    return parameter


def set_gradients(params: dict[str, Parameter], t: int) -> None:
    """Gradients of step t = 1, 2, ..., the same for every engine, some of them in another layout than the parameter."""
    generator = torch.Generator().manual_seed(1000 + t)
    for name, p in params.items():
        g = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
        missing = name == "never" or (name == "rare" and t % 3 == 0)
        if not missing and p.dim() == 4 and t % 2:
            g = g.to(memory_format=torch.channels_last)
        p.grad = None if missing else g


def options(name: str, **changes: Any) -> dict[str, Any]:
    """Options with which twenty steps move parameters visibly and every term of the rule counts."""
    defaults = thalweg.get(name).defaults
    chosen: dict[str, Any] = {}
    if defaults.get("lr") is not None:
        chosen["lr"] = 50.0 if thalweg.get(name).needs_loss else 0.05
    if "lb" in defaults:  # the loss bounds the step
        chosen["lr"] = 1.0
    chosen.update({k: 0.1 for k in ("d0", "reps_rel") if k in defaults})
    if "rest" in defaults:
        chosen["rest"] = {"lr": 0.05, "weight_decay": 0.1}
    if "weight_decay" in defaults:
        chosen["weight_decay"] = 0.1
    if isinstance(defaults.get("eps"), float):
        chosen["eps"] = 1e-3
    return {**chosen, **changes}


def groups(params: dict[str, Parameter], name: str) -> list[dict[str, Any]]:
    """Two groups that differ in what they can differ in: learning rate and weight decay."""
    defaults = thalweg.get(name).defaults
    second: dict[str, Any] = {"weight_decay": 0.02}
    if defaults.get("lr") is not None:
        second["lr"] = 0.4 * options(name)["lr"]
    values = list(params.values())
    return [{"params": values[0::2]}, {"params": values[1::2], **second}]


def build(name: str, params: Any, engine: str, **changes: Any) -> thalweg.Optimizer:
    """The registered optimizer over parameters (a dict) or groups (a list)."""
    given = list(params.values()) if isinstance(params, dict) else params
    return thalweg.get(name).cls(given, engine=engine, **options(name, **changes))


def loss_at(t: int) -> float:
    """The loss handed to step t."""
    return 0.5 + 1 / t


def run(
    name: str,
    engine: str,
    params: dict[str, Parameter],
    steps: int,
    *,
    two_groups: bool = False,
    sizes: dict[str, float] | None = None,
    **changes: Any,
) -> thalweg.Optimizer:
    """Steps 1 to ``steps`` of a new optimizer over the parameters; ``sizes`` takes the largest of every lone number."""
    opt = build(name, groups(params, name) if two_groups else params, engine, **changes)
    for t in range(1, steps + 1):
        set_gradients(params, t)
        opt.step(loss=loss_at(t))
        if sizes is not None:
            note_sizes(sizes, everything(opt, params))
    return opt


def note_sizes(sizes: dict[str, float], found: dict[str, Tensor]) -> None:
    """Keep the largest magnitude that every lone number has had."""
    numbers = {name: v for name, v in found.items() if v.numel() == 1}
    sizes.update({name: max(sizes.get(name, 0.0), abs(v).item()) for name, v in numbers.items()})


def everything(opt: thalweg.Optimizer, params: dict[str, Parameter]) -> dict[str, Tensor]:
    """All tensors that a step writes: parameters and state."""
    found = {name: p.detach() for name, p in params.items()}
    for name, p in params.items():
        found.update({f"{name}.{role}": v for role, v in opt.state.get(p, {}).items() if torch.is_tensor(v)})
    return found


def worst_error(
    got: dict[str, Tensor], expected: dict[str, Tensor], sizes: dict[str, float] | None = None
) -> tuple[float, str]:
    """The largest difference of any tensor relative to that tensor's largest entry, and where it is.

    A lone number may just pass through zero, so it is compared with its size in ``sizes`` where that is larger.
    """
    assert got.keys() == expected.keys()
    worst = (0.0, "")
    for name, want in expected.items():
        have = got[name]
        assert have.dtype == want.dtype
        assert have.shape == want.shape
        if want.numel():
            difference = (have.double() - want.double()).abs().max().item()
            error = difference / (max(want.abs().max().item(), (sizes or {}).get(name, 0.0)) or 1.0)
            worst = max(worst, (float("inf") if error != error else error, name))
    return worst


def assert_compiled(opt: thalweg.Optimizer, params: dict[str, Parameter]) -> None:
    """All but what no kernel can serve went through kernels, and those were compiled."""

    def uncompiled(group: dict[str, Any]) -> bool:
        recipe = opt.recipe_of(group)
        return recipe.scope == "matrix" and not recipe.asks

    if not all(map(uncompiled, opt.param_groups)):
        assert inductor.kernel.cache_info().currsize + native.kernel.cache_info().currsize > 0
        assert family.compiled > 0
    assert opt._compiled.plans, "no step was planned"
    held = {id(p): p for p in params.values()}
    for key, plan in opt._compiled.plans.items():
        owners = [held[n] for n in key[0::3]]
        served = [owners[i] for chunk in plan.chunks for place in chunk.at for i in place]
        left = [owners[i] for i in plan.leftover]
        # A recipe of whole matrices leaves every tensor to the foreach engine.
        assert served or all(map(uncompiled, opt.param_groups))
        assert len(served) + len(left) == len(owners)
        for p in left:
            group = next(g for g in opt.param_groups if any(p is q for q in g["params"]))
            shaped = opt.recipe_of(group).scope in ("row", "matrix") and p.ndim > 1
            gaps = p.untyped_storage().nbytes() > p.nbytes
            assert uncompiled(group) or p.numel() < 2 or gaps or (shaped and not p.is_contiguous())
