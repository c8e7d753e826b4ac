"""The optimizers under test, small parameters with known gradients, and bit-exact comparison of what they hold."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import thalweg
from thalweg import ADAMW, MUON, Lookahead, Optimizer, ScheduleFree

SHAPES: tuple[tuple[int, ...], ...] = ((4, 3), (3,), (2, 3, 2), ())
#: Options that make every optimizer move visibly in a few float32 steps.
VISIBLE: dict[str, dict[str, Any]] = {
    "schedulefree_radam": {"lr": 0.01, "silent_sgd_phase": False},  # or four steps move nothing
    "adalo": {"lr": 30.0},
    "adafactor": {},
    "prodigy": {"lr": 0.1, "d0": 0.1},
    "dadapt_adam": {"lr": 0.1, "d0": 0.1},
    "dog": {"lr": 1.0, "reps_rel": 0.01},
    "ldog": {"lr": 1.0, "reps_rel": 0.01},
    "momo": {"lr": 0.1},
}


def visible(name: str) -> dict[str, Any]:
    return {"weight_decay": 0.1, **VISIBLE.get(name, {"lr": 0.01})}


def routed(params: Iterable[Tensor], **options: Any) -> Optimizer:
    """Matrices to MUON, the rest to ADAMW, in one ``Optimizer``."""
    params = list(params)
    own = {k: options.pop(k) for k in ("lr", "weight_decay") if k in options}
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "recipe": MUON, "lr": 0.02, "weight_decay": 0.1, **own},
        {"params": [p for p in params if p.ndim < 2], "recipe": ADAMW, "lr": 0.01, **own},
    ]
    return Optimizer(groups, **options)


@dataclass(frozen=True)
class Case:
    """One optimizer to test: ``build(params, **options)`` makes it, with ``options`` over those of the case."""

    id: str
    make: Callable[..., Optimizer]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, params: Any, **options: Any) -> Optimizer:
        return self.make(params, **{"engine": "foreach", **self.options, **options})

    @property
    def scheduled(self) -> dict[str, Any]:
        """Options under which the optimizer has a learning rate of its own to schedule."""
        return {"lr": 0.01, "relative_step": False} if self.id in ("adafactor", "adafactor-beta1") else {}


def _named(name: str, tag: str = "", **options: Any) -> Case:
    return Case(f"{name}{tag}", thalweg.get(name).cls, {**visible(name), **options})


#: Every registered optimizer, as it comes.
REGISTERED = [_named(name) for name in thalweg.list_optimizers()]
#: Outer methods, routed groups, and options that change which state is kept.
COMPOSED = [
    _named("adamw", "+lookahead", outer=Lookahead(2, 0.5)),
    _named("adamw", "+pullback", outer=Lookahead(2, 0.5, "pullback")),
    _named("adamw", "+schedulefree", outer=ScheduleFree()),
    Case("routed", routed),
    _named("sgd", "-momentum", momentum=0.9, nesterov=True),
    _named("rmsprop", "-centered", momentum=0.9, centered=True),
    _named("rmsprop", "-tensorflow", momentum=0.9, eps_inside=True, lr_inside=True, initial_square_avg=1.0),
    _named("sgd", "-inside", momentum=0.9, lr_inside=True),
    _named("adam", "-amsgrad", amsgrad=True),
    _named("adagrad", "-initial", initial_accumulator_value=0.5),
    _named("adafactor", "-beta1", lr=0.01, relative_step=False, beta1=0.9),
    _named("nsgda", "-global", scope="global"),
    _named("prodigy", "-sliced", slice_p=3, decouple=False),
    _named("momo", "-fstar", bias_correction=True, use_fstar=True),
    _named("amos", "-momentum", momentum=0.9, slots="row", eta=0.5),
    _named("smmf", "-booleans", packed=False, vector_reshape=False),
    _named("adamw", "+smmf", techniques=["smmf"]),
]
CASES = [*REGISTERED, *COMPOSED]
#: Optimizers whose first step, as published, gathers state and moves nothing.
STILL_AT_FIRST = ("adopt", "soap")
AVERAGED = [c for c in CASES if "schedulefree" in c.id]


def remembers(optimizer: Optimizer) -> str:
    """ "group" or "model" where tensors share numbers that outlive a step, such as a distance; else nothing."""
    recipes = [optimizer.recipe_of(g) for g in optimizer.param_groups]
    slots = [s for r in recipes for _, slot in r.slots() for s in getattr(slot, "slots", (slot,))]
    if any(getattr(s, "rate", "plain") != "plain" for s in slots):  # Schedule-Free with a rate set by the group's count
        return "group"
    return max((s.couples for s in slots if s.couples and s.group_numbers), default="")


def case(id: str) -> Case:
    return next(c for c in CASES if c.id == id)


def signature(name: str) -> dict[str, Any]:
    """The options of a registered optimizer with their defaults, read from its signature."""
    parameters = inspect.signature(thalweg.get(name).cls.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def make_params(
    shapes: Iterable[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.float64 if dtype in (torch.complex64, torch.complex128) else dtype
    extra = (2,) if dtype.is_complex else ()
    found = [torch.randn((*s, *extra), generator=generator, dtype=torch.float64).to(real) for s in shapes]
    return [nn.Parameter(torch.view_as_complex(t).to(dtype) if dtype.is_complex else t) for t in found]


def clones(params: Iterable[Tensor]) -> list[nn.Parameter]:
    """Fresh parameters of the same values and layout, without gradients."""
    return [nn.Parameter(p.detach().clone()) for p in params]


def gradient(param: Tensor, t: int, k: int = 0) -> Tensor:
    """Gradient of step t for the k-th tensor: it depends on the place, the step and the parameter."""
    wave = torch.sin(1.3 * t + k + 0.7 * torch.arange(param.numel(), dtype=torch.float64)).reshape(param.shape)
    g = torch.complex(wave, wave.flip(-1)) if param.is_complex() else wave
    return torch.empty_like(param).copy_(g + 0.1 * param.detach())


def set_grads(params: Iterable[Tensor], t: int) -> None:
    for k, p in enumerate(params):
        p.grad = gradient(p, t, k)


def members(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def train(optimizer: Any, params: Iterable[Tensor], steps: int, start: int = 1) -> None:
    """Steps ``start, start+1, ...`` on known gradients, each with a known loss."""
    params = list(params)
    for t in range(start, start + steps):
        set_grads(params, t)
        optimizer.step(loss=1.0 + 0.5 / t)


def bits(tensor: Tensor) -> tuple[Any, ...]:
    """What identifies a tensor to the last bit."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), bytes(flat.tolist())


def freeze(value: Any) -> Any:
    """A value in a form that compares bit for bit."""
    if isinstance(value, Tensor):
        return bits(value)
    if isinstance(value, dict):
        return {k: freeze(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [freeze(v) for v in value]
    return type(value), copy.copy(value)


def snapshot(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Parameters, gradients, state and groups, to the last bit."""
    params = members(optimizer)
    return {
        "params": [bits(p) for p in params],
        "grads": [None if p.grad is None or p.grad.is_sparse else bits(p.grad) for p in params],
        "state": [freeze(dict(optimizer.state[p])) if p in optimizer.state else None for p in params],
        "stray": len(optimizer.state) - sum(p in optimizer.state for p in params),
        "groups": [{k: freeze(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "members": [[id(p) for p in g["params"]] for g in optimizer.param_groups],
    }


def values(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A snapshot without the gradients and identities, to compare two optimizers."""
    return {k: v for k, v in snapshot(optimizer).items() if k in ("params", "state", "groups")}


def assert_close(left: Iterable[Tensor], right: Iterable[Tensor], **tolerance: float) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), **tolerance)
