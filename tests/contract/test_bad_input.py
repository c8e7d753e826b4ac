"""What is refused: by which error, naming the thing and the remedy, with nothing changed (contract 9, section 6.8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from contract.common import CASES, Case, case, make_params, members, set_grads, signature, snapshot, train
from thalweg import ADAMW, MUON, Lookahead, Optimizer, ScheduleFree
from thalweg.recipes import ADALO, LION
from thalweg.recipes import SGD as PLAIN_SGD

NAN, INF = math.nan, math.inf
NOT_A_NUMBER: tuple[Any, ...] = ("0.1", True, 1j, object(), [0.1])
#: Options that a group can hold, and values that are out of range for every optimizer that has them.
ILLEGAL: dict[str, tuple[Any, ...]] = {
    "lr": (-1.0, NAN, INF, torch.tensor(-1.0), torch.tensor(NAN), torch.tensor([0.1, 0.1])),
    "weight_decay": (-1.0, NAN, INF),
    "eps": (-1.0, NAN),
    "betas": ((1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN), (0.9,), (), 0.9, None),
    "momentum": (-1.0, NAN, INF),
    "dampening": (2.0, NAN),
    "alpha": (-0.1, 1.0, NAN),
    "lr_decay": (-1.0, NAN),
    "initial_accumulator_value": (-1.0, NAN),
    "momentum_decay": (-1.0, NAN),
    "kappa": (0.0, -1.0, NAN),
    "decay_rate": (0.1, NAN),
    "clip_threshold": (0.0, -1.0, NAN),
    "beta1": (1.0, -0.1, NAN),
}
#: Where an option is illegal only for some, or has another form.
SPECIAL: dict[str, dict[str, tuple[Any, ...]]] = {
    "adafactor": {"eps": ((-1.0, 1e-3), (1e-30, -1.0), (1e-30, NAN), (1e-30,), 1e-30)},
    "adax": {"betas": ((0.9, 0.0), (0.9, 1.0), (1.0, 1e-4), (0.9, NAN))},
    "schedulefree_sgd": {"momentum": (0.0, 1.0, -1.0, NAN), "warmup_steps": (-1, 1.5), "r": (NAN,),
                         "weight_lr_power": (NAN,)},
    "schedulefree_adamw": {"betas": ((0.0, 0.9), (1.0, 0.9), (0.9, 1.0), (NAN, 0.9), (0.9,)),
                           "warmup_steps": (-1, 1.5, True), "r": (NAN,), "weight_lr_power": (NAN,),
                           "inner_momentum": (1.0, -0.5, NAN)},
    "schedulefree_radam": {"betas": ((0.0, 0.9), (1.0, 0.9), (0.9, 1.0), (NAN, 0.9), (0.9,)), "r": (NAN,)},
    "nsgda": {"momentum": (1.0, -1.0, NAN), "scope": ("tensor", None)},
    "sgds": {"momentum": (1.0, -1.0, NAN), "dampening": (-0.1, 2.0, NAN)},
    "muon": {"momentum": (1.0, -1.0, NAN), "ns_steps": (0, 2.0, True), "ns_safety": (0.5, NAN), "adjust_lr": ("adam",),
             "ns_dtype": ("int8",), "ns_coefficients": ((1.0, 2.0), "polar", None)},
    "lamb": {"phi_bounds": ((1.0, 0.5), (-1.0, 1.0), (1.0,)), "ratio_bounds": ((1.0, 0.5),),
             "max_grad_norm": (0.0, -1.0, NAN)},
    "lars": {"trust_coeff": (-1.0, NAN)},
    "larc": {"trust_coefficient": (-1.0, NAN)},
    "adamcpr": {"kappa_init_method": ("later", None), "kappa_init_param": (0.0, NAN), "reg_function": ("l3", None),
                "kappa_update": (0.0, NAN)},
    "adamw2": {"tau": (0.0, NAN), "sigma": ("exact", ("power",), ("power", 0), ("power", 2.0), None)},
    "soap": {"shampoo_beta": (-2.0, 1.0, NAN), "precondition_frequency": (0, 2.5, NAN),
             "max_precond_dim": (0, -1, 8.0, None)},
    "adafactor_torch": {"eps": ((-1.0, 1e-3), (None, -1.0), (1e-30,), 1e-30), "beta2_decay": (0.1, NAN),
                        "d": (0.0, NAN)},
    "adafactor_bv": {"decay_rate": (0.0, -0.8, NAN), "min_dim_size_to_factor": (0, 2.5, True), "beta2_cap": (1.1, NAN),
                     "decay_offset": (-1, NAN), "clipping_threshold": (0.0, NAN)},
    "sm3": {"momentum": (1.0, -1.0, NAN), "variant": ("III", None)},
    "smmf": {"beta": (1.1, -0.1, NAN), "growth_rate": (1.1, -0.1, NAN), "decay_rate": (0.1, -1.1, NAN),
             "weight_decay_mode": ("l2", None)},
    "amos": {"eta": (0.0, -1.0, NAN), "beta": (1.0, -0.1, NAN), "momentum": (1.0, NAN), "slots": ("both", None),
             "clip_value": (0.0, NAN), "extra_l2": (-1.0, NAN), "c_coef": (-1.0,), "d_coef": (-1.0,),
             "epsilon": (0.0,)},
    "adalo": {"mode": ("paper",)},
    "prodigy": {"d0": (0.0, -1.0, NAN), "d_coef": (0.0, NAN), "growth_rate": (0.5, NAN), "beta3": (1.0, -0.1, NAN),
                "slice_p": (0, -1)},
    "dadapt_adam": {"d0": (0.0, NAN), "growth_rate": (0.5, NAN), "layer_scale": (0.0, NAN), "eps": (0.0, NAN)},
    "dog": {"reps_rel": (0.0, -1.0, NAN), "init_eta": (0.0, NAN)},
    "ldog": {"reps_rel": (0.0, -1.0, NAN), "init_eta": (0.0, NAN)},
    "momo": {"beta": (1.0, -0.1, NAN), "lb": (NAN, INF)},
    "momo_adam": {"lb": (NAN, INF)},
    "am_msgd": {"lam": (-0.1, NAN), "beta_max": (1.1, -0.1, NAN)},
    "am_adamw": {"lam": (-0.1, NAN)},
    "adadelta": {"rho": (1.0, -0.1, NAN)},
    "asgd": {"alpha": (-0.1, NAN), "lambd": (-1.0, NAN), "t0": (-1.0, NAN)},
    "rmsprop": {"initial_square_avg": (-1.0, NAN)},
    "rmspropv2": {"alpha": (-0.1, 1.1, NAN)},
    "rprop": {"etas": ((1.0, 1.2), (0.0, 1.2), (0.5, 1.0), (0.5,), NAN), "step_sizes": ((1.0, 0.1), (-1.0, 1.0))},
    "ademamix": {"betas": ((0.9, 0.999), (0.9, 0.999, 1.0), (1.0, 0.999, 0.9999), (0.9, 0.999, NAN), 0.9, None),
                 "alpha": (-0.1, NAN), "alpha_warmup": (0.5, -1.0, NAN), "beta3_warmup": (0.5, NAN)},
    "adopt": {"clip_power": (-0.1, NAN)},
    **{name: {"gamma": (-0.1, 1.0, NAN)} for name in ("adamnorm", "adabeliefnorm", "radamnorm", "diffgradnorm")},
    "mars": {"gamma": (-0.1, NAN)},
    "adammini": {"block": ("column", "head"), "otherwise": ("column",), "heads": (0, 1.5), "kv_heads": (0,)},
    "pnm": {"betas": ((1.0, 1.0), (0.9, -0.1), (0.9, NAN), (0.9,), (), 0.9, None)},
    "adapnm": {"betas": ((0.9, 0.999), (0.9, 1.0, 1.0), (1.0, 0.999, 1.0), (0.9, 0.999, -1.0), 0.9, None)},
    "fcgd": {"alpha": (0.0, 1.1, NAN), "weights": ("adagl", None)},
    "adagl": {"alpha": (-0.1, 2.1, NAN)},
}  # fmt: skip
#: What must stand next to an option for it to be read at all.
WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("sgd", "dampening"): {"momentum": 0.9},
    ("adafactor", "lr"): {"relative_step": False, "lr": 0.01},
}


def illegal() -> list[Any]:
    """Every (optimizer, option, value) that must raise a ValueError."""
    found = []
    for name in thalweg.list_optimizers():
        table = {**{k: v for k, v in ILLEGAL.items() if k in signature(name)}, **SPECIAL.get(name, {})}
        found += [pytest.param(name, k, v, id=f"{name}-{k}-{v}") for k, tried in table.items() for v in tried]
    return found


def group_option(name: str, option: str) -> bool:
    """Whether the option may differ from group to group."""
    return option in thalweg.get(name).cls(make_params()).param_groups[0]


@pytest.mark.parametrize(("name", "option", "value"), illegal())
def test_out_of_range(name: str, option: str, value: Any) -> None:
    """Contract 9: a ValueError that names the option and what is legal, from the constructor and the second group."""
    cls, others = thalweg.get(name).cls, WITH.get((name, option), {})
    with pytest.raises(ValueError, match=rf"(?s){option}.*(legal|must|needs)"):
        cls(make_params(), **{**others, option: value})
    if group_option(name, option):
        a, b = make_params(((3, 2), (2, 2)))
        with pytest.raises(ValueError, match=option):
            cls([{"params": [a]}, {"params": [b], option: value}], **others)
        optimizer = cls([a], **others)
        train(optimizer, [a], 1)
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=option):
            optimizer.add_param_group({"params": [b], option: value})
        assert snapshot(optimizer) == before


@pytest.mark.parametrize("value", NOT_A_NUMBER, ids=lambda v: type(v).__name__)
def test_wrong_type_of_number(named: Case, value: Any) -> None:
    """Section 6.8: a text, a bool, a complex number ... for a number is a TypeError that names the option."""
    cls, default = thalweg.get(named.id).cls, signature(named.id)
    others = WITH.get((named.id, "lr"), {})
    for option in ("lr", "weight_decay"):
        with pytest.raises(TypeError, match=option):
            cls(make_params(), **{**others, option: value})
        with pytest.raises(TypeError, match=option):
            cls([{"params": make_params()}, {"params": make_params(seed=1), option: value}], **others)
    if isinstance(default.get("betas"), tuple):
        for betas in ((value, 0.5), (0.5, value)):
            with pytest.raises((TypeError, ValueError), match="beta"):
                cls(make_params(), betas=betas)


@pytest.mark.parametrize("value", ["no", 1, None], ids=str)
def test_wrong_type_of_switch(named: Case, value: Any) -> None:
    """Section 6.8: a switch takes True or False, nothing that merely looks like it."""
    cls = thalweg.get(named.id).cls
    switches = [k for k, v in signature(named.id).items() if isinstance(v, bool)]
    assert "maximize" in switches
    others = WITH.get((named.id, "lr"), {})
    for option in switches:
        with pytest.raises((TypeError, ValueError), match=option):
            cls(make_params(), **{**others, option: value})


def test_a_flag_that_is_not_supported_says_so(named: Case) -> None:
    """Contract 17: a flag of torch's that the library does not honour is refused, not ignored."""
    with pytest.raises(ValueError, match=r"differentiable=True is not supported.*False"):
        thalweg.get(named.id).cls(make_params(), differentiable=True)
    with pytest.raises(ValueError, match="differentiable"):
        thalweg.get(named.id).cls([{"params": make_params()}, {"params": make_params(seed=1), "differentiable": True}])


