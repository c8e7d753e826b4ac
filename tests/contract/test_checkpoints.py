"""Checkpoints: reloads, refusals, torch's own files, the tools' rehearsal (contract 5, 20 to 24, 6.2 to 6.5)."""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import thalweg
from contract.common import (
    CASES,
    Case,
    assert_close,
    bits,
    case,
    clones,
    make_params,
    members,
    routed,
    set_grads,
    signature,
    snapshot,
    train,
    values,
)
from thalweg import Optimizer
from thalweg.recipes import ADAMW, LION, MUON

State = dict[str, Any]


def through_file(state_dict: State) -> State:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_reload_continues_bit_for_bit(case: Case, dtype: torch.dtype, steps: int) -> None:
    """Contract 5, 22, 6.2, 6.5: through a ``weights_only`` file into a fresh optimizer, dtypes and bits survive."""
    if dtype.is_complex and case.id.startswith("adafactor"):
        pytest.skip("complex parameters of Adafactor: test_complex_parameters_are_real_pairs")
    params = make_params(dtype=dtype)
    optimizer = case.build(params)
    train(optimizer, params, steps)
    twins = clones(params)
    fresh = case.build(twins)
    fresh.load_state_dict(through_file(optimizer.state_dict()))
    assert values(fresh) == values(optimizer)
    assert repr(fresh) == repr(optimizer)
    for own, opt in ((params, optimizer), (twins, fresh)):
        train(opt, own, 4, start=steps + 1)
    assert values(fresh) == values(optimizer)


def test_numpy_numbers_do_not_reach_the_file(named: Case) -> None:
    """Contract 5: options given as numpy scalars are saved as what ``weights_only`` loading can read."""
    defaults = signature(named.id)
    numbers = {k: np.float64(v) for k, v in defaults.items() if isinstance(v, float)}
    if isinstance(defaults.get("betas"), tuple):
        numbers["betas"] = tuple(np.float64(b) for b in defaults["betas"])
    numbers = {k: v for k, v in numbers.items() if v or k == "lr"}
    optimizer = thalweg.get(named.id).cls(make_params(), engine="foreach", **numbers)
    train(optimizer, members(optimizer), 1)
    loaded = through_file(optimizer.state_dict())
    assert loaded["param_groups"] == optimizer.state_dict()["param_groups"]
    plain = {k: tuple(map(float, v)) if isinstance(v, tuple) else float(v) for k, v in numbers.items()}
    same = thalweg.get(named.id).cls(make_params(), engine="foreach", **plain)
    assert [g["recipe"] for g in optimizer.param_groups] == [g["recipe"] for g in same.param_groups]


def test_loading_what_was_just_saved_changes_nothing(case: Case) -> None:
    """Contract 24: accelerate's ``load_state_dict(state_dict())``, on a fresh and on a running optimizer."""
    params, others = make_params(), make_params()
    optimizer, plain = case.build(params), case.build(others)
    for t in (1, 2):
        before = snapshot(optimizer)
        optimizer.load_state_dict(optimizer.state_dict())
        assert snapshot(optimizer) == before
        train(optimizer, params, 2, start=2 * t - 1)
        train(plain, others, 2, start=2 * t - 1)
    assert values(optimizer) == values(plain)


