"""What torch and the frameworks do to an optimizer (contract 2, 4, 11, 14, 15, 19, 20, 23 and section 5)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import AveragedModel

import thalweg
from contract.common import (
    AVERAGED,
    Case,
    assert_close,
    bits,
    clones,
    make_params,
    members,
    remembers,
    set_grads,
    snapshot,
    train,
    values,
)

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda opt: schedules.StepLR(opt, 2, 0.5),
    "LambdaLR": lambda opt: schedules.LambdaLR(
        opt, [lambda t, i=i: 1 / (1 + t + i) for i in range(len(opt.param_groups))]
    ),
    "SequentialLR": lambda opt: schedules.SequentialLR(
        opt, [schedules.LinearLR(opt, 0.1, total_iters=3), schedules.CosineAnnealingLR(opt, 5)], milestones=[3]
    ),
    "ReduceLROnPlateau": lambda opt: schedules.ReduceLROnPlateau(opt, factor=0.5, patience=0),
    "OneCycleLR": lambda opt: schedules.OneCycleLR(
        opt, 0.1, total_steps=10, cycle_momentum=bool({"betas", "momentum"} & opt.defaults.keys())
    ),
    "CyclicLR": lambda opt: schedules.CyclicLR(
        opt, 0.01, 0.1, step_size_up=3, cycle_momentum=bool({"betas", "momentum"} & opt.defaults.keys())
    ),
}


@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(case: Case, scheduler: str, tensor_lr: bool) -> None:
    """Contract 2, 10 and 14: the schedule reaches every group and the next update; no warning; resumed bit for bit."""
    options = {**case.scheduled, "lr": torch.tensor(0.0625) if tensor_lr else 0.0625}

    def build(params: list[nn.Parameter]) -> tuple[Any, Any]:
        groups: Any = params if case.id == "routed" else [{"params": params[:2]}, {"params": params[2:]}]
        optimizer = case.build(groups, **options)
        return optimizer, SCHEDULERS[scheduler](optimizer)

    def run(optimizer: Any, schedule: Any, params: list[nn.Parameter], steps: range) -> list[list[float]]:
        seen = []
        for t in steps:
            seen.append([float(group["lr"]) for group in optimizer.param_groups])
            set_grads(params, t)
            optimizer.step(loss=1.0)
            schedule.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
        return seen

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        params = make_params()
        optimizer, schedule = build(params)
        rates = run(optimizer, schedule, params, range(1, 5))
        assert all(len(set(column)) > 1 for column in zip(*rates, strict=True))
        if scheduler == "LambdaLR":
            assert all(len(set(row)) == len(row) for row in rates)
        saved, saved_schedule = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(schedule.state_dict())
        twins = clones(params)
        resumed, resumed_schedule = build(twins)
        resumed_schedule.load_state_dict(saved_schedule)
        resumed.load_state_dict(saved)
        assert run(optimizer, schedule, params, range(5, 9)) == run(resumed, resumed_schedule, twins, range(5, 9))
        assert values(resumed)["params"] == values(optimizer)["params"]


def test_a_schedule_equals_the_same_numbers_by_hand(case: Case) -> None:
    """Contract 14: the optimizer under a scheduler takes the steps that its written rates mean."""
    params, others = make_params(), make_params()
    options = case.scheduled or {"lr": 0.5}
    optimizer, by_hand = case.build(params, **options), case.build(others, **options)
    schedule = schedules.StepLR(optimizer, 1, 0.5)
    for t in range(1, 6):
        train(optimizer, params, 1, start=t)
        schedule.step()
        train(by_hand, others, 1, start=t)
        for group in by_hand.param_groups:
            group["lr"] *= 0.5
    assert [bits(p) for p in params] == [bits(p) for p in others]


def test_one_cycle_moves_the_momentum(named: Case) -> None:
    """Contract 2: where the optimizer has ``betas`` or ``momentum``, OneCycleLR finds it in defaults and cycles it."""
    name = named.id
    if named in AVERAGED:
        pytest.skip(f"{name} reads its beta once, when it is built")
    reads = thalweg.get(name).recipe.hypers()
    options: dict[str, Any] = {"momentum": 0.9} if name == "sgd" else {}
    if not options and not {"betas.0", "momentum"} & reads.keys():
        pytest.skip(f"{name} has neither betas[0] nor momentum to cycle")
    results = []
    for cycle in (True, False):
        params = make_params()
        optimizer = thalweg.get(name).cls(params, engine="foreach", **options)
        schedule = schedules.OneCycleLR(optimizer, 0.1, total_steps=12, cycle_momentum=cycle, base_momentum=0.3)
        for t in range(1, 9):
            train(optimizer, params, 1, start=t)
            schedule.step()
        results.append(params)
    assert any(not torch.equal(a, b) for a, b in zip(*results, strict=True))


# ---- hooks


def test_hooks_fire_once_a_step(case: Case) -> None:
    """Contract 11: built after its parent class, every step, load and save hook fires exactly once."""
    thalweg.Optimizer(make_params(), thalweg.ADAMW).step()
    params = make_params()
    optimizer = case.build(params)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_pre_hook(lambda *_: calls.append("save"))
    optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("before load"))
    optimizer.register_load_state_dict_post_hook(lambda *_: calls.append("after load"))
    train(optimizer, params, 2)
    assert calls == ["pre", "post"] * 2
    calls.clear()
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["save", "before load", "after load"] * 2


def test_load_hooks_of_others_see_and_shape_the_checkpoint(case: Case) -> None:
    """Contract 22: a user's pre-hook may convert a checkpoint; what it returns is what is checked and restored."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state["legacy"] = torch.zeros(1)

    def convert(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        state = {i: {k: v for k, v in s.items() if k != "legacy"} for i, s in given["state"].items()}
        return {**given, "state": state}

    fresh = case.build(clones(params))
    with pytest.raises(ValueError, match="legacy"):
        fresh.load_state_dict(saved)
    fresh.register_load_state_dict_pre_hook(convert)
    fresh.load_state_dict(saved)
    assert values(fresh) == values(optimizer)


# ---- foreign keys and groups

FOREIGN: dict[str, Any] = {
    "initial_lr": 0.1, "max_lr": 0.2, "min_lr": 0.0, "max_momentum": 0.95, "base_momentum": 0.85, "swa_lr": 0.05,
    "lr_scale": 0.5, "use_fallback": False, "param_names": ["layer.0", "layer.1"], "fused": False, "foreach": None,
}  # fmt: skip


def test_foreign_keys_are_carried_and_ignored(case: Case) -> None:
    """Contract 4: keys of schedulers, timm and torchtitan sit in any group, survive reloads and change nothing."""
    params, others = make_params(((3, 2), (2, 2))), make_params(((3, 2), (2, 2)))
    foreign = {**FOREIGN, **({"recipe": thalweg.ADAMW} if case.id == "routed" else {})}
    recipe = {k: v for k, v in foreign.items() if k == "recipe"}
    make = thalweg.Optimizer if case.id == "routed" else case.make
    options = {"engine": "foreach", **case.options}
    optimizer, plain = make([{"params": params, **foreign}], **options), make([{"params": others, **recipe}], **options)
    train(optimizer, params, 2)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, 2, start=3)
    train(plain, others, 4)
    assert [bits(p) for p in params] == [bits(p) for p in others]
    assert {k: optimizer.param_groups[0][k] for k in FOREIGN} == FOREIGN


