"""Every optimizer trains: a small regression, a convolution on digits, Rosenbrock's valley, with a documented rate."""

from __future__ import annotations

import pytest

import thalweg
from contract.train_tasks import TARGETS, documented, train


def test_every_optimizer_has_documented_rates() -> None:
    assert sorted(documented()) == thalweg.list_optimizers()


@pytest.mark.parametrize("task", list(TARGETS))
@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_reaches_its_target(name: str, task: str) -> None:
    assert train(name, task, documented()[name][task]) <= TARGETS[task]