def test_loaded_optimizers_share_no_memory(case: Case) -> None:
    """Section 6.4: two optimizers loaded from one dict go their own ways, and the dict stays as it was."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    frozen = copy.deepcopy(saved)
    loaded = []
    for start in (3, 9):
        twins = clones(params)
        fresh = case.build(twins)
        fresh.load_state_dict(saved)
        train(fresh, twins, 2, start=start)
        loaded.append(fresh)
    pointers = [[v.data_ptr() for s in opt.state.values() for v in s.values()] for opt in loaded]
    assert not set(pointers[0]) & set(pointers[1])
    assert values(loaded[0])["params"] != values(loaded[1])["params"]
    assert repr(saved) == repr(frozen)
    twins = clones(params)
    alone = case.build(twins)
    alone.load_state_dict(frozen)
    train(alone, twins, 2, start=3)
    assert values(alone) == values(loaded[0])


def test_a_running_optimizer_takes_the_checkpoint_whole(case: Case) -> None:
    """Section 6.2: loading over other state leaves nothing of it."""
    params, others = make_params(), make_params()
    optimizer, other = case.build(params), case.build(others)
    train(optimizer, params, 3)
    train(other, others, 7)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p.data)
    other.load_state_dict(optimizer.state_dict())
    assert values(other) == values(optimizer)
    for own, opt in ((params, optimizer), (others, other)):
        train(opt, own, 2, start=4)
    assert values(other) == values(optimizer)


def test_parameters_without_state_reload(case: Case) -> None:
    """Contract 13 and 22: a parameter that never had a gradient has no state before or after."""
    params = make_params()
    optimizer = case.build(params)
    set_grads(params[1:3], 1)
    optimizer.step(loss=1.0)
    fresh = case.build(clones(params))
    fresh.load_state_dict(through_file(optimizer.state_dict()))
    assert values(fresh)["state"] == values(optimizer)["state"]
    for opt in (optimizer, fresh):
        train(opt, members(opt), 2)
    assert values(fresh) == values(optimizer)


def test_names_may_come_and_go(named: Case) -> None:
    """Contract 1: a checkpoint of named parameters loads into an unnamed optimizer, and the other way round."""
    params, twins = make_params(), make_params()
    with_names = named.build([(f"layer.{i}", p) for i, p in enumerate(params)])
    without = named.build(twins)
    train(with_names, params, 2)
    without.load_state_dict(with_names.state_dict())
    with_names.load_state_dict(without.state_dict())
    names = [n for g in with_names.param_groups for n in g["param_names"]]
    assert sorted(names) == [f"layer.{i}" for i in range(len(params))]
    train(with_names, params, 1, start=3)


# ---- refusals


def donor(case: Case) -> Optimizer:
    """A running optimizer of two groups at least, every parameter with state."""
    params = make_params()
    groups: Any = params if case.id == "routed" else [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = case.build(groups)
    train(optimizer, params, 2)
    return optimizer


def last(state_dict: State) -> State:
    return state_dict["state"][max(state_dict["state"])]


def roles(state_dict: State) -> list[str]:
    return [k for k in last(state_dict) if k not in ("step", "mu_product")]


def _drop(key: str) -> Callable[[State], None]:
    return lambda saved: last(saved).pop(key)


def _drop_group(saved: State) -> None:
    saved["param_groups"].pop()


def _drop_param(saved: State) -> None:
    saved["param_groups"][-1]["params"].pop()


def _extra_key(saved: State) -> None:
    last(saved)["exp_inf"] = torch.zeros(3)


def _stray(saved: State) -> None:
    saved["state"][99] = copy.deepcopy(last(saved))


def _recipe(saved: State) -> None:
    group = saved["param_groups"][-1]
    group["recipe"] = (LION if "Interpolate" not in group["recipe"] else ADAMW).spec


def _reshape(saved: State) -> None:
    key = roles(saved)[-1]
    last(saved)[key] = torch.zeros(7, 5)


def _no_tensor(saved: State) -> None:
    last(saved)[roles(saved)[-1]] = 0.5


def _text(saved: State) -> None:
    last(saved)["step"] = "three"


MISFITS: dict[str, tuple[Callable[[State], Any], str]] = {
    "recipe": (_recipe, "recipe"),
    "group count": (_drop_group, "groups"),
    "parameter count": (_drop_param, "group .*parameters"),
    "shape": (_reshape, r"group .*shape \(7, 5\)"),
    "missing step": (_drop("step"), "step"),
    "extra state": (_extra_key, "exp_inf"),
    "state of no parameter": (_stray, "99"),
    "state that is no tensor": (_no_tensor, "group .*tensor"),
    "step that is no number": (_text, "step"),
    "no groups": (lambda saved: saved.pop("param_groups"), "param_groups"),
    "no state": (lambda saved: saved.pop("state"), "state"),
}


def assert_refused(optimizer: Optimizer, saved: State, message: str) -> None:
    before = snapshot(optimizer)
    frozen = repr(saved)
    with pytest.raises((ValueError, KeyError), match=f"(?s){message}"):
        optimizer.load_state_dict(saved)
    assert snapshot(optimizer) == before
    assert repr(saved) == frozen


@pytest.mark.parametrize("what", MISFITS)
@pytest.mark.parametrize("steps", [0, 3], ids=["into fresh", "into running"])
def test_misfit_is_refused(case: Case, what: str, steps: int) -> None:
    """Section 6.3: the last parameter of the last group is checked like the first; nothing changes, all still works."""
    source = donor(case)
    saved = copy.deepcopy(source.state_dict())
    spoil, message = MISFITS[what]
    if what in ("shape", "state that is no tensor") and not roles(saved):
        pytest.skip(f"{case.id} keeps no state tensors")
    good = copy.deepcopy(saved)
    spoil(saved)
    if saved.get("state") and not last(saved):
        pytest.skip(f"{case.id} keeps nothing but the step: without it there is no state at all")
    params = make_params()
    target = case.build(params if case.id == "routed" else [{"params": params[:2]}, {"params": params[2:]}])
    train(target, params, steps)
    assert_refused(target, saved, message)
    train(target, params, 1, start=steps + 1)
    target.load_state_dict(good)  # the refusal left no hook behind
    assert values(target)["state"] == values(source)["state"]


def test_missing_state_is_refused(case: Case) -> None:
    """Section 6.3: each kind of state is missed by its name, numbers like NAdam's product included."""
    source = donor(case)
    for key in [k for k in last(source.state_dict()) if k != "step"]:
        saved = copy.deepcopy(source.state_dict())
        last(saved).pop(key)
        target = case.build(make_params() if case.id == "routed" else halves(make_params()))
        assert_refused(target, saved, key)


