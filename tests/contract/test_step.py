"""One step: gradients, closures, shapes, dtypes, counts (contract 2, 10, 12, 13, 16, 18, 19, section 6.1, 6.7, 6.8)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from contract.common import (
    AVERAGED,
    STILL_AT_FIRST,
    Case,
    assert_close,
    bits,
    case,
    clones,
    gradient,
    make_params,
    members,
    remembers,
    set_grads,
    snapshot,
    train,
    values,
)

ENGINES = ("foreach", "reference")
ODD_SHAPES = ((), (1,), (0,), (0, 3), (3, 0), (1, 1), (5,), (1, 4), (4, 1), (2, 3, 2), (2, 1, 2, 2))


def test_closure(case: Case) -> None:
    """Contract 12: the closure runs once, with gradients on even under no_grad, and its value is returned."""
    for by_keyword in (False, True):
        params = make_params()
        optimizer = case.build(params)
        calls = []

        def closure(params: list[nn.Parameter] = params, calls: list[bool] = calls) -> Tensor:
            calls.append(torch.is_grad_enabled())
            for p in params:
                p.grad = None
            loss = sum((p * p).sum() for p in params)
            loss.backward()
            return loss

        before = [bits(p) for p in params]
        with torch.no_grad():
            loss = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
        assert calls == [True]
        assert loss.requires_grad
        assert loss.item() > 0
        moved = case.id not in STILL_AT_FIRST
        assert all((bits(p) != old) == moved for p, old in zip(params, before, strict=True))


def test_step_returns_the_closures_value_or_none(case: Case) -> None:
    """Contract 12: whatever the closure returns; without a closure, None, whatever the loss."""
    params = make_params()
    optimizer = case.build(params)
    set_grads(params, 1)
    assert optimizer.step(lambda: 3.5) == 3.5
    assert optimizer.step(lambda: 3.5, loss=1.0) == 3.5
    assert optimizer.step(loss=1.0) is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("maximize", [False, True], ids=["min", "max"])
def test_gradients_and_identities_are_untouched(case: Case, engine: str, maximize: bool) -> None:
    """Contract 13 and 6.8: ``p.grad`` keeps object, memory and bits; the parameter its memory and leaf flags."""
    params = make_params(((4, 3), (3,), (2, 3, 2), (), (0,)))
    optimizer = case.build(params, engine=engine, maximize=maximize)
    for t in range(1, 4):
        set_grads(params, t)
        held = [(p.grad, p.grad.data_ptr(), bits(p.grad), p.data_ptr(), id(p)) for p in params]
        optimizer.step(loss=1.0)
        assert held == [(p.grad, p.grad.data_ptr(), bits(p.grad), p.data_ptr(), id(p)) for p in params]
    for p in params:
        assert p.is_leaf
        assert p.requires_grad
        assert p.grad_fn is None
        assert not any(v.requires_grad for v in optimizer.state[p].values())
        held = [v for v in optimizer.state[p].values() if v.numel()]
        assert not any(v.data_ptr() in (p.data_ptr(), p.grad.data_ptr()) for v in held)


def test_gradients_may_be_views_of_a_bucket(case: Case) -> None:
    """Contract 13: gradients that are views of one buffer, as under DDP, give the same step and stay views."""
    params, others = make_params(), make_params()
    optimizer, plain = case.build(params), case.build(others)
    sizes = [p.numel() for p in params]
    bucket = torch.zeros(sum(sizes))
    for p, part in zip(params, bucket.split(sizes), strict=True):
        p.grad = part.view_as(p)
    for t in range(1, 4):
        for k, p in enumerate(params):
            p.grad.copy_(gradient(p, t, k))
        before = bits(bucket)
        optimizer.step(loss=1.0 + 0.5 / t)
        assert bits(bucket) == before
    train(plain, others, 3)
    assert values(optimizer) == values(plain)


def test_no_gradient_no_decay_no_state_no_move(case: Case) -> None:
    """Contract 13: a parameter without a gradient is left alone: no decay, no state, no count."""
    params = make_params()
    optimizer = case.build(params)
    idle = params[::2]
    before = [bits(p) for p in idle]
    for t in range(1, 4):
        for k, p in enumerate(params):
            p.grad = None if k % 2 == 0 else gradient(p, t, k)
        optimizer.step(loss=1.0)
    assert [bits(p) for p in idle] == before
    assert all(p not in optimizer.state for p in idle)
    assert all(optimizer.state[p]["step"] == 3 for p in params[1::2])


def test_no_gradients_at_all(case: Case) -> None:
    """Contract 13: a step without any gradient changes nothing, fresh or running, and needs no loss."""
    params = make_params()
    optimizer = case.build(params)
    for _ in range(2):
        optimizer.zero_grad()
        before = snapshot(optimizer)
        optimizer.step()
        assert snapshot(optimizer) == before
        train(optimizer, params, 2)


#: How a late parameter is made comparable where the group, not the parameter, keeps a number or a mean.
LATE: dict[str, dict[str, Any]] = {
    "adams": {"weight_decay": 0.0},
    "adalo": {"debias": True},
    **{c.id: {"weight_decay": 0.0} for c in AVERAGED},
}


def test_late_gradients_get_the_first_updates_of_a_fresh_optimizer(case: Case) -> None:
    """Section 6.7: counts are per parameter; one whose gradients begin late starts as in a fresh optimizer."""
    early, late = make_params(((3, 2), (3, 2)))
    optimizer = case.build([early, late], **LATE.get(case.id, {}))
    for t in range(1, 8):
        early.grad = gradient(early, t)
        optimizer.step(loss=2.0)
    (alone,) = clones([late])
    fresh = case.build([alone], **LATE.get(case.id, {}))
    if remembers(optimizer):  # what the others found out counts for the newcomer: only its own count starts anew
        late.grad = gradient(late, 1, 5)
        optimizer.step(loss=2.0)
        assert [optimizer.state[p]["step"].item() for p in (early, late)] == [8, 1]
        assert not torch.equal(late, alone)
        return
    for t in range(1, 5):
        early.grad = None if case.id == "nsgda-global" else gradient(early, t)
        late.grad = gradient(late, t, 5)
        alone.grad = late.grad.clone()
        optimizer.step(loss=2.0)
        fresh.step(loss=2.0)
        ours, theirs = optimizer.state[late], fresh.state[alone]
        assert ours["step"] == theirs["step"] == t
        averaged = "z" in ours  # the weight of the newest iterate in the average is the group's, as the docs say
        # AdaLo's rate, the differences that z gathers and stacked matrix products are rounded in another place, and
        # SM3's numbers do not depend on t, so that both tensors run as one list; everything else is exact.
        loose = averaged or case.id in ("adalo", "muon", "routed", "sm3")
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if loose else {"rtol": 0.0, "atol": 0.0}
        assert_close([ours["z"] if averaged else late], [theirs["z"] if averaged else alone], **tolerance)
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_late_gradients_under_weight_averaging() -> None:
    """Section 6.7, the stated exception: the weight of the newest iterate in the average is the whole group's.

    A parameter that joins at the group's eighth step enters the average with weight 1/8, so its y moves by
    1 - beta*(1 - 1/8) of the step that its z takes.
    """
    early, late = make_params(((3,), (3,)))
    optimizer = case("schedulefree_sgd").build([early, late], weight_decay=0.0)
    for t in range(1, 8):
        early.grad = gradient(early, t)
        optimizer.step()
    start = late.detach().clone()
    late.grad = gradient(late, 1)
    optimizer.step()
    state, group = optimizer.state[late], optimizer.param_groups[0]
    assert group["k"] == 8
    assert state["step"] == 1
    beta = optimizer.recipe.outer.beta
    assert_close([late - start], [(1 - beta * (1 - 1 / 8)) * (state["z"] - start)], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_engines_agree(case: Case, dtype: torch.dtype) -> None:
    """Contract 16: lists and loops give the same step, with odd shapes, changing Nones and every float dtype."""
    results = []
    for engine in ENGINES:
        params = make_params(ODD_SHAPES, dtype)
        optimizer = case.build(params, engine=engine)
        for t in range(1, 5):
            for k, p in enumerate(params):
                p.grad = None if (k + t) % 4 == 0 else gradient(p, t, k)
            optimizer.step(loss=1.0 + t)
        assert all(p.isfinite().all() for p in params)
        results.append(params)
    assert_close(*results)


def test_mixed_dtypes_in_one_group(case: Case) -> None:
    """Contract 16: parameters of several dtypes in one group each move as among their own kind."""
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    mixed = [make_params(((3, 2), (2,)), d) for d in dtypes]
    apart = [make_params(((3, 2), (2,)), d) for d in dtypes]
    optimizer = case.build([p for pair in mixed for p in pair])
    coupled = any(optimizer.recipe_of(g).couples for g in optimizer.param_groups)
    for _ in range(3):
        set_grads(members(optimizer), 1)
        optimizer.step(loss=1.0)
    if coupled:  # a mean or norm over the whole model makes no sense apart; the other engine is the witness
        flat = [p for pair in apart for p in pair]
        loop = case.build(flat, engine="reference")
        for _ in range(3):
            set_grads(flat, 1)
            loop.step(loss=1.0)
    else:
        order = members(optimizer)
        for pair, own in zip(mixed, apart, strict=True):
            alone = case.build(own)
            for _ in range(3):
                for p, q in zip(pair, own, strict=True):
                    q.grad = gradient(q, 1, next(k for k, o in enumerate(order) if o is p))
                alone.step(loss=1.0)
    for pair, own in zip(mixed, apart, strict=True):
        assert_close(pair, own)


@pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)
def test_every_shape(case: Case, shape: tuple[int, ...]) -> None:
    """Section 3 of the design: 0-d, 1-d, empty and size-one tensors are ordinary, alone in their optimizer."""
    (p,) = make_params((shape,))
    before = bits(p)
    optimizer = case.build([p])
    train(optimizer, [p], 3)
    assert p.isfinite().all()
    assert (bits(p) != before) == (p.numel() > 0)
    assert optimizer.state[p]["step"] == 3


LAYOUTS = {
    "transposed": ((4, 3), lambda t: t.t().contiguous().t()),
    "channels last": ((2, 3, 2, 2), lambda t: t.contiguous(memory_format=torch.channels_last)),
    "permuted": ((2, 3, 4), lambda t: t.permute(2, 0, 1).contiguous().permute(1, 2, 0)),
    "sliced": ((4, 3), lambda t: torch.cat([t, t], 1)[:, :3]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad_too", [True, False], ids=["grad alike", "grad contiguous"])
def test_memory_layouts(case: Case, layout: str, grad_too: bool) -> None:
    """A tensor that is not laid out row by row steps like one that is, keeps its strides, and reloads."""
    shape, arrange = LAYOUTS[layout]
    (plain,) = make_params((shape,))
    odd = nn.Parameter(arrange(plain.detach().clone()))
    assert odd.stride() != plain.stride()
    stride = odd.stride()
    expected, optimizer = case.build([plain]), case.build([odd])
    for t in range(1, 5):
        plain.grad = gradient(plain, t)
        odd.grad = arrange(plain.grad.clone()) if grad_too else plain.grad.clone()
        expected.step(loss=1.0)
        optimizer.step(loss=1.0)
        optimizer.load_state_dict(optimizer.state_dict())
    assert_close([odd], [plain])
    assert odd.stride() == stride
    if layout != "sliced":
        alike = [v for v in optimizer.state[odd].values() if v.shape == odd.shape]
        assert all(v.stride() == stride for v in alike)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("engine", ENGINES)
def test_complex_parameters_are_real_pairs(case: Case, dtype: torch.dtype, engine: str) -> None:
    """Contract 16: a complex tensor moves as its view of real pairs, through reloads and modes, or is refused."""
    shapes = ((4, 3), (2, 3, 2)) if case.id in ("muon", "routed", "adammini") else ((4, 3), (3,), ())
    params = make_params(shapes, dtype)
    pairs = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params]
    # What is a matrix is asked of the tensor as it is, and pairs have an axis more: one kind for all where it matters.
    kind = {"optimize_1d": True} if case.id == "mars" else {}
    optimizer, real = case.build(params, engine=engine, **kind), case.build(pairs, engine=engine, **kind)
    for t in range(1, 5):
        for k, (p, q) in enumerate(zip(params, pairs, strict=True)):
            p.grad = gradient(p, t, k)
            q.grad = torch.view_as_real(p.grad).clone()
        optimizer.step(loss=1.0)
        real.step(loss=1.0)
        if t == 2:
            optimizer.load_state_dict(optimizer.state_dict())
    optimizer.eval()
    real.eval()
    assert_close([torch.view_as_real(p.detach()) for p in params], pairs)


def test_complex_vectors_beside_matrices() -> None:
    """Contract 16: a complex vector goes to Muon's AdamW part, as a complex parameter, not as a matrix of pairs."""
    params = make_params(((4, 3), (3,)), torch.complex64)
    optimizer = case("muon").build(params)
    train(optimizer, params, 2)
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 1]
    assert all(p.isfinite().all() for p in params)