def test_unknown_option(case: Case) -> None:
    """Section 6.8: an option that nothing has is refused in constructor, group and later group, with the legal ones."""
    with pytest.raises(ValueError, match=r"(?s)learning_rate.*Legal here:.*\blr\b"):
        case.build(make_params(), learning_rate=0.1)
    a, b, c = make_params(((3, 2), (2, 2), (2, 3)))
    if case.id != "routed":
        with pytest.raises(ValueError, match=r"(?s)learning_rate.*Legal here:.*\blr\b"):
            case.build([{"params": [a]}, {"params": [b], "learning_rate": 0.1}])
    optimizer = case.build([a, b])
    train(optimizer, [a, b], 1)
    before = snapshot(optimizer)
    recipe = {"recipe": ADAMW} if case.id == "routed" else {}
    with pytest.raises(ValueError, match=r"(?s)learning_rate.*Legal here:.*\blr\b"):
        optimizer.add_param_group({"params": [c], "learning_rate": 0.1, **recipe})
    assert snapshot(optimizer) == before
    with pytest.raises(ValueError, match="Did you mean 'weight_decay'"):
        case.build(make_params(), weight_deca=0.1)


INERT: dict[str, tuple[Callable[..., Any], str]] = {
    "sgd dampening": (lambda p: thalweg.SGD(p, dampening=0.5), "dampening"),
    "sgd nesterov": (lambda p: thalweg.SGD(p, nesterov=True), "nesterov"),
    "sgd nesterov, dampening": (lambda p: thalweg.SGD(p, 0.1, 0.9, dampening=0.5, nesterov=True), "dampening"),
    "adafactor lr": (lambda p: thalweg.Adafactor(p, lr=0.1), "lr.*no effect"),
    "adafactor no lr": (lambda p: thalweg.Adafactor(p, relative_step=False), "pass lr"),
    "adafactor warmup": (lambda p: thalweg.Adafactor(p, lr=0.1, relative_step=False, warmup_init=True), "warmup_init"),
    "lamb phi_bounds": (lambda p: thalweg.LAMB(p, adapt=False, phi_bounds=(0.0, 1.0)), "phi_bounds"),
    "lamb ratio_bounds": (lambda p: thalweg.LAMB(p, adapt=False, ratio_bounds=(0.0, 1.0)), "ratio_bounds"),
    "adamw momentum": (lambda p: Optimizer(p, ADAMW, momentum=0.9), "momentum"),
    "sgd betas": (lambda p: Optimizer(p, PLAIN_SGD, betas=(0.9, 0.9)), "betas"),
    "lion eps": (lambda p: Optimizer(p, LION, eps=1e-8), "eps"),
    "three betas": (lambda p: thalweg.Adam(p, betas=(0.9, 0.99, 0.999)), "betas"),
    "outer twice": (lambda p: thalweg.ScheduleFreeSGD(p, outer=Lookahead()), "outer"),
    "fused and foreach": (lambda p: thalweg.AdamW(p, fused=True, foreach=True), "fused and foreach"),
    "group dampening": (lambda p: thalweg.SGD([{"params": p[:1]}, {"params": p[1:], "dampening": 0.5}]), "dampening"),
    "group eps": (lambda p: thalweg.Lion([{"params": p[:1]}, {"params": p[1:], "eps": 1e-8}]), "eps"),
    "group momentum": (lambda p: thalweg.AdamW([{"params": p[:1]}, {"params": p[1:], "momentum": 0.9}]), "momentum"),
    "group betas": (lambda p: thalweg.SGD([{"params": p[:1]}, {"params": p[1:], "betas": (0.5, 0.5)}]), "betas"),
    "group sf momentum": (
        lambda p: thalweg.ScheduleFreeSGD([{"params": p[:1]}, {"params": p[1:], "momentum": 0.5}]), "momentum"
    ),
    "group sf betas": (
        lambda p: thalweg.ScheduleFreeAdamW([{"params": p[:1]}, {"params": p[1:], "betas": (0.5, 0.999)}]), "betas"
    ),
    "group warmup_steps": (
        lambda p: thalweg.ScheduleFreeSGD([{"params": p[:1]}, {"params": p[1:], "warmup_steps": 5}]), "warmup_steps"
    ),
    "group adafactor lr": (lambda p: thalweg.Adafactor([{"params": p[:1]}, {"params": p[1:], "lr": 0.1}]), "lr"),
}  # fmt: skip


