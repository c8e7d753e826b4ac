"""The newer moments as techniques, on every engine and where they do not fit, and Adam-mini's partition by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import thalweg
from thalweg.slots.blocks import SecondPerRow

Step = Callable[[np.ndarray, np.ndarray, dict[str, Any], int], np.ndarray]
B1, B2, EPS, LR = 0.8, 0.97, 1e-4, 0.05


def _adam(p: np.ndarray, m: np.ndarray, v: Any, t: int) -> np.ndarray:
    return p - LR * m / (1 - B1**t) / (np.sqrt(v / (1 - B2**t)) + EPS)


def _blocks(heads: int | None) -> Step:
    """Adam with one second moment a row (None), a head, or a tensor (0)."""

    def step(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
        q = g * g
        if heads == 0:
            q = q.mean() * np.ones_like(q)
        elif q.ndim > 1:
            count = heads or q.shape[0]
            q = np.repeat(q.reshape(count, -1).mean(1), q.shape[0] // count).reshape(-1, *[1] * (q.ndim - 1))
        s["m"] = B1 * s.get("m", 0.0) + (1 - B1) * g
        s["v"] = B2 * s.get("v", 0.0) + (1 - B2) * q
        return _adam(p, s["m"], s["v"], t)

    return step


def _stretched(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    """SGD with momentum 0.9 on gradients no shorter than they were."""
    n = np.sqrt((g * g).sum())
    s["e"] = 0.5 * s.get("e", 0.0) + 0.5 * n
    s["b"] = 0.9 * s.get("b", 0.0) + g * max(1.0, s["e"] / n)
    return p - LR * s["b"]


def _fractional(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    past = s.setdefault("past", [])
    d = g - 0.5 * (past[0] if past else 0.0) - 0.125 * (past[1] if len(past) > 1 else 0.0)
    s["past"] = [g, *past][:2]
    return p - LR * d


def _mars(p: np.ndarray, g: np.ndarray, s: dict[str, Any], t: int) -> np.ndarray:
    c = g + 0.2 * B1 / (1 - B1) * (g - s.get("last", 0.0))
    s["last"] = g
    c = c / max(1.0, np.sqrt((c * c).sum()))
    u = np.sign(B1 * s.get("m", 0.0) + (1 - B1) * c)
    s["m"] = B2 * s.get("m", 0.0) + (1 - B2) * c
    return p - LR * u


ADAM = {"lr": LR, "betas": (B1, B2), "eps": EPS}
TECHNIQUES: dict[str, tuple[str, Any, dict[str, Any], Step]] = {
    "row": ("adam", "second_per_row", ADAM, _blocks(None)),
    "tensor": ("adam", "second_per_tensor", ADAM, _blocks(0)),
    "head": ("adam", SecondPerRow(heads=2), ADAM, _blocks(2)),
    "adanorm": ("sgd", thalweg.AdaNorm(0.5), {"lr": LR, "momentum": 0.9}, _stretched),
    "fractional": ("sgd", thalweg.Fractional(0.5, 2, "adagl"), {"lr": LR}, _fractional),
    "mars": ("lion", thalweg.VarianceReduced(0.2), {"lr": LR, "betas": (B1, B2)}, _mars),
}


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_technique(name: str, engine: str) -> None:
    optimizer, technique, options, step = TECHNIQUES[name]
    random = np.random.default_rng(0)
    values = [random.normal(size=(4, 5)), random.normal(size=6), random.normal(size=(2, 3, 2, 2))]
    params = [Parameter(torch.tensor(v)) for v in values]
    opt = thalweg.create(optimizer, params, engine=engine, techniques=[technique], **options)
    states: list[dict[str, Any]] = [{} for _ in values]
    for t in range(1, 13):
        for i, p in enumerate(params):
            g = random.normal(size=values[i].shape) / t
            p.grad = torch.tensor(g)
            values[i] = step(values[i], g, states[i], t)
        opt.step()
    for p, want in zip(params, values, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "technique", "words"),
    [
        ("sgd", "adanorm", "it has none"),
        ("rmsprop", "adanorm", "first moment"),
        ("adafactor", "second_per_row", "Factored"),
        ("lion", "second_per_tensor", "it has none"),
        ("sgd", "mars", "betas"),
    ],
)
def test_techniques_that_do_not_fit(name: str, technique: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        thalweg.create(name, [Parameter(torch.ones(2, 2))], techniques=[technique])


@pytest.mark.parametrize(
    "make",
    [
        lambda: thalweg.AdaNorm(1.0),
        lambda: thalweg.Fractional(0.0),
        lambda: thalweg.Fractional(history=0),
        lambda: thalweg.Fractional(weights="caputo"),
        lambda: thalweg.VarianceReduced(-1.0),
        lambda: SecondPerRow(heads=-1),
    ],
)
def test_fields_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"legal (is|are)"):
        make()


def test_adanorm_leaves_zero_gradients_alone() -> None:
    p = Parameter(torch.ones(2))
    opt = thalweg.AdamNorm([p], lr=0.1)
    for g in (1.0, 0.0, 0.0):
        p.grad = torch.full((2,), g)
        opt.step()
    assert p.isfinite().all()


def test_ademamix_without_a_fast_average_keeps_none() -> None:
    p, q = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    plain = thalweg.AdEMAMix([p], betas=(1e-300, 0.999, 0.9999), lr=0.1, engine="foreach")
    lean = thalweg.AdEMAMix([q], betas=(0.0, 0.999, 0.9999), lr=0.1, engine="foreach")
    for g in (0.3, -0.2, 0.5):
        p.grad, q.grad = torch.full((3,), g), torch.full((3,), g)
        plain.step()
        lean.step()
    torch.testing.assert_close(p, q)
    assert set(lean.state[q]) == {"step", "exp_avg_slow", "exp_avg_sq"}


class Block(torch.nn.Module):
    """A transformer's names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(9, 8)
        self.q_proj, self.k_proj = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4, bias=False)
        self.mlp, self.norm = torch.nn.Linear(8, 16, bias=False), torch.nn.LayerNorm(8)
        self.conv = torch.nn.Conv2d(2, 3, 3, bias=False)