def test_empty_groups_are_legal(named: Case) -> None:
    """Contract 4: HF's second group can be empty; steps, schedules, copies and checkpoints pass over it."""
    params, others = make_params(), make_params()
    optimizer = named.build([{"params": []}, {"params": params}, {"params": [], "weight_decay": 0.0}])
    plain = named.build(others)
    train(optimizer, params, 2)
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(optimizer.state_dict())
    train(twin, members(twin), 0)
    train(optimizer, params, 2, start=3)
    train(plain, others, 4)
    assert [bits(p) for p in members(optimizer)] == [bits(p) for p in members(plain)]
    assert len(twin.param_groups) == len(optimizer.param_groups) >= 3
    optimizer.eval()
    assert repr(optimizer)


def test_groups_added_later(case: Case) -> None:
    """Contract 1 and 6.7: a group added after some steps trains by its own options, as in an optimizer of its own."""
    params, late, alone = make_params(), make_params(((3, 2),), seed=5), make_params(((3, 2),), seed=5)
    optimizer = case.build(params)
    coupled = any(optimizer.recipe_of(g).couples for g in optimizer.param_groups)
    train(optimizer, params, 3)
    recipe = {"recipe": thalweg.MUON} if case.id == "routed" else {}
    lr = {} if case.id == "adafactor" else {"lr": 0.5}
    optimizer.add_param_group({"params": late, **recipe, **lr})
    assert optimizer.param_groups[-1].get("lr") == lr.get("lr")
    if case.id == "routed":
        fresh = thalweg.Optimizer(alone, thalweg.MUON, engine="foreach", lr=0.5)
    else:
        fresh = case.build([{"params": alone, **lr}])
    if remembers(optimizer) == "model":  # the newcomers share what is known already; the other engine is the witness
        others = make_params()
        fresh = case.build(others, engine="reference")
        train(fresh, others, 3)
        for p in others:
            p.grad = None
        fresh.add_param_group({"params": alone, **lr})
    for p in params:
        p.grad = None
    train(optimizer, late, 3)
    train(fresh, alone, 3)
    assert all(optimizer.state[p]["step"] == 3 for p in (*params, *late))
    if not coupled:
        assert [bits(p) for p in late] == [bits(p) for p in alone]
    else:
        assert_close(late, alone)