@pytest.mark.parametrize("what", INERT)
def test_inert_option(what: str) -> None:
    """Section 6.8: an option without effect in this recipe is refused, in the constructor and in a group."""
    build, message = INERT[what]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(make_params())


MALFORMED: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "k": (lambda p: Lookahead(0), ValueError, "k.*at least 1"),
    "k float": (lambda p: Lookahead(2.0), ValueError, "k"),
    "alpha": (lambda p: Lookahead(2, NAN), ValueError, "alpha"),
    "alpha text": (lambda p: Lookahead(2, "half"), TypeError, "alpha"),
    "beta": (lambda p: ScheduleFree(1.0), ValueError, "beta"),
    "r": (lambda p: ScheduleFree(r=NAN), ValueError, "r"),
    "warmup": (lambda p: ScheduleFree(warmup_steps=-1), ValueError, "warmup_steps"),
    "engine": (lambda p: thalweg.AdamW(p, engine="cuda"), ValueError, "engine.*auto.*compiled"),
    "outer": (lambda p: thalweg.AdamW(p, outer="lookahead"), TypeError, "outer.*Lookahead"),
    "set": (lambda p: thalweg.AdamW(set(p)), TypeError, "order"),
    "group set": (lambda p: thalweg.AdamW([{"params": set(p)}]), TypeError, "order"),
    "muon group set": (lambda p: thalweg.Muon([{"params": set(p)}]), TypeError, "order"),
    "tensor": (lambda p: thalweg.AdamW(p[0]), TypeError, "iterable"),
    "nothing": (lambda p: thalweg.AdamW([]), ValueError, "empty"),
    "numbers": (lambda p: thalweg.AdamW([1.0]), TypeError, "Tensor"),
    "muon numbers": (lambda p: thalweg.Muon([1.0]), TypeError, "Tensor"),
    "muon no params": (lambda p: thalweg.Muon([{"lr": 0.1}]), (KeyError, ValueError), "params"),
    "non-leaf": (lambda p: thalweg.AdamW([p[0] * 2]), ValueError, "non-leaf"),
    "twice": (lambda p: thalweg.AdamW([{"params": p}, {"params": p[:1]}]), ValueError, "more than one"),
    "group": (lambda p: thalweg.AdamW(p).add_param_group([p]), TypeError, "dict"),
    "lamb bounds": (lambda p: thalweg.LAMB(p, phi_bounds=5.0), (TypeError, ValueError), "phi_bounds"),
    "muon safety": (lambda p: thalweg.Muon(p, ns_safety="x"), (TypeError, ValueError), "ns_safety"),
    "muon rest": (lambda p: thalweg.Muon(p, rest={"lr": -1.0}), ValueError, "lr"),
    "muon rest unused": (lambda p: thalweg.Muon(p[:1], rest={"lr": -1.0}), ValueError, "lr"),
    "mars rest": (lambda p: thalweg.MARS(p, rest={"lr": -1.0}), ValueError, "lr"),
    "mars rest unknown": (lambda p: thalweg.MARS(p, rest={"speed": 1.0}), ValueError, "speed"),
    "mini heads": (lambda p: thalweg.AdamMini(p, block="head", heads=5), ValueError, "heads do not divide"),
    "mini rules": (lambda p: thalweg.AdamMini(p, rules={"conv": "filter"}), ValueError, "conv"),
    "muon rest unknown": (lambda p: thalweg.Muon(p, rest={"speed": 1.0}), ValueError, "speed"),
    "mode": (lambda p: thalweg.create("adamww", p), KeyError, "adamw"),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(what: str) -> None:
    """Contract 9: outer methods, engines and forms of ``params`` that make no sense, by the error torch would raise."""
    build, error, message = MALFORMED[what]
    with pytest.raises(error, match=f"(?s){message}"):
        build(make_params())