#: Steps until a changed lr shows, where they are not one: torch's ASGD sets its rate a step ahead, and Rprop's first
#: sizes are all that lr is.
LR_SHOWS = {"asgd": 2, "rprop": None}


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_a_changed_number_changes_the_next_update(case: Case, key: str) -> None:
    """Contract 2: ``step`` reads the group every time; a scheduler's write takes effect at once, in every group."""
    params, others = make_params(), make_params()
    optimizer, same = case.build(params, **case.scheduled), case.build(others, **case.scheduled)
    train(optimizer, params, 2)
    train(same, others, 2)
    for group in optimizer.param_groups:
        group[key] = group[key] * 3 + 0.5
    steps = LR_SHOWS.get(case.id, 1) if key == "lr" else 1
    if steps is None:
        train(optimizer, params, 5, start=3)
        train(same, others, 5, start=3)
        assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
        return
    train(optimizer, params, steps, start=3)
    train(same, others, steps, start=3)
    other_of = dict(zip(params, others, strict=True))
    for group in optimizer.param_groups:  # a 0-d tensor has no direction that decay could bend
        assert all(not torch.equal(p, other_of[p]) for p in group["params"] if p.ndim or key == "lr")


def test_a_changed_momentum_changes_the_next_update(case: Case) -> None:
    """Contract 2: OneCycleLR rewrites ``betas`` or ``momentum`` each step; they are read anew as well."""
    params, others = make_params(), make_params()
    optimizer, same = case.build(params), case.build(others)
    for opt, own in ((optimizer, params), (same, others)):
        train(opt, own, 2)
    changed = []
    for group in optimizer.param_groups:
        reads = optimizer.recipe_of(group).hypers()
        if {"betas.0", "momentum"} & reads.keys():
            group.update({"betas": (0.5, *group["betas"][1:])} if "betas.0" in reads else {"momentum": 0.5})
            changed.append(group)
    if not changed:
        pytest.skip(f"{case.id} reads neither betas[0] nor momentum")
    for opt, own in ((optimizer, params), (same, others)):
        train(opt, own, 5, start=3)
    other_of = dict(zip(params, others, strict=True))
    assert all(any(not torch.equal(p, other_of[p]) for p in group["params"]) for group in changed)