# ---- mixed precision


@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler_skips_a_step_with_infinite_gradients(case: Case, unscale_first: bool) -> None:
    """Contract 15: inf in any gradient leaves parameters, state and groups identical and halves the scale."""
    params, others = make_params(), make_params()
    optimizer, plain = case.build(params), case.build(others)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(()))
    train(plain, others, 2)
    for t in (1, 2, 3):
        set_grads(params, t)
        for p in params:
            p.grad.mul_(scaler.get_scale())
        if t == 3:
            params[-1].grad.fill_(float("inf"))
        if unscale_first:
            scaler.unscale_(optimizer)
        before = values(optimizer)
        assert scaler.step(optimizer, loss=1.0 + 0.5 / t) is None
        if t == 3:
            assert values(optimizer) == before
        scaler.update()
    assert scaler.get_scale() == 4.0
    assert values(optimizer) == values(plain)
    train(optimizer, params, 1, start=3)


# ---- torch.distributed.checkpoint in one process


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("fresh_source", [False, True], ids=["running", "fresh"])
def test_state_dict_tools(case: Case, flat: bool, fresh_source: bool) -> None:
    """Contract 20, 21 and 23: DSD get and set, which rehearse, leave weights alone and restore state bit for bit."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    model, target_model = build_model(), build_model()
    optimizer, target = case.build(list(model.parameters())), case.build(list(target_model.parameters()))
    if not fresh_source:
        train(optimizer, members(optimizer), 3)
        target_model.load_state_dict(model.state_dict())
    weights = values(optimizer)["params"]
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    assert values(optimizer)["params"] == weights
    set_optimizer_state_dict(target_model, target, saved, options=options)
    assert values(target) == values(optimizer)
    for opt in (optimizer, target):
        train(opt, members(opt), 3, start=4)
    assert values(target) == values(optimizer)
    if fresh_source:
        plain_model = build_model()
        plain = case.build(list(plain_model.parameters()))
        train(plain, members(plain), 3, start=4)
        assert values(target) == values(plain)


def test_distributed_checkpoint_files(case: Case, tmp_path: Path) -> None:
    """Contract 20: ``dcp.save`` and ``dcp.load`` of the flat dict, without a process group."""
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    model, target_model = build_model(), build_model()
    optimizer, target = case.build(list(model.parameters())), case.build(list(target_model.parameters()))
    train(optimizer, members(optimizer), 3)
    target_model.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "assuming single process"
        dcp.save(get_optimizer_state_dict(model, optimizer, options=options), checkpoint_id=tmp_path, no_dist=True)
        loaded = get_optimizer_state_dict(target_model, target, options=options)
        dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(target_model, target, loaded, options=options)
    assert values(target) == values(optimizer)


# ---- wrappers and peers


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this one process."""
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_zero_redundancy_optimizer(named: Case) -> None:
    """Contract 1, 19 and section 5: ZeRO builds the class from its groups and trains as without it."""
    params, others = make_params(), make_params()
    cls = partial(thalweg.get(named.id).cls, engine="foreach")

    def groups(tensors: list[nn.Parameter]) -> Any:
        # ZeRO wants as many groups back as it gave, so what Muon and others would split comes split.
        split = named.build(tensors).param_groups
        return tensors if len(split) == 1 else split

    sharded = ZeroRedundancyOptimizer(groups(params), optimizer_class=cls, **named.options)
    plain = named.build(groups(others))
    for t in range(1, 5):
        set_grads(params, t)
        set_grads(others, t)
        sharded.step(loss=1.0)
        plain.step(loss=1.0)
    assert_close(params, others)