def test_bounds_as_a_list() -> None:
    """A list of two numbers, as JSON and YAML give it, is as good as a tuple."""
    optimizer = thalweg.LAMB(make_params(), phi_bounds=[0.1, 10.0])
    train(optimizer, members(optimizer), 1)


@pytest.mark.parametrize(
    "group",
    [
        {"params": "new and old"},
        {"params": "new", "betas": (1.0, 0.9)},
        {"params": "new", "weight_decay": -1.0},
        {"params": "new", "speed": 1.0},
    ],
    ids=lambda g: list(g)[-1],
)
def test_refused_group_of_muon_leaves_nothing_behind(group: dict[str, Any]) -> None:
    """Muon splits a group in two; if either half is refused, neither is added."""
    a, b, matrix, vector = make_params(((3, 2), (2,), (2, 2), (3,)))
    optimizer = case("muon").build([a, b])
    before = snapshot(optimizer)
    new = {"new": [matrix, vector], "new and old": [matrix, b]}[group["params"]]
    with pytest.raises(ValueError, match="|".join([*group, "more than one"][1:])):
        optimizer.add_param_group({**group, "params": new})
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("started", [False, True], ids=["fresh", "running"])
def test_sparse_gradient(case: Case, started: bool) -> None:
    """Section 6 and contract 9: a sparse gradient, also of the last parameter, is a RuntimeError naming the remedy."""
    if case.id == "sparseadam":
        pytest.skip("it is made for sparse gradients: tests/engines/test_sparse.py")
    params = make_params(((4, 3), (3,), (4, 2)))
    optimizer = case.build(params)
    if started:
        train(optimizer, params, 2)
    set_grads(params, 3)
    params[-1].grad = torch.eye(4, 2).to_sparse()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"sparse.*sparse=False"):
        optimizer.step(loss=1.0)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("loss", "message"),
    [(None, "step.loss=|closure"), (NAN, "finite"), (INF, "finite"), (-1.0, "at least 0"), ("1 e", "loss"),
     (torch.ones(2), "loss")],
    ids=["missing", "nan", "inf", "negative", "text", "two"],
)  # fmt: skip
@pytest.mark.parametrize("started", [False, True], ids=["fresh", "running"])
def test_loss_of_adalo(loss: Any, message: str, started: bool) -> None:
    """Contract 23 and 6.8: AdaLo without a usable loss says what to pass; groups before it have not moved either."""
    a, b, c = make_params(((3, 2), (2, 2), (2,)))
    groups = [
        {"params": [a], "recipe": ADAMW},
        {"params": [b], "recipe": ADAMW.but(first=None, outer=ScheduleFree())},
        {"params": [c], "recipe": ADALO},
    ]
    optimizer = Optimizer(groups, engine="foreach")
    if started:
        train(optimizer, [a, b, c], 2)
    set_grads([a, b, c], 3)
    before = snapshot(optimizer)
    if started and loss is None:
        optimizer.step()  # the average of the losses so far stands in
        assert snapshot(optimizer)["groups"][2] == before["groups"][2]
        return
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.step(loss=loss)
    assert snapshot(optimizer) == before


