"""What the tests of gradient release train, and the process they start twice; light to import, for its sake."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import thalweg
from thalweg.release import GradientRelease

STEPS = 3


class Tied(nn.Module):
    """A weight used twice, matrices of equal shape, small tensors, and parameters that are rarely or never used."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.conv = nn.Conv1d(3, 3, 3, padding=1)
        self.rare, self.never = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, rare: bool) -> Tensor:
        x = self.conv(self.norm(self.one(self.embed(tokens)).tanh()) + self.embed(tokens))
        return self.head(self.two(x * self.rare if rare else x).tanh())


def tied(dtype: torch.dtype = torch.float32) -> Tied:
    torch.manual_seed(0)
    return Tied().to(dtype)


def loss_of(model: nn.Module, t: int, part: int = 0) -> Tensor:
    """The loss of one micro-batch of step t; even steps use the rare parameter."""
    generator = torch.Generator().manual_seed(100 * t + part)
    tokens = torch.randint(0, 7, (4, 3), generator=generator)
    logits = model(tokens, rare=t % 2 == 0)
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens.roll(1, 1).flatten())


def process(rank: int, folder: str) -> None:
    """One of two that train together, with an ordinary step and with released gradients."""
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    plain = thalweg.AdamW(tied().parameters())
    with pytest.raises(ValueError, match="2 processes train here"):
        GradientRelease(plain)
    with pytest.raises(ValueError, match="gradient_as_bucket_view"):
        GradientRelease(plain, nn.parallel.DistributedDataParallel(tied()))
    ordinary = _train_in_parallel(rank, None)
    assert not torch.equal(ordinary[0], tied().embed.weight)
    for pool in (0, 1 << 20):
        for got, expected in zip(_train_in_parallel(rank, pool), ordinary, strict=True):
            assert torch.equal(got, expected)
    dist.barrier()
    dist.destroy_process_group()


def _train_in_parallel(rank: int, pool: int | None) -> list[Tensor]:
    """Parameters and state after a few steps of two micro-batches, each process with data of its own."""
    options: dict[str, Any] = {"gradient_as_bucket_view": True, "find_unused_parameters": True}
    model = nn.parallel.DistributedDataParallel(tied(), bucket_cap_mb=2e-4, **options)  # type: ignore[arg-type]
    opt = thalweg.AdamW(model.parameters(), lr=0.05, engine="foreach")
    release = None if pool is None else GradientRelease(opt, model, pool=pool)
    early = 0
    for t in range(1, STEPS + 1):
        with model.no_sync() if release is None else release.accumulate():
            loss_of(model, t, 10 * rank).backward()
        before = [p.detach().clone() for p in model.parameters()]
        loss_of(model, t + rank, 10 * rank + 1).backward()  # one process only uses the rare parameter here
        early += sum(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
        opt.step()
        opt.zero_grad()
    assert (early > 0) == (pool == 0), "with an empty pool backward moves parameters"
    params = list(model.parameters())
    state = [opt.state[p][role] for p in params for role in ("step", "exp_avg", "exp_avg_sq") if p in opt.state]
    assert len(state) == 3 * (len(params) - 1), "one parameter is never used"
    return [p.detach() for p in params] + state
