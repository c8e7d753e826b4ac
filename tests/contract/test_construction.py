"""How optimizers are built: forms of ``params``, groups, names, later groups (contract 1, 4, 6, 8, 10, 16)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg
from contract.common import (
    Case,
    bits,
    clones,
    make_params,
    members,
    remembers,
    routed,
    set_grads,
    signature,
    train,
    values,
)
from thalweg import ADAMW, MUON, Optimizer

FORMS = {
    "list": lambda params: list(params),
    "tuple": lambda params: tuple(params),
    "generator": lambda params: (p for p in params),
    "pairs": lambda params: [(f"layer.{i}", p) for i, p in enumerate(params)],
    "pair generator": lambda params: ((f"layer.{i}", p) for i, p in enumerate(params)),
    "groups": lambda params: [{"params": params[:2]}, {"params": params[2:]}],
    "groups of generators": lambda params: [{"params": (p for p in params[:2])}, {"params": (p for p in params[2:])}],
    "groups of pairs": lambda params: [{"params": [(f"layer.{i}", p) for i, p in enumerate(params)]}],
    "tensor in group": lambda params: [{"params": p} for p in params],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_params_trains_alike(named: Case, form: str) -> None:
    """Contract 1: list, generator, pairs and groups all train, to the same bits, and pairs keep their names."""
    params = make_params()
    expected = clones(params)
    optimizer = named.build(FORMS[form](params))
    # A method with a number for each group is another one in other groups; there the other engine is the witness.
    grouped = remembers(optimizer) == "group"
    witness = named.build(FORMS[form](expected), engine="reference") if grouped else named.build(expected)
    train(witness, expected, 3)
    assert sorted(map(id, members(optimizer))) == sorted(map(id, params))
    train(optimizer, params, 3)
    if not form.startswith("group") and form != "tensor in group" and not grouped:
        assert [bits(p) for p in params] == [bits(p) for p in expected]
    torch.testing.assert_close([p.data for p in params], [p.data for p in expected])
    if "pair" in form:
        names = [n for group in optimizer.state_dict()["param_groups"] for n in group["param_names"]]
        assert sorted(names) == [f"layer.{i}" for i in range(len(params))]
        by_name = {n: p for g in optimizer.param_groups for n, p in zip(g["param_names"], g["params"], strict=True)}
        assert all(by_name[f"layer.{i}"] is p for i, p in enumerate(params))


def test_built_from_one_parameter_alone(named: Case) -> None:
    """Contract 1: ``cls([p])``, without options, as ZeRO, torchtune and torchtitan build it, trains."""
    cls = thalweg.get(named.id).cls
    for p in make_params():
        before = p.detach().clone()
        train(cls([p]), [p], 6)  # some move nothing in their first steps
        assert not torch.equal(p, before)


def test_rebuilt_from_its_own_groups(case: Case) -> None:
    """Contract 1: a new optimizer from another's ``param_groups`` (HF, ZeRO, fairscale) is the same optimizer."""
    params = make_params()
    source = case.build(params)
    twins = clones(params)
    twin_of = dict(zip(params, twins, strict=True))
    groups = [{**group, "params": [twin_of[p] for p in group["params"]]} for group in source.param_groups]
    options = {k: v for k, v in case.options.items() if k in ("outer", "techniques")}
    rebuilt = type(source)(groups, engine="foreach", **options)
    assert [len(g["params"]) for g in rebuilt.param_groups] == [len(g["params"]) for g in source.param_groups]
    train(source, params, 3)
    train(rebuilt, twins, 3)
    assert values(rebuilt) == values(source)


def test_rebuilt_from_defaults(named: Case) -> None:
    """Contract 1: ``cls(params, **optimizer.defaults)``, as ZeRO builds its local optimizer."""
    params = make_params()
    source = named.build(params)
    twins = clones(params)
    rebuilt = type(source)(twins, engine="foreach", **source.defaults)
    train(source, params, 2)
    train(rebuilt, twins, 2)
    if not named.id.startswith("schedulefree"):  # the outer method is no default of a group
        assert values(rebuilt) == values(source)
    torch.testing.assert_close([p.data for p in twins], [p.data for p in params])


def test_torch_flags_are_in_defaults_and_groups(case: Case) -> None:
    """Contract 2 and 16: torch reads ``differentiable`` from defaults and ``capturable`` from groups."""
    optimizer = case.build(make_params())
    for holder in (optimizer.defaults, *optimizer.param_groups):
        assert {k: holder[k] for k in ("maximize", "foreach", "capturable", "differentiable", "fused")} == {
            "maximize": False, "foreach": None, "capturable": False, "differentiable": False, "fused": None
        }  # fmt: skip
    assert not hasattr(optimizer, "_step_supports_amp_scaling")  # contract 15
    assert not hasattr(optimizer, "_init_group")  # contract 18: Dynamo gives this name a meaning


