"""The three optimizers of ``docs/compose.md``: as printed there, under forty lines each, against plain NumPy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from references import REFERENCES, Lookahead
from thalweg import registry

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs" / "compose.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def defined() -> Iterator[dict[str, Any]]:
    """What the blocks define; their names are forgotten afterwards."""
    before = dict(registry._ENTRIES)
    names: dict[str, Any] = {"__name__": "docs.compose"}
    for block in BLOCKS:
        exec(compile(block, "docs/compose.md", "exec"), names)
    yield names
    registry._ENTRIES.clear()
    registry._ENTRIES.update(before)


def test_three_of_under_forty_lines() -> None:
    assert [len(block.splitlines()) < 40 for block in BLOCKS] == [True] * 3


def _worst(cls: Any, step: Any, engine: str, **options: Any) -> float:
    random = np.random.default_rng(0)
    value = random.normal(size=(4, 5))
    param = Parameter(torch.tensor(value))
    opt = cls([param], lr=0.02, weight_decay=0.1, engine=engine, **options)
    state: dict[str, Any] = {"v": 0.0, "m": 0.0}
    for t in range(1, 21):
        g = random.normal(size=value.shape)
        param.grad = torch.tensor(g)
        value = step(value * (1 - 0.02 * 0.1), g, t, state)
        opt.step()
    return float(np.abs(param.detach().numpy() - value).max() / np.abs(value).max())


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_laprop(defined: dict[str, Any], engine: str) -> None:
    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        s["v"] = 0.99 * s["v"] + 0.01 * g * g
        s["m"] = 0.8 * s["m"] + 0.2 * g / (np.sqrt(s["v"] / (1 - 0.99**t)) + 1e-15)
        return p - 0.02 * s["m"] / (1 - 0.8**t)

    assert _worst(defined["LaProp"], step, engine, betas=(0.8, 0.99)) <= 1e-12


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_signum(defined: dict[str, Any], engine: str) -> None:
    def step(p: Any, g: Any, t: int, s: dict[str, Any]) -> Any:
        s["m"] = 0.8 * s["m"] + 0.2 * g
        return p - 0.02 * np.sign(s["m"])

    assert _worst(defined["Signum"], step, engine, momentum=0.8) <= 1e-12


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_ranger(defined: dict[str, Any], engine: str) -> None:
    random = np.random.default_rng(1)
    start = random.normal(size=(4, 5))
    param = Parameter(torch.tensor(start))
    opt = defined["Ranger"]([param], lr=0.02, engine=engine)
    reference = Lookahead(REFERENCES["radam"]([start], lr=0.02), 6, 0.5)
    for _ in range(20):
        g = random.normal(size=start.shape)
        param.grad = torch.tensor(g)
        opt.step()
        reference.step([g - g.mean(axis=1, keepdims=True)])
    worst = np.abs(param.detach().numpy() - reference.params[0]).max()
    assert worst <= 1e-12