def _shapes(**options: Any) -> dict[str, tuple[tuple[int, ...], float]]:
    model = Block()
    opt = thalweg.create("adammini", model, lr=0.1, weight_decay=0.1, engine="foreach", **options)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    decay = {p: group["weight_decay"] for group in opt.param_groups for p in group["params"]}
    return {n: (tuple(opt.state[p]["exp_avg_sq"].shape), decay[p]) for n, p in model.named_parameters()}


def test_adam_mini_by_name() -> None:
    found = _shapes(heads=4, kv_heads=2)
    assert found == {
        "embed.weight": ((9, 1), 0.1),
        "q_proj.weight": ((8, 1), 0.1),
        "q_proj.bias": ((8,), 0.0),
        "k_proj.weight": ((4, 1), 0.1),
        "mlp.weight": ((16, 1), 0.1),
        "norm.weight": ((), 0.0),
        "norm.bias": ((), 0.0),
        "conv.weight": ((3, 1, 1, 1), 0.1),
    }
    assert _shapes(rules={"conv": "full"}, otherwise="tensor")["conv.weight"] == ((3, 2, 3, 3), 0.1)
    assert _shapes(otherwise="tensor")["conv.weight"] == ((), 0.1)


def test_adam_mini_heads_share_one_second_moment() -> None:
    model = Block()
    opt = thalweg.create("adammini", model, lr=0.1, heads=4, kv_heads=2, engine="foreach")
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    opt.step()
    query, key = (opt.state[w]["exp_avg_sq"].flatten() for w in (model.q_proj.weight, model.k_proj.weight))
    assert torch.equal(query.view(4, 2)[:, 0], query.view(4, 2)[:, 1])
    assert torch.equal(key.view(2, 2)[:, 0], key.view(2, 2)[:, 1])
    assert len(query.unique()) == 4
    with pytest.raises(ValueError, match="3 heads do not divide the rows of q_proj"):
        thalweg.create("adammini", model, heads=3)


def test_adam_mini_groups_may_name_their_block() -> None:
    a, b = Parameter(torch.ones(2, 3)), Parameter(torch.ones(2, 3))
    opt = thalweg.AdamMini([{"params": [a], "block": "full"}, {"params": [b], "block": "tensor"}], engine="foreach")
    for p in (a, b):
        p.grad = torch.ones(2, 3)
    opt.step()
    assert opt.state[a]["exp_avg_sq"].shape == (2, 3)
    assert opt.state[b]["exp_avg_sq"].shape == ()


def test_disturbance_leaves_out_one_term_and_repeats() -> None:
    slot = thalweg.Fractional(0.5, 10, disturb=True)
    runs = [[slot.scalars({}, t, {}) for t in range(1, 60)] for _ in range(2)]
    assert runs[0] == runs[1]
    dropped = [[k for k, v in row.items() if v == 0] for row in runs[0]]
    assert all(len(row) == 1 for row in dropped)
    assert len({row[0] for row in dropped}) == 10