def test_tensor_lr(case: Case) -> None:
    """Contract 10: a tensor lr steps like the number, is never changed, and no two groups share one object."""
    shared = torch.tensor(0.03125)
    runs = []
    for lr in (0.03125, shared):
        params = make_params()
        optimizer = case.build(params, **{**case.scheduled, "lr": lr} if case.id != "adafactor" else case.scheduled)
        (extra,) = make_params(((2, 2),), seed=7)
        own = {"recipe": thalweg.ADAMW, "lr": lr} if case.id == "routed" else {}
        optimizer.add_param_group({"params": [extra], **own})
        train(optimizer, [*params, extra], 4)
        runs.append([*params, extra])
    assert_close(*runs, rtol=0, atol=0)
    assert shared.item() == 0.03125
    if case.id != "adafactor":
        tensors = [group["lr"] for group in optimizer.param_groups if isinstance(group["lr"], Tensor)]
        assert len({id(t) for t in tensors}) == len(tensors) >= 2
        assert all(t is not shared and t.item() == 0.03125 for t in tensors)


def test_tensor_lr_is_read_every_step(case: Case) -> None:
    """Contract 10: schedulers ``fill_`` the tensor, accelerate replaces it, timm overwrites it with a float."""
    options = {**case.scheduled} if case.id.startswith("adafactor") else {}
    params, plain = make_params(), make_params()
    optimizer = case.build(params, **{**options, "lr": torch.tensor(0.5)})
    expected = case.build(plain, **{**options, "lr": 0.5})
    for t, lr in enumerate((0.5, 0.25, 0.125, 0.0625), start=1):
        for group in optimizer.param_groups:
            if t == 2 and isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            elif t > 1:
                group["lr"] = torch.tensor(lr) if t == 3 else lr
        for group in expected.param_groups:
            if t > 1:
                group["lr"] = lr
        train(optimizer, params, 1, start=t)
        train(expected, plain, 1, start=t)
    assert_close(params, plain, rtol=0, atol=0)


