"""Every golden schedule within 1e-12, through ``build_schedule``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from goldens.build import build_schedule

FILE = Path(__file__).parents[1] / "goldens" / "schedules_and_extras.json"
GOLDENS: list[dict[str, Any]] = json.loads(FILE.read_text())["schedules"]
LISTED = [e for e in GOLDENS if "lr_used_at_optimizer_step_index_from_0" in e]
JUMPED = [
    (e, key, label)
    for e in GOLDENS
    for key, label in (("steps_from_1", ""), ("linear", "_linear"), ("exponential", "_exponential"))
    if key in e
]


def optimizer(lr: float, kind: type[torch.optim.Optimizer] = torch.optim.SGD) -> torch.optim.Optimizer:
    return kind([torch.nn.Parameter(torch.ones(1))], lr=lr, momentum=0.9)  # type: ignore[call-arg]


@pytest.mark.parametrize("entry", LISTED, ids=lambda e: e["name"])
def test_golden(entry: dict[str, Any]) -> None:
    expected = entry["lr_used_at_optimizer_step_index_from_0"]
    opt = optimizer(entry["base_lr"])
    scheduler = build_schedule(entry["name"], entry["hyperparameters"], opt)
    metrics = entry.get("metrics")
    rates, momenta = [], []
    for k in range(len(expected)):
        rates.append(opt.param_groups[0]["lr"])
        momenta.append(opt.param_groups[0]["momentum"])
        opt.step()
        scheduler.step(*([] if metrics is None else [metrics[k]]))
    assert max(map(abs, map(float.__sub__, rates, expected))) <= 1e-12
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-16)
    if "momentum_used" in entry:
        assert momenta == pytest.approx(entry["momentum_used"], rel=0, abs=1e-12)


@pytest.mark.parametrize(("entry", "key", "label"), JUMPED, ids=lambda v: v["name"] if isinstance(v, dict) else str(v))
def test_golden_far_apart(entry: dict[str, Any], key: str, label: str) -> None:
    opt = optimizer(1.0)
    scheduler = build_schedule(entry["name"] + label, entry["hyperparameters"], opt)
    for step, expected in entry[key].items():
        scheduler.step(int(step) - 1)
        assert math.isclose(opt.param_groups[0]["lr"], expected, rel_tol=1e-12)


def test_every_golden_is_compared() -> None:
    assert len(LISTED) + len({e["name"] for e, _, _ in JUMPED}) == len(GOLDENS) == 43


def test_unknown_schedule_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="no rule for"):
        build_schedule("StepLRs", {"step_size": 1}, optimizer(1.0))