def test_number_types_become_plain_floats(named: Case) -> None:
    """Contract 5: numpy and integer options end as floats, which ``weights_only`` loading can read."""
    given: dict[str, Any] = {"weight_decay": np.float64(0.1)}
    given |= {"lr": np.float32(0.5)} if signature(named.id)["lr"] is not None else {}
    optimizer = thalweg.get(named.id).cls(make_params(), **given)
    for name in given:
        assert type(optimizer.param_groups[0][name]) is float
    whole = thalweg.get(named.id).cls(make_params(), weight_decay=1)
    assert type(whole.param_groups[0]["weight_decay"]) is float


def test_common_keywords(named: Case) -> None:
    """Section 5: timm always passes ``weight_decay``, HF and Lightning ``lr``; every class takes both by keyword."""
    options = {"lr": 0.5, "weight_decay": 0.25, **named.scheduled}
    group = thalweg.get(named.id).cls([nn.Parameter(torch.ones(2, 2))], **{**options, "lr": 0.5}).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)


def test_methods_by_keyword(case: Case) -> None:
    """Contract 8: ``step(closure=)``, ``load_state_dict(state_dict=)`` and ``zero_grad(set_to_none=)``."""
    params = make_params()
    optimizer = case.build(params)
    set_grads(params, 1)
    assert optimizer.step(closure=lambda: 2.5) == 2.5
    optimizer.load_state_dict(state_dict=optimizer.state_dict())
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in params)
    optimizer.zero_grad(set_to_none=True)
    assert all(p.grad is None for p in params)


def test_group_params_may_be_swapped_before_the_first_step(case: Case) -> None:
    """Contract 6: accelerate's FSDP2 path swaps ``group["params"]``; nothing of the old tensors is remembered."""
    originals, final = make_params(seed=1), make_params()
    expected = clones(final)
    train(case.build(expected), expected, 3)
    optimizer = case.build(originals)
    final_of = dict(zip(originals, final, strict=True))
    swapped = [[final_of[p] for p in g["params"]] for g in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["params"] = [torch.empty(1) for _ in group["params"]]
    for group, params in zip(optimizer.param_groups, swapped, strict=True):
        group["params"] = params
    train(optimizer, final, 3)
    assert [bits(p) for p in final] == [bits(p) for p in expected]


def test_state_follows_the_parameter_as_it_is_at_the_first_step(case: Case) -> None:
    """Section 6.1: a model cast after the optimizer was built gets state of the new dtype, values included."""
    params = make_params()
    optimizer = case.build(params)
    for p in params:
        p.data = p.data.double() + 1
    expected = clones(params)
    train(case.build(expected), expected, 2)
    train(optimizer, params, 2)
    assert [bits(p) for p in params] == [bits(p) for p in expected]
    numbers = [v for p in params for v in optimizer.state[p].values() if v.is_floating_point()]  # signs are bits
    assert all(v.dtype == torch.float64 for v in numbers)


def test_no_state_before_the_first_step(case: Case) -> None:
    """Contract 23 and section 6.1: state made by the constructor would disable the checkpoint tools' rehearsal."""
    optimizer = case.build(make_params())
    assert len(optimizer.state) == 0
    assert optimizer.state_dict()["state"] == {}


def test_routed_groups_keep_their_own_options() -> None:
    """Contract 2: each group shows the numbers that its own recipe reads, and no others."""
    optimizer = routed(make_params())
    matrices, rest = optimizer.param_groups
    assert (matrices["lr"], matrices["momentum"], rest["lr"], rest["betas"]) == (0.02, 0.95, 0.01, (0.9, 0.999))
    assert "betas" not in matrices
    assert "momentum" not in rest
    assert optimizer.recipe_of(matrices) == MUON
    assert optimizer.recipe_of(rest) == ADAMW
    with pytest.raises(AttributeError, match="recipe_of"):
        _ = optimizer.recipe


def test_recipe_names_in_groups() -> None:
    """A group may name its recipe by the registered name; a class with its own recipe refuses another."""
    a, b = make_params(((3, 2), (2,)))
    optimizer = Optimizer([{"params": [a], "recipe": "lion"}, {"params": [b]}], recipe="adamw", lr=0.1)
    assert [optimizer.recipe_of(g) for g in optimizer.param_groups] == [thalweg.get("lion").recipe, ADAMW]
    with pytest.raises(ValueError, match=r"thalweg\.Optimizer"):
        thalweg.AdamW([{"params": [a], "recipe": MUON}])
    with pytest.raises(KeyError, match="adamw"):
        Optimizer([a], recipe="adamww")
    with pytest.raises(ValueError, match=r"recipe=\.\.\."):
        Optimizer([a])
    with pytest.raises(TypeError, match="recipe must be"):
        Optimizer([a], recipe=3)