def test_zero_lr_with_a_gradient_is_a_real_step() -> None:
    """Section 6.1: a warm-up that starts at lr 0 gathers moments exactly as torch's does."""
    ours, theirs = make_params(), make_params()
    mine = thalweg.Adam(ours, lr=0.0, engine="foreach")
    torchs = torch.optim.Adam(theirs, lr=0.0)
    for t in range(1, 6):
        for optimizer, params in ((mine, ours), (torchs, theirs)):
            optimizer.param_groups[0]["lr"] = 0.01 * (t - 1)
            set_grads(params, t)
            optimizer.step()
    assert_close(ours, theirs)
    assert all(mine.state[p]["step"] == 5 for p in ours)


def test_one_instance_per_parameter_equals_the_joint_optimizer(case: Case) -> None:
    """Contract 19: stepping each parameter in its backward hook is exact, unless the recipe couples parameters."""
    joint_params, params = make_params(), make_params()
    joint = case.build(joint_params)
    if any(joint.recipe_of(g).couples for g in joint.param_groups):
        pytest.skip(f"{case.id} couples all parameters: its scope is the model")
    single = {p: case.build([p]) for p in params}

    def step(p: Tensor) -> None:
        single[p].step(loss=1.0)
        p.grad = None

    for p in params:
        p.register_post_accumulate_grad_hook(step)
    for t in range(1, 5):
        for group in (joint_params, params):
            sum((p * gradient(p, t, k)).sum() + (p * p).sum() for k, p in enumerate(group)).backward()
        joint.step(loss=1.0)
        joint.zero_grad()
    assert_close(params, joint_params)
    assert all(single[p].state[p]["step"] == 4 for p in params)


@pytest.mark.parametrize("id", ["adamw", "routed"])
def test_compiled_step_equals_the_lists(id: str) -> None:
    """Contract 18: the compiled engine takes the same steps, with a parameter whose gradients begin late."""
    runs = []
    for engine in ("foreach", "compiled"):
        params = make_params(((4, 3), (3,)))
        optimizer = case(id).build(params, engine=engine)
        for t in range(1, 4):
            set_grads(params, t)
            if t == 1:
                params[1].grad = None
            before = [None if p.grad is None else bits(p.grad) for p in params]
            optimizer.step(loss=1.0)
            assert [None if p.grad is None else bits(p.grad) for p in params] == before
        runs.append(params)
    assert_close(*runs)
