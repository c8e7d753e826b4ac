"""State tensors: how they are created, handed to the engines, checked and restored from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from thalweg.codecs import COMPENSATION, SCALE, Blockwise, Codec, Layout, choose, fits
from thalweg.engine.work import Rule, Work
from thalweg.recipe import Recipe
from thalweg.rounding import SEEDS
from thalweg.sharding import Shard, is_sharded, local, placed_like
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


def shard_of(param: Any) -> Shard | None:
    """What of a parameter this process holds; None for all of it."""
    return Shard(param.device_mesh, param.placements, real_shape(param)) if is_sharded(param) else None


def new(param: Tensor, spec: State, h: Mapping[str, Any]) -> Tensor:
    """A fresh state tensor; like the parameter in device, layout and placement unless ``spec`` gives a shape.

    Of one with the parameter's axes each process holds what belongs to its part, of another all.
    """
    dtype = state_dtype(param)
    if spec.fill == "param":
        return param.detach().to(dtype, copy=True)
    fill = float(h.get(spec.fill, 0.0)) if isinstance(spec.fill, str) else spec.fill
    if spec.shape is not None:
        made = partial(torch.full, fill_value=fill, dtype=spec.dtype or dtype.to_real(), device=param.device)
        shard = shard_of(param)
        if shard is None:
            return made(spec.shape)
        axes = spec.axes or (None,) * len(spec.shape)
        here = real_shape(local(param))
        sizes = (n if axis is None else here[axis] for axis, n in zip(axes, spec.shape, strict=True))
        return shard.joined(made(tuple(sizes)), axes)
    return torch.full_like(param, complex(fill, fill) if param.is_complex() else fill, dtype=dtype)


def layout(recipe: Recipe, param: Tensor, choice: str, rounding: str) -> Layout:
    """How the state of a parameter is stored, with ``state=choice`` and ``rounding``.

    Coded is what is like the parameter and starts with a number, of tensors that are large enough and not of double
    precision. What is a copy of weights stays as it is, and so do sums over rows or columns, which are small. Where a
    process holds a part that is not some of the rows, no blocks of codes are kept.
    """
    shard = shard_of(param)
    apart = shard is not None and bool(shard.axes) and (shard.axes != (0,) or param.ndim < 2)
    return _layout(recipe, real_shape(param), param.dtype, choice, rounding, apart)


@cache
def _layout(
    recipe: Recipe, shape: tuple[int, ...], dtype: torch.dtype, choice: str, rounding: str, apart: bool
) -> Layout:
    roles: list[str] = []
    codecs: list[tuple[str, Codec]] = []
    for role, spec in recipe.state(shape).items():
        roles.append(role)
        codec = choose(choice, shape, dtype, spec.signed) if spec.shape is None and spec.fill != "param" else None
        if codec is not None and not (apart and isinstance(codec, Blockwise)):
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
            here = local(param)
            one = codec.store(new(here.detach().new_empty(codec.block), spec, h))
            blocks = here.numel() // codec.block
            state[role], state[role + SCALE] = (_by_row(param, part.repeat(blocks, 1), codec.block) for part in one)
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
        state[role], state[role + SCALE] = (_by_row(value, part, codec.block) for part in codec.store(local(value)))
    else:
        state[role] = value if codec is None else value.to(torch.bfloat16)


def plain(state: Mapping[str, Any], role: str, spec: State, param: Tensor) -> Tensor:
    """A state tensor as numbers, however it is stored."""
    codes = state[role]
    scale = state.get(role + SCALE)
    if scale is None:
        return codes.to(spec.dtype or state_dtype(param)) if codes.is_floating_point() else codes
    block = param.numel() // codes.shape[:-1].numel()
    codec = Blockwise(8 * codes.shape[-1] // block, spec.signed, block)
    if not is_sharded(codes):
        return codec.decode(_flat(codes), _flat(scale)).reshape(param.shape)
    value = codec.decode(_flat(local(codes)), _flat(local(scale))).reshape(local(param).shape)
    shard = shard_of(param)
    assert shard is not None
    return shard.joined(value, tuple(range(param.ndim)))


def _flat(codes: Tensor) -> Tensor:
    """Codes or scales as engines take them, block after block."""
    return codes.reshape(-1, codes.shape[-1])


#: The axes of the parameter that codes and scales of a part have: rows, then blocks and what is stored of each.
_BY_ROW = (0, None, None)


def _by_row(like: Tensor, stored: Tensor, block: int) -> Tensor:
    """The codes or scales of what this process holds of a tensor; of a part by row, as its rows are shared out."""
    shard = shard_of(like)
    if shard is None:
        return stored
    blocks = like.shape[1:].numel() // block
    return shard.joined(stored.view(-1 if len(stored) else 0, blocks, stored.shape[-1]), _BY_ROW)


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


def work(
    param: Tensor, grad: Tensor, tensors: list[Tensor], kept: Layout, rule: Rule, owner: Tensor, seed: Any
) -> Work:
    """The step of a parameter, or of rows of the ``owner``, as the engines take it; complex tensors as real pairs."""
    shard = shard_of(param)
    if shard is not None:
        if grad.placements != shard.placements:  # type: ignore[attr-defined]
            grad = grad.redistribute(placements=shard.placements)  # type: ignore[attr-defined]
        coded = {role + part for role, codec in kept.blockwise for part in codec.tensors}
        parts = zip(kept.roles, map(local, tensors), strict=True)
        tensors = [_flat(t) if role in coded else t for role, t in parts]
        param, grad = local(param), local(grad)
        seed = None if seed is None else (seed + shard.index * 0x9E3779) % SEEDS  # parts are rounded in their own ways
        if rule.recipe.scope == "element" and not rule.recipe.couples:
            shard = None
    if param.is_complex():
        real = torch.view_as_real
        tensors = [real(s) if s.is_complex() else s for s in tensors]
        param, grad = real(param.detach()), real(grad.detach())
    return Work(param, grad, tensors, kept, rule, id(owner), seed, shard)


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
        self.work = work(self.parts[0], grad.values(), self.parts[1:], kept, rule, param, seed)

    def put(self) -> None:
        for whole, part in zip(self.whole, self.parts, strict=True):
            whole[self.at] = part


def _stored(codes: Tensor) -> tuple[int, ...]:
    """The shape of codes or scales, block after block."""
    return (codes.shape[:-1].numel(), codes.shape[-1])


def _placed(codes: Any, param: Tensor) -> Tensor:
    """Codes or scales of a checkpoint in memory of the parameter's, shared out as it is."""
    if is_sharded(codes):
        codes = codes.full_tensor()
    shard = shard_of(param)
    if shard is None:
        return _flat(codes).to(param.device, copy=True)
    rows = codes.to(param.device).reshape(len(param), -1, codes.shape[-1])
    return shard.joined(shard.own(rows, _BY_ROW).clone(), _BY_ROW)


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
                if not fits(_stored(present[role]), _stored(scale), param.numel()):
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
                if not is_sharded(p):
                    values = {k: v.full_tensor() if is_sharded(v) else v for k, v in values.items()}
                state = self.optimizer.state[p]
                state["step"] = as_step(values.get("step", 1))
                for key, start in recipe.numbers.items():
                    state[key] = torch.tensor(float(values.get(key, start)), dtype=torch.float64)
                kept = self.optimizer.layout_of(p, group)
                for role, spec in recipe.state(real_shape(p)).items():
                    codec = kept.codec(role)
                    codes, scale = values[role], values.get(role + SCALE)
                    state.pop(role + SCALE, None)
                    same = isinstance(codec, Blockwise) and _stored(codes) == codec.shapes(p.numel())[0]
                    if same and scale is not None:
                        state[role], state[role + SCALE] = (_placed(part, p) for part in (codes, scale))
                        continue
                    fresh = new(p, State(shape=spec.shape, dtype=spec.dtype, axes=spec.axes), {})
                    put(state, role, fresh.copy_(placed_like(fresh, plain(values, role, spec, p))), kept)
                if COMPENSATION in kept.roles:
                    rest = values.get(COMPENSATION)
                    state[COMPENSATION] = (
                        torch.zeros_like(p) if rest is None else torch.empty_like(p).copy_(placed_like(p, rest))
                    )
