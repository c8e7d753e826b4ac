"""Save, load into a new optimizer, go on: bit-identical to never having stopped."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import thalweg
from engines.rig import LAYOUTS, NAMES, SIMPLE, build, everything, groups, loss_at, parameters, set_gradients

ENGINES = ("reference", "foreach", "compiled")


def _through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _clones(params: dict[str, Parameter]) -> dict[str, Parameter]:
    """Copies with the same strides, gaps included: another layout may be rounded by other code."""
    return {
        name: Parameter(torch.empty_strided(p.shape, p.stride(), dtype=p.dtype).copy_(p.detach()))
        for name, p in params.items()
    }


def _train(opt: thalweg.Optimizer, params: dict[str, Parameter], steps: range) -> None:
    for t in steps:
        set_gradients(params, t)
        opt.step(loss=loss_at(t))


def _assert_identical(
    opt: thalweg.Optimizer, params: dict[str, Parameter], other: thalweg.Optimizer, theirs: dict[str, Parameter]
) -> None:
    ours, expected = everything(other, theirs), everything(opt, params)
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        assert ours[key].dtype == value.dtype
        assert torch.equal(ours[key], value), key
    for group, again in zip(opt.param_groups, other.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in again.items() if k != "params"}


def _resume(name: str, engine: str, dtype: torch.dtype, layouts: tuple[str, ...], **changes: Any) -> None:
    params = parameters(dtype, layouts)
    opt = build(name, groups(params, name), engine, **changes)
    _train(opt, params, range(1, 5))
    copies = _clones(params)
    fresh = build(name, groups(copies, name), engine, **changes)
    fresh.load_state_dict(_through_a_file(opt.state_dict()))
    _assert_identical(opt, params, fresh, copies)
    before = {key: p.detach().clone() for key, p in params.items()}
    _train(opt, params, range(5, 9))
    _train(fresh, copies, range(5, 9))
    _assert_identical(opt, params, fresh, copies)
    assert not torch.equal(before["matrix"], params["matrix"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_float32(name: str, engine: str) -> None:
    _resume(name, engine, torch.float32, tuple(LAYOUTS))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name: str, engine: str, few: None) -> None:
    _resume(name, engine, torch.bfloat16, SIMPLE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("outer", [thalweg.Lookahead(3, 0.5), thalweg.ScheduleFree()], ids=lambda o: type(o).__name__)
def test_outer(outer: Any, engine: str, few: None) -> None:
    """The slow weights, the averaged iterate and the group's counts are part of the checkpoint."""
    _resume("adamw", engine, torch.float32, SIMPLE, outer=outer)


def test_saved_in_eval_mode() -> None:
    params = parameters(layouts=SIMPLE)
    opt = build("schedulefree_adamw", groups(params, "schedulefree_adamw"), "reference")
    _train(opt, params, range(1, 4))
    opt.eval()
    copies = _clones(params)
    fresh = build("schedulefree_adamw", groups(copies, "schedulefree_adamw"), "reference")
    fresh.load_state_dict(_through_a_file(opt.state_dict()))
    with pytest.raises(RuntimeError, match="eval mode"):
        _train(fresh, copies, range(4, 5))
    opt.train()
    fresh.train()
    _train(opt, params, range(4, 7))
    _train(fresh, copies, range(4, 7))
    _assert_identical(opt, params, fresh, copies)
