"""Identities and edges of the classics, and L-BFGS's checks."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg


def _run(opt: Any, p: nn.Parameter, steps: int = 20, rates: Any = None) -> Tensor:
    for t in range(1, steps + 1):
        p.grad = torch.sin(1.3 * t + 0.7 * torch.arange(p.numel(), dtype=p.dtype)) + 0.1 * p.detach()
        if rates is not None:
            opt.param_groups[0]["lr"] = rates(t)
        opt.step()
    return p.detach()


def _two() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.linspace(-1, 2, 5, dtype=torch.float64)), nn.Parameter(
        torch.linspace(-1, 2, 5, dtype=torch.float64)
    )


@pytest.mark.parametrize("inside", [True, False])
def test_rmsprop_v2_is_rmsprop_at_other_numbers(inside: bool) -> None:
    a, b = _two()
    small = 0.1 if inside else 0.1**0.5  # 1 - alpha, or its root
    got = _run(thalweg.RMSpropV2([a], lr=0.02, alpha=0.9, eps=1e-2, eps_inside=inside), a)
    want = _run(thalweg.RMSprop([b], lr=0.02 * 0.1**0.5, alpha=0.9, eps=1e-2 * small, eps_inside=inside), b)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_rmsprop_v2_that_never_forgets_is_adagrad() -> None:
    a, b = _two()
    got = _run(thalweg.RMSpropV2([a], lr=0.02, alpha=1.0, eps=1e-3), a)
    torch.testing.assert_close(got, _run(thalweg.Adagrad([b], lr=0.02, eps=1e-3, eps_inside=True), b))


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_place_of_lr_matters_only_when_it_changes(nesterov: bool) -> None:
    for rates, same in ((None, True), (lambda t: 0.1 / t, False)):
        a, b = _two()
        options: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov}
        got = _run(thalweg.SGD([a], lr_inside=True, **options), a, rates=rates)
        want = _run(thalweg.SGD([b], **options), b, rates=rates)
        assert torch.allclose(got, want, rtol=1e-12, atol=1e-12) == same


def test_torchs_buffer_is_not_taken_for_a_velocity() -> None:
    a, b = _two()
    theirs = torch.optim.SGD([b], lr=0.1, momentum=0.9)
    _run(theirs, b, 2)
    with pytest.raises(ValueError, match="velocity"):
        thalweg.SGD([a], lr=0.1, momentum=0.9, lr_inside=True).load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("cls", [thalweg.SGD, thalweg.RMSprop])
def test_lr_inside_needs_momentum(cls: Any) -> None:
    with pytest.raises(ValueError, match="lr_inside needs momentum"):
        cls([_two()[0]], lr_inside=True)


def test_asgd_averages_from_t0_on() -> None:
    p, _ = _two()
    opt = thalweg.ASGD([p], lr=0.05, lambd=0.0, t0=6, engine="reference")
    seen = []
    for t in range(1, 21):
        p.grad = torch.sin(1.3 * t + torch.arange(5, dtype=torch.float64))
        opt.step()
        seen.append(p.detach().clone())
        expected = seen[-1] if t <= 8 else torch.stack(seen[7:]).mean(0)
        torch.testing.assert_close(opt.state[p]["ax"], expected, rtol=1e-12, atol=1e-12)


def test_rprop_with_gradients_whose_product_underflows() -> None:
    """torch sees no agreement of signs at 1e-30, and its steps never grow."""
    ours, theirs = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    a, b = thalweg.Rprop([ours], lr=0.1, engine="foreach"), torch.optim.Rprop([theirs], lr=0.1)
    for _ in range(3):
        ours.grad, theirs.grad = torch.full((3,), 1e-30), torch.full((3,), 1e-30)
        a.step()
        b.step()
    assert ours.tolist() == pytest.approx([-0.1 * (1 + 1.2 + 1.44)] * 3)
    assert theirs.tolist() == pytest.approx([-0.3] * 3), "torch has mended it: say so in docs/deviations.md"


# ----------------------------------------------------------------------------------------------------------- L-BFGS


def _closure(opt: Any, p: nn.Parameter) -> Any:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        loss.backward()
        return loss

    return closure


def _point() -> nn.Parameter:
    return nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))


def test_lbfgs_goes_on_from_either_checkpoint() -> None:
    """Ours from torch's and torch's from ours, bit for bit; the checkpoint's memory stays its own."""
    options: dict[str, Any] = {"max_iter": 3, "history_size": 4, "line_search_fn": "strong_wolfe"}
    p = _point()
    opt: Any = torch.optim.LBFGS([p], **options)
    for cls in (thalweg.LBFGS, torch.optim.LBFGS, thalweg.LBFGS):
        for _ in range(2):
            opt.step(_closure(opt, p))
        file = io.BytesIO()
        torch.save(opt.state_dict(), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        kept = copy.deepcopy(saved)
        q = nn.Parameter(p.detach().clone())
        other = cls([q], **options)
        other.load_state_dict(saved)
        opt.step(_closure(opt, p))
        other.step(_closure(other, q))
        assert torch.equal(p, q)
        if cls is thalweg.LBFGS:
            now, then = saved["state"][0], kept["state"][0]
            assert torch.equal(now["d"], then["d"])
            assert all(torch.equal(a, b) for a, b in zip(now["old_dirs"], then["old_dirs"], strict=True))
        opt, p = other, q
    assert thalweg.LBFGS([p]).state_bytes() == 0


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("lr", -1.0, ValueError),
        ("lr", float("nan"), ValueError),
        ("max_iter", 0, ValueError),
        ("max_iter", 2.0, TypeError),
        ("max_eval", 0, ValueError),
        ("tolerance_grad", -1.0, ValueError),
        ("tolerance_change", -1.0, ValueError),
        ("history_size", 0, ValueError),
        ("history_size", True, TypeError),
        ("line_search_fn", "armijo", ValueError),
    ],
)
def test_lbfgs_refuses_what_is_out_of_range(option: str, value: Any, error: type[Exception]) -> None:
    for params in ([_point()], [{"params": [_point()], option: value}]):
        options = {option: value} if isinstance(params[0], nn.Parameter) else {}
        with pytest.raises(error, match=option):
            thalweg.LBFGS(params, **options)


def test_lbfgs_refuses_groups_steps_without_a_closure_and_other_checkpoints() -> None:
    p = _point()
    with pytest.raises(ValueError, match="one group"):
        thalweg.LBFGS([{"params": [p]}, {"params": [_point()]}])
    opt = thalweg.LBFGS([("point", p)])
    with pytest.raises(ValueError, match="one group"):
        opt.add_param_group({"params": [_point()]})
    assert len(opt.param_groups) == 1
    with pytest.raises(TypeError, match="closure"):
        opt.step(loss=1.0)
    with pytest.raises(TypeError, match="order"):
        thalweg.LBFGS({p})
    with pytest.raises(ValueError, match="speed"):
        thalweg.LBFGS([{"params": [p], "speed": 1}])
    opt.step(_closure(opt, p))
    other = thalweg.LBFGS([nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match="2 entries"):
        other.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="param_groups"):
        other.load_state_dict({"state": {}})
    assert not other.state[other.param_groups[0]["params"][0]].get("n_iter")