def halves(params: list[Any]) -> list[dict[str, Any]]:
    return [{"params": params[:2]}, {"params": params[2:]}]


@pytest.mark.parametrize("other", ["adamw", "lion", "muon", "adafactor", "schedulefree_sgd", "adamw+lookahead", "sgd"])
def test_checkpoint_of_another_optimizer(case: Case, other: str) -> None:
    """Section 6.3: a file of another method is refused with both recipes in the message."""
    source = next(c for c in CASES if c.id == other).build(make_params())
    train(source, members(source), 2)
    target = case.build(make_params())
    saved = copy.deepcopy(source.state_dict())
    recipes = [[g["recipe"] for g in opt.param_groups] for opt in (source, target)]
    # The same recipes fit whatever the class; of the same class, the file's options are taken over, as in torch.
    if recipes[0] == recipes[1] or (
        type(source) is type(target) and (source.outer, source.techniques) == (target.outer, target.techniques)
    ):
        target.load_state_dict(saved)
        assert values(target)["state"] == values(source)["state"]
        return
    assert_refused(target, saved, "recipe|groups|state|parameters")


def test_misfit_in_the_second_group_of_routed_recipes() -> None:
    """Section 6.3: the message names the group and shows both recipes."""
    matrices, rest = make_params(((4, 3), (2, 3, 2))), make_params(((3,), ()))
    groups = [{"params": matrices, "recipe": MUON}, {"params": rest, "recipe": LION}]
    swapped = Optimizer(groups, engine="foreach")
    train(swapped, members(swapped), 1)
    assert_refused(routed(make_params()), swapped.state_dict(), "group 1.*Interpolate.*OverSqrt")


TORCH: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}),
    "radam": (torch.optim.RAdam, {"lr": 0.01}),
}


def _step(optimizer: Any, params: Iterable[Tensor], steps: range) -> None:
    params = list(params)
    for t in steps:
        set_grads(params, t)
        optimizer.step()


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_checkpoints_of_torch_load_both_ways(name: str, direction: str) -> None:
    """Contract 22 and design 6: state names are torch's, so torch.optim's files continue here, and ours there."""
    theirs, options = TORCH[name]
    ours = thalweg.get(name).cls
    makers: list[Callable[..., Any]] = [theirs, lambda p, **kw: ours(p, engine="foreach", **kw)]
    if direction == "to torch":
        makers.reverse()
    params = make_params()
    first = makers[0](params, **options)
    _step(first, params, range(1, 5))
    twins = clones(params)
    second = makers[1](twins, **options)
    second.load_state_dict(through_file(first.state_dict()))
    _step(first, params, range(5, 9))
    _step(second, twins, range(5, 9))
    assert_close(twins, params)


# ---- the rehearsal of checkpoint tools


def rehearse(optimizer: Optimizer) -> None:
    """The step that torch.distributed.checkpoint and torchtitan take on a fresh optimizer to make its state appear."""
    lrs = [group["lr"] for group in optimizer.param_groups]
    for p in members(optimizer):
        p.grad = torch.zeros_like(p)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0) if isinstance(group["lr"], Tensor) else 0.0
    optimizer.step(closure=None)
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["lr", "tensor lr"])
def test_rehearsal_is_a_no_op(case: Case, tensor_lr: bool) -> None:
    """Contract 23 and 6.1: parameters keep their bits, all state appears at step 0, 30 later steps are the same."""
    params, others = make_params(), make_params()
    options = {"lr": torch.tensor(0.25)} if tensor_lr and case.id != "adafactor" else {}
    optimizer, plain = case.build(params, **options), case.build(others, **options)
    before = values(optimizer)
    rehearse(optimizer)
    after = values(optimizer)
    assert after["params"] == before["params"]
    assert after["groups"] == before["groups"]
    assert all(optimizer.state[p]["step"] == 0 for p in params)
    assert all(v.isfinite().all() for s in optimizer.state.values() for v in s.values())
    keys = [set(optimizer.state[p]) for p in params]
    train(optimizer, params, 30)
    train(plain, others, 30)
    assert [set(plain.state[p]) for p in others] == keys
    assert values(optimizer) == values(plain)


