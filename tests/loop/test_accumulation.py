"""Accumulated gradients are those of the one large batch: in one process, and in two under DDP."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import thalweg

SIZES = [[5], [3, 2], [1, 4, 2], [7, 1, 1, 2, 3], [1, 2, 3, 4, 5, 6, 7, 8]]


def _model(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(dtype)


def _data(sizes: list[int], seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator))
        for n in sizes
    ]


def _loss_sum(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y, reduction="sum")


def _large(batches: list[tuple[Tensor, Tensor]]) -> tuple[nn.Module, float]:
    model = _model()
    x, y = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    loss = _loss_sum(model, x, y) / len(x)
    loss.backward()
    return model, float(loss.detach())


def _apart(model: nn.Module, expected: nn.Module) -> float:
    pairs = zip(model.parameters(), expected.parameters(), strict=True)
    return max(((p.grad - q.grad).abs().max() / q.grad.abs().max()).item() for p, q in pairs)  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_large_batch(sizes: list[int]) -> None:
    batches = _data(sizes)
    expected, loss = _large(batches)
    model = _model()
    sums = thalweg.Accumulator(model)
    for x, y in sums.over(batches):
        sums.backward(_loss_sum(model, x, y), count=len(x))
    assert sums.finish() == pytest.approx(loss, rel=1e-12)
    assert _apart(model, expected) <= 1e-12


def test_the_mean_of_means_differs() -> None:
    batches = _data([1, 7])
    expected, _ = _large(batches)
    model = _model()
    for x, y in batches:
        (_loss_sum(model, x, y) / len(x) / len(batches)).backward()
    assert _apart(model, expected) > 0.05


def test_the_golden_example() -> None:
    """Unequal token counts 3 and 1, squared errors of one weight: the right gradient, and the mean of means."""
    entries = json.loads((Path(__file__).parents[1] / "goldens" / "optimizers.json").read_text())["entries"]
    table = next(e["table"] for e in entries if e["optimizer"] == "gradient accumulation")
    x = torch.tensor([[0.3], [0.1], [-0.4], [0.8]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0.0], [0.5], [-0.2]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    weight = model.weight
    with torch.no_grad():
        weight.fill_(0.5)
    sums = thalweg.Accumulator(model)
    for rows in sums.over([slice(0, 3), slice(3, 4)]):
        sums.backward((model(x[rows]) - y[rows]).square().sum(), count=len(x[rows]))
    sums.finish()
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(table["sum_over_total"], rel=1e-12)
    model.zero_grad()
    for rows in (slice(0, 3), slice(3, 4)):
        ((model(x[rows]) - y[rows]).square().mean() / 2).backward()
    assert weight.grad.item() == pytest.approx(table["mean_of_means"], rel=1e-12)


def test_a_second_step_starts_anew() -> None:
    model = _model()
    sums = thalweg.Accumulator(model)
    for seed in (1, 2):
        batches = _data([2, 5], seed)
        model.zero_grad()
        for x, y in sums.over(batches):
            sums.backward(_loss_sum(model, x, y), count=len(x))
        sums.finish()
        expected, _ = _large(batches)
        assert _apart(model, expected) <= 1e-12


def test_half_precision_gradients_are_summed_in_float32() -> None:
    """A large first term and many small ones: bfloat16 would lose every small one."""
    p = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    terms = [256.0, *[0.5] * 256]

    def summed(wide: bool) -> float:
        p.zero_grad()
        sums = thalweg.Accumulator(p, wide=wide)
        for term in sums.over(terms):
            sums.backward(p.weight.sum() * term, count=1)
        sums.finish()
        assert p.weight.grad is not None
        return float(p.weight.grad) * len(terms)

    assert summed(True) == pytest.approx(384, rel=0.01)
    assert summed(False) == pytest.approx(256, rel=0.01)


def test_a_scaler_scales_and_the_gradients_come_out_unscaled() -> None:
    batches = _data([2, 3])
    expected, _ = _large(batches)
    model = _model()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    opt = thalweg.SGD(model.parameters(), lr=0.0)
    sums = thalweg.Accumulator(model)
    for x, y in sums.over(batches):
        sums.backward(_loss_sum(model, x, y), count=len(x), scaler=scaler)
    sums.finish()
    scaler.unscale_(opt)
    assert _apart(model, expected) <= 1e-12


def test_mistakes_are_named() -> None:
    model = _model()
    sums = thalweg.Accumulator(model)
    with pytest.raises(ValueError, match="no micro-batches"):
        next(sums.over([]))
    with pytest.raises(RuntimeError, match="nothing to divide by"):
        sums.finish()
    (x, y), *_ = _data([3])
    with pytest.raises(ValueError, match="count must be"):
        sums.backward(_loss_sum(model, x, y), count=-1)
    with pytest.raises(ValueError, match="sum over the micro-batch"):
        sums.backward(model(x), count=3)


def _process(rank: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    mine = _data([3, 1, 2], seed=1) if rank == 0 else _data([4], seed=2)
    model = nn.parallel.DistributedDataParallel(_model())
    sums = thalweg.Accumulator(model)
    for x, y in sums.over(mine):
        with sums.sync:
            loss = _loss_sum(model, x, y)
            sums.backward(loss, count=len(x))
    mean = sums.finish()
    everything: list[Any] = [*_data([3, 1, 2], seed=1), *_data([4], seed=2)]
    expected, loss_there = _large(everything)
    assert abs(mean - loss_there) <= 1e-12
    assert _apart(model, expected) <= 1e-12
    dist.barrier()  # neither leaves while the other is still talking to it
    dist.destroy_process_group()


def test_two_processes(tmp_path: Path) -> None:
    """Rank 0 has three micro-batches, rank 1 a single one of another size."""
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2)
