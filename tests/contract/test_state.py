"""What state and modes are: keys, kinds, dtypes, train() and eval() (contract 3, 5, 20, 21, 22, section 6.1, 6.6)."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from contract.common import AVERAGED, Case, bits, clones, make_params, members, set_grads, train, values
from thalweg import registry


def test_state_holds_plain_tensors_by_parameter(case: Case) -> None:
    """Contract 20: flat dicts of tensors keyed by parameters; names without dots; memory of their own."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 2)
    assert set(optimizer.state) == set(params)
    seen: list[int] = []
    for state in optimizer.state.values():
        assert all(isinstance(k, str) and "." not in k for k in state)
        assert all(type(v) is Tensor and v.grad_fn is None and v.is_leaf for v in state.values())
        assert all(v.isfinite().all() for v in state.values())
        seen += [v.data_ptr() for v in state.values()]
    assert len(set(seen)) == len(seen)
    for group in optimizer.state_dict()["param_groups"]:
        assert all(_loadable(v) for v in group.values())


def _loadable(value: Any) -> bool:
    """Contract 5: what ``torch.load(weights_only=True)`` reads and ``copy.deepcopy`` copies."""
    if isinstance(value, (tuple, list)):
        return all(_loadable(v) for v in value)
    return value is None or type(value) in (bool, int, float, str, Tensor, torch.dtype, torch.device)