def test_averaged_model(case: Case) -> None:
    """Section 5: SWA averages what stands in the parameters; averaged iterates want eval() first."""
    model = build_model()
    optimizer = case.build(list(model.parameters()))
    swa = AveragedModel(model)
    for t in range(1, 4):
        train(optimizer, members(optimizer), 1, start=t)
        optimizer.eval()
        swa.update_parameters(model)
        now = [p.detach().clone() for p in model.parameters()]
        optimizer.train()
        if t == 1:
            assert_close(swa.module.parameters(), now)
        if case in AVERAGED:
            assert any(not torch.equal(p, q) for p, q in zip(model.parameters(), now, strict=True)) or t == 1
        else:
            assert [bits(p) for p in model.parameters()] == [bits(p) for p in now]
    before = snapshot(optimizer)
    copy.deepcopy(swa)
    assert snapshot(optimizer) == before


def test_wrapper_of_accelerate(case: Case) -> None:
    """Section 5: a wrapper that is an Optimizer without hook tables forwards everything, the closure by position."""

    class Accelerated(torch.optim.Optimizer):
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer
            optimizer.load_state_dict(optimizer.state_dict())

        param_groups = property(lambda self: self.optimizer.param_groups)
        state = property(lambda self: self.optimizer.state)
        defaults = property(lambda self: self.optimizer.defaults)

        def step(self, closure: Any = None) -> Any:
            return self.optimizer.step(closure)

    params, others = make_params(), make_params()
    wrapped, plain = Accelerated(case.build(params, **case.scheduled)), case.build(others, **case.scheduled)
    schedule = schedules.StepLR(wrapped, 1, 0.5)
    for t in range(1, 4):
        set_grads(params, t)
        set_grads(others, t)
        assert wrapped.step(lambda: 1.0) == 1.0
        plain.step(loss=1.0)
        if case.id != "adafactor" or case.scheduled:
            schedule.step()
            for group in plain.param_groups:
                group["lr"] *= 0.5
    assert [bits(p) for p in params] == [bits(p) for p in others]


def test_gradient_clipping_between_backward_and_step(case: Case) -> None:
    """Section 5: trainers clip ``p.grad`` in place; the step sees the clipped gradient and leaves it so."""
    params, others = make_params(), make_params()
    optimizer, plain = case.build(params), case.build(others)
    for t in range(1, 4):
        set_grads(params, t)
        nn.utils.clip_grad_norm_(params, 0.5)
        clipped = [p.grad.clone() for p in params]
        for p, g in zip(others, clipped, strict=True):
            p.grad = g.clone()
        optimizer.step(loss=1.0)
        plain.step(loss=1.0)
        assert [bits(p.grad) for p in params] == [bits(g) for g in clipped]
    assert values(optimizer) == values(plain)
