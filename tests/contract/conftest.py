"""Fixtures of the contract tests: each optimizer under test in turn."""

from __future__ import annotations

import pytest
import torch

from contract.common import CASES, REGISTERED, Case


@pytest.fixture(params=CASES, ids=lambda c: c.id)
def case(request: pytest.FixtureRequest) -> Case:
    """Every registered optimizer, outer methods, routed groups, and options that change the state."""
    return request.param


@pytest.fixture(params=REGISTERED, ids=lambda c: c.id)
def named(request: pytest.FixtureRequest) -> Case:
    """Every registered optimizer."""
    return request.param


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
