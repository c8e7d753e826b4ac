"""Every golden entry that the library knows, reference engine, float64, through ``build``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from goldens.build import build

FILE = Path(__file__).with_name("optimizers.json")
GOLDENS: list[dict[str, Any]] = json.loads(FILE.read_text())["entries"]

START = {
    "vec3": [[1, -2, 0.5]],
    "vector3": [[1, -2, 0.5]],
    "mat2x3": [[[1, -2, 0.5], [0.25, 3, -1]]],
    "matrix23": [[[1, -2, 0.5], [0.25, 3, -1]]],
    "matrix23+vector3": [[[1, -2, 0.5], [0.25, 3, -1]], [1, -2, 0.5]],
    "conv2122": [[[[[1, -2], [0.5, 0.25]]], [[[3, -1], [0.75, -0.5]]]]],
    "scalar": [1.5],
    "mat2x3 but at step t only row (t mod 2) is present in the (sparse_dim=1) gradient": [
        [[1, -2, 0.5], [0.25, 3, -1]]
    ],
    "as sparse_adam": [[[1, -2, 0.5], [0.25, 3, -1]]],
    "small23": [[[0.01, -0.02, 0.005], [0.0025, 0.03, -0.01]]],
    "zero23": [[[0, 0, 0], [0, 0, 0]]],
}

#: Entries that the library must differ from, or that their recorded hyper-parameters do not describe; the reason.
#: ``docs/deviations.md`` says more. The tests below check that each of them does differ.
DIFFER = {
    "NEGATIVE_adamw_seed_as_printed": "a misprinted AdamW: decay inside the gradient too, and a missing square root",
    "nSGDA / global / matrix23+vector3": "its hyper-parameters say scope 'layer'; with scope 'global' it agrees",
    "nSGDA / edge case zero23 / zero23": "its hyper-parameters say weight_decay 0.01; with 0 it agrees",
    "nSGDA / edge case scalar / scalar": "its hyper-parameters say weight_decay 0.01; with 0 it agrees",
    "NAdam / seed simplification, raw / matrix23": "another rule under NAdam's hyper-parameters",
    "NAdam / seed simplification, debiased b1^(t+1) / matrix23": "another rule under NAdam's hyper-parameters",
    "NAdam / constant-mu Dozat / matrix23": "another rule under NAdam's hyper-parameters",
    "Schedule-Free AdamW / paper version; params = y / matrix23": "the paper's class, under the present one's options",
    "Cautious AdamW (C-AdamW) / paper scaling xi=1 / matrix23": "nothing says so; with scaling 'paper' it agrees",
    "Cautious AdamW (C-AdamW) / no rescaling / matrix23": "nothing says so; with scaling 'none' it agrees",
    "AdaNorm: AdamNorm / authors' code (eps accumulated in v) / matrix23": "no word of accumulating eps",
    "AdaNorm: RAdamNorm / authors' code (norm EMA reset bug; float32 inside) / matrix23": "the defect makes it RAdam",
}
#: Hyper-parameters with which entries of DIFFER agree after all: proof that the record is at fault.
CORRECTED: dict[str, dict[str, Any]] = {
    "NAdam / seed simplification, raw / matrix23": {"convention": "raw"},
    "NAdam / seed simplification, debiased b1^(t+1) / matrix23": {"convention": "simple"},
    "NAdam / constant-mu Dozat / matrix23": {"convention": "constant"},
    "nSGDA / global / matrix23+vector3": {"scope": "global"},
    "Schedule-Free AdamW / paper version; params = y / matrix23": {"paper": True},
    "Cautious AdamW (C-AdamW) / paper scaling xi=1 / matrix23": {"scaling": "paper"},
    "Cautious AdamW (C-AdamW) / no rescaling / matrix23": {"scaling": "none"},
    "nSGDA / edge case zero23 / zero23": {"weight_decay": 0.0},
    "nSGDA / edge case scalar / scalar": {"weight_decay": 0.0},
    "AdaNorm: AdamNorm / authors' code (eps accumulated in v) / matrix23": {"accumulate_eps": True},
}
#: Entries whose reference runs partly in float32 or bfloat16.
LOW_PRECISION = {
    "Adam-atan2 / wd=0.1, cautious wd (mask >0) / matrix23": 1e-7,
    "nadam_default_dtype_f32": 1e-6,
    "asgd_default_dtype_f32": 1e-6,
    "Muon / Keller, NS5 in bfloat16 / matrix23": 5e-3,
    "Muon / torch.optim.Muon, bfloat16 / matrix23": 5e-3,
}


def known(entry: dict[str, Any]) -> bool:
    try:
        build(
            entry["optimizer"], entry["hyperparameters"], [torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))]
        )
    except KeyError as error:
        if "no rule for" in str(error):
            return False
        raise
    except ValueError:
        return True
    return entry["problem"] in START


KNOWN = [e for e in GOLDENS if known(e)]


def run(entry: dict[str, Any], engine: str = "reference", **changes: Any) -> list[tuple[int, list[float], list[float]]]:
    params = [torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in START[entry["problem"]]]
    hyper = {**entry["hyperparameters"], **changes}
    optimizer = build(entry["optimizer"], hyper, params, engine=engine)
    rates = entry.get("lr_per_step") or [eta * hyper["alpha"] for eta in hyper.get("eta_per_step", [])]
    compared = []
    for t in range(1, max(map(int, entry["steps"])) + 1):
        loss = sum(float((p.detach() ** 2).sum()) for p in params) / 2
        for p in params:
            i = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
            p.grad = torch.sin(1.3 * t + 0.7 * i) + 0.1 * p.detach()
            if "sparse" in entry["problem"]:
                p.grad = torch.sparse_coo_tensor(
                    torch.tensor([[t % 2]]), p.grad[t % 2 : t % 2 + 1], p.shape, check_invariants=True
                )
        if "micro_gradient" in hyper:
            _fold_micro_batches(optimizer, params, t, hyper["N"])
        if rates:
            optimizer.param_groups[0]["lr"] = rates[t - 1]
        optimizer.step(loss=loss)  # type: ignore[call-arg]
        if str(t) in entry["steps"]:
            read = re.search(r"state (\w+) after step", entry["provenance"])
            shown = [optimizer.state[p][read[1]] if read else p.detach() for p in params]
            got = torch.cat([v.reshape(-1) for v in shown]).tolist()
            compared.append((t, got, _flat(entry["steps"][str(t)])))
    return compared


def _fold_micro_batches(optimizer: Any, params: list[torch.nn.Parameter], t: int, count: int) -> None:
    """AdamA: all but the last of the step's micro-batches go into the moments; the last is left as the gradient."""
    for j in range(count):
        for p in params:
            i = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
            p.grad = (torch.sin(1.3 * t + 0.7 * i + 0.5 * j) + 0.1 * p.detach()) / count
        if j < count - 1:
            optimizer.accumulate()


