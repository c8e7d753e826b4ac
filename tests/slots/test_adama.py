"""AdamA: micro-batches go into the moments one by one, on every engine, and a checkpoint may fall between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import thalweg
from references import REFERENCES

OPTIONS = {"lr": 0.03, "betas": (0.8, 0.97), "eps": 1e-4, "weight_decay": 0.07}
SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), ()]


@pytest.mark.parametrize("folded_last", [False, True], ids=["last by step", "all folded"])
@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
def test_micro_batches(engine: str, folded_last: bool) -> None:
    random = np.random.default_rng(0)
    start = [np.asarray(random.normal(size=shape)) for shape in SHAPES]
    params = [Parameter(torch.tensor(value)) for value in start]
    opt, reference = thalweg.AdamA(params, engine=engine, **OPTIONS), REFERENCES["adama"](start, **OPTIONS)
    for t in range(1, 21):
        micro = [[random.normal(size=shape) for shape in SHAPES] for _ in range(1 + t % 3)]
        for j, grads in enumerate(micro):
            last = j == len(micro) - 1
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.tensor(g)
            if last:
                reference.step(grads)
            else:
                reference.accumulate(grads)  # type: ignore[attr-defined]
            if not last or folded_last:
                before = [p.detach().clone() for p in params]
                opt.accumulate()
                opt.zero_grad()
                assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
        opt.step()
        for p, want in zip(params, reference.params, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), want, rtol=1e-9)
            assert opt.state[p]["step"] == t
            assert opt.state[p]["folds"] == 0
            assert (p.grad is None) == folded_last


def test_checkpoint_between_micro_batches() -> None:
    def fresh() -> tuple[Parameter, thalweg.AdamA]:
        p = Parameter(torch.tensor([1.0, -2.0]))
        return p, thalweg.AdamA([p], engine="foreach", **OPTIONS)

    p, opt = fresh()
    p.grad = torch.tensor([0.3, 0.1])
    opt.accumulate()
    q, twin = fresh()
    twin.load_state_dict(opt.state_dict())
    for tensor, optimizer in ((p, opt), (q, twin)):
        tensor.grad = torch.tensor([-0.2, 0.4])
        optimizer.step()
    assert torch.equal(p, q)
    assert twin.state[q]["folds"] == 0


def test_nothing_to_take_in_and_sparse_gradients() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    opt = thalweg.AdamA(table.parameters(), engine="foreach")
    opt.accumulate()
    opt.step()
    assert not opt.state
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse"):
        opt.accumulate()
    assert not opt.state