def test_closure_without_a_loss() -> None:
    """A closure that forgets to return the loss is told so by AdaLo, and is harmless elsewhere."""
    p = make_params(((3, 2),))
    set_grads(p, 1)
    with pytest.raises(ValueError, match="closure that returns the loss"):
        thalweg.AdaLo(p).step(lambda: None)
    assert thalweg.AdamW(p).step(lambda: None) is None


@pytest.mark.parametrize("id", [c.id for c in CASES if "schedulefree" in c.id])
def test_step_in_eval_mode(id: str) -> None:
    """Section 6.6: a step at the averaged weights is a RuntimeError that names ``train()``; nothing changes."""
    params = make_params()
    optimizer = case(id).build(params)
    train(optimizer, params, 2)
    optimizer.eval()
    set_grads(params, 3)
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        optimizer.step()
    assert snapshot(optimizer) == before


def test_routing_errors() -> None:
    """Section 6.8: a role that does not exist, and a parameter that no option places, are named with the remedy."""
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    with pytest.raises(ValueError, match=r"(?s)matrixes.*Did you mean.*matrices"):
        thalweg.route(model, matrixes={"recipe": MUON})
    with pytest.raises(ValueError, match=r"0\.bias.*rest=dict"):
        thalweg.route(model, matrices={"recipe": MUON})


def test_what_is_equal_to_a_legal_option_is_looked_at_again() -> None:
    """2 and 2.0 are equal; what was built for one is not given out for the other."""
    thalweg.get("adamw2").cls(make_params(), sigma=("power", 7))
    with pytest.raises(ValueError, match="sigma"):
        thalweg.get("adamw2").cls(make_params(), sigma=("power", 7.0))
