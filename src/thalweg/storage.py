"""State tensors: how they are created, handed to the engines, checked and restored from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from thalweg.codecs import COMPENSATION, SCALE, Blockwise, Codec, Layout, choose, fits
from thalweg.engine.work import Rule, Work
from thalweg.recipe import Recipe
from thalweg.slots.base import State

if TYPE_CHECKING:
    from thalweg.optimizer import Optimizer


def as_step(value: Any) -> Tensor:
    """A step count as torch keeps it, a 0-d tensor on the host; float64, so that it never stops counting."""
    return torch.tensor(float(value), dtype=torch.float64)


def state_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's state: float32 for half precision, else the parameter's own."""
    if param.dtype in (torch.bfloat16, torch.float16):
        return torch.float32
    return param.dtype


def real_shape(param: Tensor) -> tuple[int, ...]:
    """The shape the formulas see: complex tensors are real pairs."""
    return (*param.shape, 2) if param.is_complex() else param.shape


def new(param: Tensor, spec: State, h: Mapping[str, Any]) -> Tensor:
    """A fresh state tensor; like the parameter in device, layout and placement unless ``spec`` gives a shape."""
    dtype = state_dtype(param)
    if spec.fill == "param":
        return param.detach().to(dtype, copy=True)
    fill = float(h.get(spec.fill, 0.0)) if isinstance(spec.fill, str) else spec.fill
    if spec.shape is not None:
        return torch.full(spec.shape, fill, dtype=spec.dtype or dtype.to_real(), device=param.device)
    return torch.full_like(param, complex(fill, fill) if param.is_complex() else fill, dtype=dtype)


@cache
def layout(recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype, choice: str, rounding: str) -> Layout:
    """How the state of a parameter is stored, with ``state=choice`` and ``rounding``.

    Coded is what is like the parameter and starts with a number, of tensors that are large enough and not of double
    precision. What is a copy of weights stays as it is, and so do sums over rows or columns, which are small.
    """
    roles: list[str] = []
    codecs: list[tuple[str, Codec]] = []
    for role, spec in recipe.state(shape).items():
        roles.append(role)
        codec = choose(choice, shape, dtype, spec.signed) if spec.shape is None and spec.fill != "param" else None
        if codec is not None:
            codecs.append((role, codec))
            roles += [role + part for part in codec.tensors[1:]]
    if dtype != torch.bfloat16:
        rounding = "nearest"
    if rounding == "kahan":
        roles.append(COMPENSATION)
    return Layout(tuple(roles), tuple(codecs), rounding)


def tensors(state: dict[str, Any], param: Tensor, recipe: Recipe, kept: Layout, h: Mapping[str, Any]) -> list[Tensor]:
    """The parameter's state as ``kept`` lays it out.

    What is missing is made: all of it at the first step; later, what a changed option asks for.
    """
    if "step" not in state:
        state["step"] = as_step(0)
    for key, start in recipe.numbers.items():
        if key not in state:
            state[key] = torch.tensor(start, dtype=torch.float64)
    try:
        return [state[role] for role in kept.roles]
    except KeyError:
        pass
    for role, spec in recipe.state(real_shape(param)).items():
        codec = kept.codec(role)
        if role not in state and isinstance(codec, Blockwise):  # all blocks are alike, and one is soon encoded
            one = codec.store(new(param.detach().new_empty(codec.block), spec, h))
            blocks = param.numel() // codec.block
            state[role], state[role + SCALE] = (part.repeat(blocks, 1) for part in one)
        elif role not in state:
            put(state, role, new(param, spec, h), kept)
    if COMPENSATION in kept.roles:
        state.setdefault(COMPENSATION, torch.zeros_like(param))
    return [state[role] for role in kept.roles]


def sizes(param: Tensor, recipe: Recipe, kept: Layout) -> dict[str, int]:
    """Bytes of every tensor that is stored for a parameter, by role; they need not exist yet."""
    found: dict[str, int] = {}
    for role, spec in recipe.state(real_shape(param)).items():
        codec = kept.codec(role)
        if isinstance(codec, Blockwise):
            codes, scales = codec.shapes(param.numel())
            found |= {role: math.prod(codes), role + SCALE: 4 * math.prod(scales)}
        else:
            dtype = state_dtype(param) if spec.shape is None else spec.dtype or state_dtype(param).to_real()
            item = 2 if codec is not None else dtype.itemsize
            found[role] = item * (param.numel() if spec.shape is None else math.prod(spec.shape))
    return {**found, COMPENSATION: 2 * param.numel()} if COMPENSATION in kept.roles else found