def _flat(value: Any) -> list[float]:
    return [x for v in value for x in _flat(v)] if isinstance(value, list) else [float(value)]


def error(compared: list[tuple[int, list[float], list[float]]]) -> float:
    """The worst error relative to the largest entry of the parameters at that step."""
    worst = 0.0
    for _, got, expected in compared:
        scale = max(map(abs, expected)) or 1.0
        worst = max(
            worst, *(abs(a - b) / scale if math.isfinite(a) else math.inf for a, b in zip(got, expected, strict=True))
        )
    return worst


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [e["name"] for e in entries]


AGREE = [e for e in KNOWN if e["name"] not in DIFFER]


@pytest.mark.parametrize("entry", AGREE, ids=ids(AGREE))
def test_golden(entry: dict[str, Any]) -> None:
    assert error(run(entry)) <= LOW_PRECISION.get(entry["name"], 1e-10)


@pytest.mark.parametrize("entry", [e for e in KNOWN if e["name"] in DIFFER], ids=lambda e: e["name"])
def test_entry_that_differs(entry: dict[str, Any]) -> None:
    try:
        worst = error(run(entry))
    except (ValueError, TypeError):
        return
    assert worst > 1e-10, "it agrees: take it off the list"
    if entry["name"] in CORRECTED:
        assert error(run(entry, **CORRECTED[entry["name"]])) <= 1e-10


def test_every_listed_deviation_exists() -> None:
    assert DIFFER.keys() <= {e["name"] for e in KNOWN}


LBFGS = [e for e in GOLDENS if e["optimizer"] == "torch.LBFGS"]


@pytest.mark.parametrize("entry", LBFGS, ids=ids(LBFGS))
def test_lbfgs(entry: dict[str, Any]) -> None:
    """Its problems are functions, which it evaluates as often as the entry says."""
    start = json.loads(re.search(r"p0=(\[.*?\])", entry["problem"])[1])  # type: ignore[index]
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = build(entry["optimizer"], entry["hyperparameters"], [p])
    evaluations = 0

    def closure() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        if entry["problem"].startswith("Rosenbrock"):
            loss = (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
        else:
            i = torch.arange(3, dtype=torch.float64)
            loss = (4**i * 0.05 * p**2 + torch.sin(1.3 + 0.7 * i) * p).sum()
        loss.backward()
        return loss

    for call in range(1, max(map(int, entry["steps"])) + 1):
        optimizer.step(closure)
        if str(call) in entry["steps"]:
            assert p.tolist() == pytest.approx(entry["steps"][str(call)], rel=1e-10)
    counted = re.match(r"closure evaluations=(\d+), n_iter=(\d+)", entry["notes"])
    assert counted is not None
    assert (evaluations, optimizer.state[p]["n_iter"]) == (int(counted[1]), int(counted[2]))


def test_unknown_optimizer_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no rule for"):
        build("Sophia", {}, [torch.nn.Parameter(torch.zeros(2))])


def test_negative_control_is_not_reproduced() -> None:
    """The seed's AdamW formula is wrong twice; the library must not agree with it."""
    entry = next(e for e in GOLDENS if e["optimizer"].startswith("NEGATIVE"))
    assert error(run({**entry, "optimizer": "AdamW (paper form)"})) > 1e-4


def test_schedule_free_evaluates_the_average() -> None:
    entries = [e for e in KNOWN if e["optimizer"] == "Schedule-Free SGD"]
    assert entries
    for entry in entries:
        x = entry["extra"]["5"]
        assert isinstance(x, dict)
        p = torch.nn.Parameter(torch.tensor(START[entry["problem"]][0], dtype=torch.float64))
        optimizer = build(entry["optimizer"], entry["hyperparameters"], [p])
        for t in range(1, 6):
            i = torch.arange(p.numel(), dtype=torch.float64).reshape(p.shape)
            p.grad = torch.sin(1.3 * t + 0.7 * i) + 0.1 * p.detach()
            optimizer.step()
        optimizer.eval()  # type: ignore[attr-defined]
        expected = _flat(next(v for k, v in x.items() if k.startswith("x")))
        assert p.detach().reshape(-1).tolist() == pytest.approx(expected, rel=1e-10)