def test_all_keys_exist_after_the_first_step(case: Case) -> None:
    """Contract 21: a key that appears later is dropped by flattened loading; also group keys stay the same."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 1)
    first = [{k: (v.shape, v.dtype) for k, v in optimizer.state[p].items()} for p in params]
    groups = [list(g) for g in optimizer.param_groups]
    train(optimizer, params, 24, start=2)
    assert [{k: (v.shape, v.dtype) for k, v in optimizer.state[p].items()} for p in params] == first
    assert [list(g) for g in optimizer.param_groups] == groups


def test_step_is_a_host_tensor_that_counts_each_parameter(case: Case) -> None:
    """Contract 7, 18 and section 6.7: ``step`` is a 0-d tensor, as torch expects, one for each parameter."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 3)
    params[0].grad = None
    optimizer.step(loss=1.0)
    steps = [optimizer.state[p]["step"] for p in params]
    assert [s.item() for s in steps] == [3, 4, 4, 4]
    assert all(s.shape == () and s.is_floating_point() and s.device.type == "cpu" for s in steps)
    assert len({s.data_ptr() for s in steps}) == len(steps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_state_dtype(case: Case, dtype: torch.dtype) -> None:
    """Section 6.5: moments of half-precision parameters are float32, others are as precise as the parameter."""
    params = make_params(dtype=dtype)
    optimizer = case.build(params)
    train(optimizer, params, 2)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for p in params:
        assert p.dtype == dtype
        scalars = {"step"}.union(*(optimizer.recipe_of(g).numbers for g in optimizer.param_groups))
        bits = {torch.uint8, torch.bool}  # signs, where a method keeps them as such
        assert {v.dtype for k, v in optimizer.state[p].items() if k not in scalars} - bits <= {wide}
        assert {optimizer.state[p][k].dtype for k in scalars & optimizer.state[p].keys()} == {torch.float64}


def _pickled(optimizer: Any) -> Any:
    return pickle.loads(pickle.dumps(optimizer))


def _saved(optimizer: Any) -> Any:
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": _pickled, "torch.save": _saved}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("steps", [0, 3], ids=["fresh", "running"])
def test_copies_continue_bit_for_bit(case: Case, how: str, steps: int) -> None:
    """Contract 3 and section 6.2: recipes, outer methods and options survive; the copy is independent."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, steps)
    twin = COPIES[how](optimizer)
    assert type(twin) is type(optimizer)
    assert repr(twin) == repr(optimizer)
    assert twin.engine == "foreach"
    assert values(twin) == values(optimizer)
    assert not {id(p) for p in members(twin)} & {id(p) for p in params}
    before = values(optimizer)
    train(twin, members(twin), 4, start=steps + 1)
    assert values(optimizer) == before
    train(optimizer, members(optimizer), 4, start=steps + 1)
    assert values(twin) == values(optimizer)
    # What the constructor could do, the copy can: take a group, refuse an option, load a checkpoint.
    (extra,) = make_params(((2, 2),))
    recipe = {"recipe": thalweg.ADAMW} if case.id == "routed" else {}
    twin.add_param_group({"params": [extra], **recipe})
    with pytest.raises(ValueError, match="speed"):
        twin.add_param_group({"params": make_params(((3, 2),)), "speed": 1, **recipe})
    train(twin, members(twin), 1)


@pytest.mark.parametrize("how", COPIES)
def test_model_and_optimizer_copied_together(how: str) -> None:
    """Contract 3: copied with its model, the optimizer moves the copied model's parameters."""
    model = nn.Linear(3, 2)
    pair = COPIES[how]((model, thalweg.AdamW(model.parameters(), engine="foreach")))
    assert [id(p) for p in pair[0].parameters()] == [id(p) for p in members(pair[1])]
    before = [bits(p) for p in pair[0].parameters()]
    train(pair[1], pair[0].parameters(), 1)
    assert [bits(p) for p in pair[0].parameters()] != before


@pytest.mark.parametrize("how", COPIES)
def test_copies_keep_engine_and_rounding(how: str) -> None:
    """Section 6.2: what the constructor chose survives a copy, stochastic rounding to the last bit."""
    params = make_params(dtype=torch.bfloat16)
    optimizer = thalweg.AdamW(params, engine="reference", rounding="stochastic")
    train(optimizer, params, 2)
    twin = COPIES[how](optimizer)
    assert (twin.engine, twin.rounding) == ("reference", "stochastic")
    train(optimizer, params, 3, start=3)
    train(twin, members(twin), 3, start=3)
    assert values(twin) == values(optimizer)


def test_old_pickles_are_completed(case: Case) -> None:
    """Contract 7: ``__setstate__`` restores flags that an older version did not have, and numeric steps."""
    params, others = make_params(), make_params()
    optimizer, same = case.build(params), case.build(others)
    train(optimizer, params, 2)
    train(same, others, 2)
    state = optimizer.__getstate__()
    for group in state["param_groups"]:
        for key in ("maximize", "foreach", "capturable", "differentiable", "fused"):
            del group[key]
    for values_ in state["state"].values():
        values_["step"] = values_["step"].item()
    optimizer.__setstate__(state)
    train(optimizer, params, 2, start=3)
    train(same, others, 2, start=3)
    assert values(optimizer)["params"] == values(same)["params"]
    assert all(isinstance(optimizer.state[p]["step"], Tensor) for p in params)
    assert optimizer.param_groups[0]["capturable"] is False


def test_a_defined_optimizer_survives_deepcopy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 6.2: a class made by ``define`` keeps its recipe through a copy."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    recipe = thalweg.ADAMW.but(outer=thalweg.Lookahead(3, 0.5))
    cls = thalweg.define("ContractExample", recipe, lr=0.1)
    params = make_params()
    optimizer = cls(params, engine="foreach")
    train(optimizer, params, 2)
    twin = copy.deepcopy(optimizer)
    train(twin, members(twin), 3, start=3)
    train(optimizer, params, 3, start=3)
    assert values(twin) == values(optimizer)


# ---- modes


@pytest.mark.parametrize("averaged", AVERAGED, ids=lambda c: c.id)
def test_modes_are_idempotent_and_reversible(averaged: Case) -> None:
    """Section 6.6: a second eval() or train() does nothing; there and back again returns the parameters."""
    params = make_params()
    optimizer = averaged.build(params)
    train(optimizer, params, 5)
    training = [p.detach().clone() for p in params]
    assert optimizer.train() is optimizer
    assert [bits(p) for p in params] == [bits(p) for p in training]
    assert optimizer.eval() is optimizer
    evaluated = [p.detach().clone() for p in params]
    assert all(not torch.equal(p, t) for p, t in zip(params, training, strict=True))
    assert all(group["train_mode"] is False for group in optimizer.param_groups)
    optimizer.eval()
    optimizer.train(False)
    assert [bits(p) for p in params] == [bits(p) for p in evaluated]
    optimizer.train()
    torch.testing.assert_close([p.detach() for p in params], training)
    train(optimizer, params, 1, start=6)


@pytest.mark.parametrize("averaged", AVERAGED, ids=lambda c: c.id)
def test_mode_before_the_first_step_and_without_gradients(averaged: Case) -> None:
    """Section 6.6: parameters that have not moved are their own average in either mode."""
    params = make_params()
    before = [bits(p) for p in params]
    optimizer = averaged.build(params)
    optimizer.eval()
    assert [bits(p) for p in params] == before
    optimizer.train()
    set_grads(params[:1], 1)
    optimizer.step()
    optimizer.eval()
    assert [bits(p) for p in params[1:]] == before[1:]


@pytest.mark.parametrize("averaged", AVERAGED, ids=lambda c: c.id)
def test_mode_is_saved(averaged: Case) -> None:
    """Section 6.6: saved in eval mode, loaded in eval mode, training goes on where it was."""
    params = make_params()
    optimizer = averaged.build(params)
    train(optimizer, params, 3)
    optimizer.eval()
    twins = clones(params)
    loaded = averaged.build(twins)
    loaded.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="train"):
        train(loaded, twins, 1)
    for opt, own in ((optimizer, params), (loaded, twins)):
        opt.train()
        train(opt, own, 3, start=4)
    assert values(loaded) == values(optimizer)