def test_rehearsed_state_is_what_a_checkpoint_fills(case: Case) -> None:
    """Contract 23: rehearse, load, continue, as DCP does it; and a second rehearsal of running state is a real step."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 3)
    twins = clones(params)
    target = case.build(twins)
    rehearse(target)
    target.load_state_dict(through_file(optimizer.state_dict()))
    assert values(target) == values(optimizer)
    for own, opt in ((params, optimizer), (twins, target)):
        train(opt, own, 3, start=4)
    assert values(target) == values(optimizer)


@pytest.mark.parametrize("id", [c.id for c in CASES if "schedulefree" in c.id])
def test_rehearsal_in_eval_mode(id: str) -> None:
    """Contract 23 and section 6.6: a fresh optimizer in eval mode can be inspected and restored as well."""
    params = make_params()
    optimizer = case(id).build(params)
    optimizer.eval()
    before = values(optimizer)["params"]
    rehearse(optimizer)
    assert values(optimizer)["params"] == before
    assert all(optimizer.state[p]["step"] == 0 for p in params)


def test_only_the_empty_step_is_a_rehearsal() -> None:
    """Section 6.1: one gradient that is not zero, or a rate that is not, makes it a step that counts."""
    for lr, spoil in ((0.0, True), (0.1, False)):
        params = make_params()
        optimizer = thalweg.AdamW(params, lr=lr, engine="foreach")
        for p in params:
            p.grad = torch.zeros_like(p)
        if spoil:
            params[-1].grad.fill_(1e-30)
        optimizer.step()
        assert all(optimizer.state[p]["step"] == 1 for p in params)
    running = make_params()
    optimizer = thalweg.AdamW(running, lr=0.0, engine="foreach")
    train(optimizer, running, 1)
    for p in running:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(optimizer.state[p]["step"] == 2 for p in running)


def test_zero_gradients_at_the_first_real_steps_stay_finite(case: Case) -> None:
    """Contract 23: a gradient of zero divides nothing by zero, in parameters or state."""
    params = make_params()
    optimizer = case.build(params)
    for p in params:
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        optimizer.step(loss=1.0)
    assert all(p.isfinite().all() for p in params)
    assert all(v.isfinite().all() for s in optimizer.state.values() for v in s.values())
    train(optimizer, params, 3)
    assert all(p.isfinite().all() for p in params)


# ---- half precision


def test_bfloat16_parameters_move_at_small_rates() -> None:
    """Section 6.9: at lr 1e-4 and 200 steps bfloat16 parameters move as in float32 with rounding, else one warning."""
    moved, warned = {}, {}
    for rounding in ("nearest", "stochastic"):
        (half,) = make_params(((4096,),), torch.bfloat16)
        start = half.detach().float().clone()
        optimizer = thalweg.AdamW([half], lr=1e-4, weight_decay=0.0, engine="foreach", rounding=rounding)
        half.grad = torch.ones_like(half)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(200):
                optimizer.step()
        moved[rounding] = (half.detach().float() - start).mean().item()
        warned[rounding] = [str(w.message) for w in caught]
    assert math.isclose(moved["stochastic"], -0.02, rel_tol=0.1)
    assert abs(moved["nearest"]) < 0.01
    assert warned["stochastic"] == []
    assert len(warned["nearest"]) == 1
    assert "rounding='stochastic'" in warned["nearest"][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_state_of_half_precision_is_not_rounded_by_a_reload(case: Case, dtype: torch.dtype) -> None:
    """Contract 22: torch would cast every float32 moment to the parameter's dtype; the bits must stay."""
    params = make_params(dtype=dtype)
    optimizer = case.build(params)
    train(optimizer, params, 3)
    held = {k: v for p in params for k, v in optimizer.state[p].items() if k != "step"}
    state = [[bits(v) for v in optimizer.state[p].values()] for p in params]
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
    assert [[bits(v) for v in optimizer.state[p].values()] for p in params] == state
    if any(v.dtype == torch.float32 and v.ndim for v in held.values()):
        exact = [v for p in params for v in optimizer.state[p].values() if v.dtype == torch.float32]
        assert any(not torch.equal(v, v.to(dtype).float()) for v in exact)
