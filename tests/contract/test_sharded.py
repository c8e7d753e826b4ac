"""Parameters that ``fully_shard`` has shared out between two processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard

import thalweg
from thalweg.optimizer import Optimizer

STEPS = 4
#: One by engine; with states of every kind that element-wise recipes have.
TRAINED = (("adamw", "foreach"), ("adamw", "compiled"), ("nadam", "reference"), ("schedulefree_sgd", "compiled"))


def model() -> nn.Module:
    """Rows that two processes share unevenly, and a bias of one number, of which one process has none."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def train(net: nn.Module, opt: Optimizer, first: int = 1) -> None:
    for t in range(first, first + STEPS):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(t))
        net(x).square().mean().backward()
        opt.step()
        opt.zero_grad()


def process(rank: int, folder: str) -> None:
    """One of the two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))

    def sharded() -> nn.Module:
        net = model()
        fully_shard(net, mesh=mesh)
        return net

    for name, engine in TRAINED:
        for rounding in ("nearest", "kahan"):
            options = {"lr": 0.1, "engine": engine, "rounding": rounding}
            whole, parts = model(), sharded()
            opt, other = (thalweg.get(name).cls(net.parameters(), **options) for net in (whole, parts))
            train(whole, opt)
            train(parts, other)
            _same(whole, parts)
            again = sharded()
            third = thalweg.get(name).cls(again.parameters(), **options)
            again.load_state_dict(parts.state_dict())
            full = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(again, third, get_optimizer_state_dict(parts, other, options=full), options=full)
            train(whole, opt, STEPS + 1)
            train(again, third, STEPS + 1)
            _same(whole, again)
    for name, state in (("lamb", "float32"), ("adafactor", "float32"), ("prodigy", "float32"), ("adamw", "int8")):
        net = nn.Linear(64, 64)
        fully_shard(net, mesh=mesh)
        opt = thalweg.get(name).cls(net.parameters(), state=state)
        before = [p.full_tensor() for p in net.parameters()]
        net(torch.ones(1, 64)).sum().backward()
        with pytest.raises(RuntimeError, match="cannot step on sharded parameters"):
            opt.step()
        assert all(torch.equal(p.full_tensor(), q) for p, q in zip(net.parameters(), before, strict=True))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of torch's that outlive the group would abort an ordinary exit, now and then


def _same(whole: nn.Module, parts: nn.Module) -> None:
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        full: Tensor = q.full_tensor()  # type: ignore[operator]
        assert torch.allclose(p, full, rtol=1e-5, atol=1e-6), (p, full)


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_two_processes(tmp_path: Path) -> None:
    """Element-wise steps on parts are those on the whole, through a checkpoint too; others are refused."""
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