def test_modes_without_averages_do_nothing(case: Case) -> None:
    """Section 5: HF's Trainer calls train() and eval() wherever they exist."""
    params = make_params()
    optimizer = case.build(params)
    train(optimizer, params, 2)
    if any("train_mode" in group for group in optimizer.param_groups):
        assert case in AVERAGED
        return
    before = values(optimizer)
    assert optimizer.eval() is optimizer
    train_mode = optimizer.train()
    assert train_mode is optimizer
    assert values(optimizer) == before
    optimizer.eval()
    train(optimizer, params, 1, start=3)


class Wrapper:
    """Lightning's wrapper: a class of both, made on the spot, over a copy of the optimizer's ``__dict__``."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__ = {k: v for k, v in optimizer.__dict__.items() if k not in ("step", "__del__")}
        self.__class__ = type("Lightning" + type(optimizer).__name__, (type(self), type(optimizer)), {})
        self._optimizer = optimizer

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        return self._optimizer.step(closure, **kwargs)


def test_modes_and_steps_through_a_wrapper(case: Case) -> None:
    """Section 5 and 6.6: ``wrapper.eval()`` runs with the wrapper as ``self``; the optimizer must see it too."""
    params, others = make_params(), make_params()
    optimizer, plain = case.build(params), case.build(others)
    wrapper: Any = Wrapper(optimizer)
    for opt, own in ((wrapper, params), (plain, others)):
        train(opt, own, 3)
        opt.eval()
        opt.eval()
    assert values(optimizer) == values(plain)
    assert [g.get("train_mode") for g in optimizer.param_groups] == [g.get("train_mode") for g in plain.param_groups]
    for opt, own in ((wrapper, params), (plain, others)):
        opt.train()
        train(opt, own, 2, start=4)
    assert values(optimizer) == values(plain)
    wrapper.load_state_dict(wrapper.state_dict())
    train(wrapper, params, 1, start=6)
    train(plain, others, 1, start=6)
    assert [bits(p) for p in params] == [bits(p) for p in others]