def put(state: dict[str, Any], role: str, value: Tensor, kept: Layout) -> None:
    """Store a state tensor as ``kept`` says."""
    codec = kept.codec(role)
    if isinstance(codec, Blockwise):
        state[role], state[role + SCALE] = codec.store(value)
    else:
        state[role] = value if codec is None else value.to(torch.bfloat16)


def plain(state: Mapping[str, Any], role: str, spec: State, param: Tensor) -> Tensor:
    """A state tensor as numbers, however it is stored."""
    codes = state[role]
    scale = state.get(role + SCALE)
    if scale is None:
        return codes.to(spec.dtype or state_dtype(param)) if codes.is_floating_point() else codes
    block = param.numel() // codes.shape[0]
    codec = Blockwise(8 * codes.shape[1] // block, spec.signed, block)
    return codec.decode(codes, scale).reshape(param.shape)


def recode(state: dict[str, Any], param: Tensor, recipe: Recipe, kept: Layout) -> None:
    """Store a parameter's state in another way than so far."""
    for role, spec in recipe.state(real_shape(param)).items():
        if role in state:
            value = plain(state, role, spec, param)
            state.pop(role + SCALE, None)
            put(state, role, value, kept)


def any_gradient(param: Tensor) -> bool:
    """Whether any entry of the parameter's gradient is not zero."""
    assert param.grad is not None
    grad = param.grad
    return bool((grad if grad.layout == torch.strided else grad.coalesce().values()).any())


def is_sharded(param: Tensor) -> bool:
    """Whether this process holds a part of the parameter (a ``DTensor``, as ``fully_shard`` makes)."""
    return type(param) is not Parameter and hasattr(param, "to_local")


def _parts(param: Any, grad: Any, tensors: list[Any]) -> tuple[Tensor, Tensor, list[Tensor]]:
    if grad.placements != param.placements:
        grad = grad.redistribute(placements=param.placements)
    return param.to_local(), grad.to_local(), [t.to_local() for t in tensors]


def work(param: Tensor, tensors: list[Tensor], kept: Layout, rule: Rule, seed: Any) -> Work:
    """The parameter's step as the engines take it; complex tensors as real pairs."""
    grad = param.grad
    assert grad is not None
    return _real_work(param, grad, tensors, kept, rule, id(param), seed)


def _real_work(
    param: Tensor, grad: Tensor, tensors: list[Tensor], kept: Layout, rule: Rule, owner: int, seed: Any
) -> Work:
    if is_sharded(param):
        param, grad, tensors = _parts(param, grad, tensors)
    if param.is_complex():
        real = torch.view_as_real
        tensors = [real(s) if s.is_complex() else s for s in tensors]
        param, grad = real(param.detach()), real(grad.detach())
    return Work(param, grad, tensors, kept, rule, owner, seed)


class Rows:
    """What a sparse gradient names of a parameter and its state, copied out as a work; ``put`` writes it back.

    Duplicate indices are added up first. Indices may reach into any number of leading axes.
    """

    def __init__(self, param: Tensor, tensors: list[Tensor], kept: Layout, rule: Rule, seed: int | None) -> None:
        assert param.grad is not None
        grad = param.grad.coalesce()
        self.at = tuple(grad.indices())
        self.whole = [param.detach(), *tensors]
        self.parts = [t[self.at] for t in self.whole]
        self.work = _real_work(self.parts[0], grad.values(), self.parts[1:], kept, rule, id(param), seed)

    def put(self) -> None:
        for whole, part in zip(self.whole, self.parts, strict=True):
            whole[self.at] = part


class Loading:
    """Checks a checkpoint before torch loads it, and afterwards restores what torch's casts would have damaged."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.incoming: dict[str, Any] = {}

    def check(self, optimizer: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Pre-hook: raise a ValueError at the first misfit; fill what torch's own checkpoints do not have."""
        for key in ("state", "param_groups"):
            if key not in state_dict:
                raise ValueError(
                    f"not an optimizer's state_dict: it has no {key!r}, but {sorted(map(str, state_dict))}"
                )
        ours = self.optimizer.param_groups
        theirs = state_dict["param_groups"]
        if len(ours) != len(theirs):
            raise ValueError(f"checkpoint has {len(theirs)} parameter groups, this optimizer has {len(ours)}")
        filled = []
        for i, (group, saved) in enumerate(zip(ours, theirs, strict=True)):
            if len(group["params"]) != len(saved["params"]):
                raise ValueError(
                    f"group {i}: the checkpoint has {len(saved['params'])} parameters, not {len(group['params'])}"
                )
            merged = {**{k: v for k, v in group.items() if k not in ("params", "param_names")}, **saved}
            recipe = self.optimizer.recipe_of({**merged, "recipe": group["recipe"]})
            if saved.get("recipe") not in (None, recipe.spec):
                raise ValueError(
                    f"group {i}: the checkpoint's recipe is not this optimizer's.\n"
                    f"  checkpoint: {saved['recipe']}\n  optimizer:  {recipe.spec}"
                )
            merged |= {"recipe": recipe.spec, "state": group["state"], "_stored": group["state"]}
            for p, index in zip(group["params"], saved["params"], strict=True):
                self._check_state(i, p, recipe, state_dict["state"].get(index), torchs="recipe" not in saved)
            filled.append(merged)
        stray = state_dict["state"].keys() - {i for g in theirs for i in g["params"]}
        if stray:
            raise ValueError(f"the checkpoint has state of {sorted(map(str, stray))}, which no group of it lists")
        self.incoming = {**state_dict, "param_groups": filled}
        return self.incoming

    @staticmethod
    def _check_state(i: int, param: Tensor, recipe: Recipe, saved: Mapping[str, Any] | None, torchs: bool) -> None:
        present = {k: v for k, v in (saved or {}).items() if v is not None}
        if not present:
            return
        expected = recipe.state(real_shape(param))
        counts = {} if torchs else {"step": 1, **recipe.numbers}  # torch.optim keeps no step for SGD
        stored = {role + SCALE for role, spec in expected.items() if spec.shape is None} | {COMPENSATION}
        extra = present.keys() - expected.keys() - recipe.numbers.keys() - {"step"} - stored
        missing = (expected.keys() | counts.keys()) - present.keys()
        where = f"group {i}, parameter of shape {tuple(param.shape)}"
        if extra or missing:
            raise ValueError(
                f"{where}: the checkpoint's state does not fit: missing {sorted(missing)}, unexpected {sorted(extra)};"
                f" this recipe keeps {sorted(expected)}"
            )
        for key in {"step", *recipe.numbers} & present.keys():
            value = present[key]
            if not isinstance(value, (int, float)) and not (isinstance(value, Tensor) and value.numel() == 1):
                raise ValueError(f"{where}: state {key!r} must be a number, the checkpoint has {value!r}")
        for role, spec in expected.items():
            if not isinstance(present[role], Tensor):
                raise ValueError(f"{where}: state {role!r} must be a tensor, the checkpoint has {present[role]!r}")
            shape = tuple(param.shape) if spec.shape is None else spec.shape
            found = tuple(present[role].shape)
            scale = present.get(role + SCALE)
            if scale is not None:
                if not fits(found, tuple(scale.shape), param.numel()):
                    raise ValueError(
                        f"{where}: state {role!r} holds codes of shape {found} and scales of shape"
                        f" {tuple(scale.shape)}, which are not those of {param.numel()} numbers in blocks"
                    )
            elif found != shape:
                raise ValueError(f"{where}: state {role!r} has shape {found}, expected {shape}")

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Post-hook: state in the library's dtypes and the parameter's layout, in memory of its own."""
        saved_groups = self.incoming["param_groups"]
        for group, saved in zip(self.optimizer.param_groups, saved_groups, strict=True):
            recipe = self.optimizer.recipe_of(group)
            for p, index in zip(group["params"], saved["params"], strict=True):
                values = self.incoming["state"].get(index)
                if not values:
                    continue
                state = self.optimizer.state[p]
                state["step"] = as_step(values.get("step", 1))
                for key, start in recipe.numbers.items():
                    state[key] = torch.tensor(float(values.get(key, start)), dtype=torch.float64)
                kept = self.optimizer.layout_of(p, group)
                for role, spec in recipe.state(real_shape(p)).items():
                    codec = kept.codec(role)
                    codes, scale = values[role], values.get(role + SCALE)
                    state.pop(role + SCALE, None)
                    if isinstance(codec, Blockwise) and scale is not None and codes.shape == codec.shapes(p.numel())[0]:
                        state[role], state[role + SCALE] = (
                            codes.to(p.device, copy=True),
                            scale.to(p.device, copy=True),
                        )
                        continue
                    fresh = new(p, State(shape=spec.shape, dtype=spec.dtype), {})
                    put(state, role, fresh.copy_(plain(values, role, spec, p)), kept)
                if COMPENSATION in kept.roles:
                    rest = values.get(COMPENSATION)
                    state[COMPENSATION] = torch.zeros_like(p) if rest is None else torch.empty_like(p).copy_(rest)
