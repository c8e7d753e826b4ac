"""Parameters that processes share out between them: two processes step as one does."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import thalweg
from thalweg.engine import eager, native, processes
from thalweg.engine.triton import chunk
from thalweg.optimizer import Optimizer
from thalweg.release import GradientRelease
from thalweg.slots.base import Slot, mean

STEPS = 4
#: One by scope, with states of every kind: like the parameter, of rows, columns or whole matrices, numbers, codes.
TRAINED: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("adamw", "compiled", {"rounding": "kahan"}),
    ("nadam", "reference", {}),
    ("schedulefree_sgd", "compiled", {}),
    ("adafactor", "foreach", {}),
    ("sm3", "compiled", {"state": "int8"}),
    ("adammini", "compiled", {"state": "int4"}),
    ("soap", "foreach", {"precondition_frequency": 2}),
    ("muon", "foreach", {"state": "int8"}),
    ("prodigy", "compiled", {}),
)
#: What has code of its own in the compiled engine: totals of a tensor, of the model, rows and columns, maxima, means.
FUSED = (
    *("adamw", "lamb", "stableadamw", "amos", "dog"),
    *("adafactor", "adafactor_bv", "adafactor_torch", "sm3", "adammini"),
)
#: Uneven rows, fewer rows than processes, axes that are short, and rows long enough for codes.
SHAPES = ((65, 80), (1, 130), (5, 2, 3, 3), (3,), (4, 6, 7))
PLACES = (Shard(0), Shard(1), Replicate())
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("smmf", {}),
    ("adamw2", {"sigma": ("power", 2)}),
    ("prodigy", {"slice_p": 11}),
)


def model() -> nn.Module:
    """Rows that two processes share unevenly, some of which are coded, and a bias of which one process has nothing."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(80, 65), nn.Tanh(), nn.Linear(65, 3), nn.Tanh(), nn.Linear(3, 1))


def train(net: nn.Module, opt: Optimizer, first: int = 1) -> None:
    for t in range(first, first + STEPS):
        x = torch.randn(8, 80, generator=torch.Generator().manual_seed(t))
        net(x).square().mean().backward()
        opt.step()
        opt.zero_grad()


def checkpoints(mesh: Any) -> None:
    """Training whole and in parts is the same, also after parts were saved whole and shared out anew."""
    for name, engine, options in TRAINED:
        make = thalweg.get(name).cls
        options = {"engine": engine, **options}
        whole, parts, again = model(), *(fully_shard(model(), mesh=mesh) for _ in range(2))
        opt, other, third = (make(net.named_parameters(), **options) for net in (whole, parts, again))
        train(whole, opt)
        train(parts, other)
        _same(name, whole.parameters(), parts.parameters(), model().parameters())
        again.load_state_dict(parts.state_dict())
        full = StateDictOptions(full_state_dict=True)
        saved = get_optimizer_state_dict(parts, other, options=full)
        set_optimizer_state_dict(again, third, saved, options=full)
        train(whole, opt, STEPS + 1)
        train(again, third, STEPS + 1)
        _same(name, whole.parameters(), again.parameters(), model().parameters())
        # What is shared out loads into what is not.
        alone = model()
        alone.load_state_dict({k: v.full_tensor() for k, v in again.state_dict().items()})
        fourth = make(alone.named_parameters(), **options)
        fourth.load_state_dict(third.state_dict())
        train(whole, opt, 2 * STEPS + 1)
        train(alone, fourth, 2 * STEPS + 1)
        _same(name, whole.parameters(), alone.parameters(), model().parameters())


def steps(mesh: Any) -> None:
    """Every optimizer steps on parts along any axis as on wholes."""
    refused = {name for name, options in REFUSED if not options}
    for engine, names in (("foreach", thalweg.list_optimizers()), ("compiled", FUSED)):
        for name in (name for name in names if name not in refused):
            step(mesh, name, engine)
    # Numbers of each tensor and totals at once: processes must have their tensors in one order, whatever they hold.
    step(mesh, "lamb", "compiled", techniques=["clip_norm"])


def launches(mesh: Any) -> None:
    """So do those whose kernels are Triton's."""
    os.environ["TRITON_INTERPRET"] = "1"
    native.key = lambda work: None  # type: ignore[assignment]
    chunk.DEVICES.add("cpu")
    for name in ("lamb", "prodigy", "adamnorm", "adamw"):
        plans = step(mesh, name, "compiled")._compiled.plans.values()
        assert plans
        assert all(isinstance(each, chunk.Chunk) for plan in plans for each in plan.chunks)


def step(mesh: Any, name: str, engine: str, **options: Any) -> Optimizer:
    """One optimizer on wholes and on parts; the one of the parts."""
    # The first basis of SOAP's is arbitrary where an axis is longer than a gradient's rank.
    shapes = [s for s in SHAPES if name != "soap" or all(n * n <= math.prod(s) for n in s)]
    start = [torch.randn(s, generator=torch.Generator().manual_seed(k)) for k, s in enumerate(shapes)]
    pairs = [(x, place) for x in start for place in PLACES if place != Shard(1) or x.ndim > 1]
    whole = [nn.Parameter(x.clone()) for x, _ in pairs]
    parts = [nn.Parameter(distribute_tensor(x.clone(), mesh, [place])) for x, place in pairs]
    make = thalweg.get(name).cls
    opts = [make(params, engine=by, **options) for params, by in ((whole, "foreach"), (parts, engine))]
    for t in range(7 if "radam" in name else 3):  # RAdam moves from the sixth on
        for k, (p, q) in enumerate(zip(whole, parts, strict=True)):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * t + k))
            q.grad = distribute_tensor(p.grad.clone(), mesh, q.placements)  # type: ignore[attr-defined]
        for opt in opts:
            opt.step(loss=1.0)
    _same(f"{name}, {engine}", whole, parts, [x for x, _ in pairs])
    return opts[1]


def owners(mesh: Any) -> None:
    """Matrices of one shape are dealt out: each process works on whole ones of its own, more or fewer, of any rows."""
    worked: list[int] = []
    ordinary = eager.Chunk.applied

    def applied(chunk: eager.Chunk, request: Any, values: list[list[Tensor]]) -> list[Tensor]:
        worked.append(len(values[0]))
        return ordinary(chunk, request, values)

    eager.Chunk.applied = applied  # type: ignore[method-assign]
    mine = 3 if dist.get_rank() == 0 else 2
    for name, asked in (("muon", 1), ("adamw2", 2), ("soap", 4)):
        worked.clear()
        other = thalweg.get(name).cls(parts := _shared_out(mesh, [(9, 9)] * 5), engine="foreach")
        other.step()
        assert worked == [mine] * asked, (name, worked)
        whole = [nn.Parameter(p.full_tensor()) for p in _shared_out(mesh, [(9, 9)] * 5)]
        opt = thalweg.get(name).cls(whole, engine="foreach")
        for _ in range(2):
            for p, q in zip(whole, parts, strict=True):
                p.grad = q.grad.full_tensor()
            opt.step()
        other.step()
        _same(name, whole, parts, [p.full_tensor() for p in _shared_out(mesh, [(9, 9)] * 5)])


def _shared_out(mesh: Any, shapes: Iterable[tuple[int, ...]]) -> list[Any]:
    """Parameters with gradients, whose rows are shared out."""
    found = []
    for k, shape in enumerate(shapes):
        x, grad = torch.randn(2, *shape, generator=torch.Generator().manual_seed(k)).unbind()
        found.append(nn.Parameter(distribute_tensor(x, mesh, [Shard(0)])))
        found[-1].grad = distribute_tensor(grad, mesh, [Shard(0)])
    return found


def refusals(mesh: Any) -> None:
    """What is no formula of axes is refused before anything moves."""
    for name, options in REFUSED:
        net = fully_shard(nn.Linear(64, 64), mesh=mesh)
        opt = thalweg.get(name).cls(net.parameters(), **options)
        before = [p.full_tensor() for p in net.parameters()]
        net(torch.ones(1, 64)).sum().backward()
        with pytest.raises(RuntimeError, match="cannot step on sharded parameters"):
            opt.step()
        _same(name, before, net.parameters(), None)


def small(mesh: Any) -> None:
    """Where processes share out rows, codes are those of the whole; each part is rounded at random in its own way."""
    start = torch.randn(65, 80, generator=torch.Generator().manual_seed(0))
    parts = [nn.Parameter(distribute_tensor(start.clone(), mesh, [place])) for place in (Shard(0), Shard(1))]
    opt = thalweg.AdamW(parts, state="int8")
    for p in parts:
        p.grad = distribute_tensor(start.sin(), mesh, p.placements)
    opt.step()
    whole = nn.Parameter(start.clone())
    alone = thalweg.AdamW([whole], state="int8")
    whole.grad = start.sin()
    alone.step()
    codes = opt.state[parts[0]]["exp_avg"].full_tensor()
    assert torch.equal(codes.view(-1, 80), alone.state[whole]["exp_avg"])
    assert opt.state[parts[1]]["exp_avg"].dtype == torch.float32
    rows = nn.Parameter(distribute_tensor(torch.ones(64, 64, dtype=torch.bfloat16), mesh, [Shard(0)]))
    rows.grad = distribute_tensor(torch.ones(64, 64, dtype=torch.bfloat16), mesh, [Shard(0)])
    thalweg.AdamW([rows], rounding="stochastic", lr=1e-3, weight_decay=0).step()
    first, second = rows.full_tensor().chunk(2)
    assert 0 < (first != second).float().mean() < 1


def release(mesh: Any) -> None:
    """Gradients of parts are released in ``backward``, and the step is the ordinary one."""
    for name in ("adamw", "lamb", "muon"):
        whole, parts = model(), model()
        for layer in parts:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(parts, mesh=mesh)
        opt, other = (thalweg.get(name).cls(net.named_parameters()) for net in (whole, parts))
        GradientRelease(other, parts, pool=0)
        train(whole, opt)
        for t in range(1, 1 + STEPS):
            x = torch.randn(8, 80, generator=torch.Generator().manual_seed(t))
            parts(x).square().mean().backward()
            assert all(p.grad is None for p in parts.parameters())
            other.step()
        _same(name, whole.parameters(), parts.parameters(), model().parameters())


def _same(what: str, whole: Iterable[Tensor], parts: Iterable[Any], start: Iterable[Tensor] | None) -> None:
    """Equal but for the order of sums; and, where it is known where they started from, somewhere else."""
    ends = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in parts]
    if start is None:
        assert all(torch.equal(p, q) for p, q in zip(whole, ends, strict=True)), what
        return
    for p, q, x in zip(whole, ends, start, strict=True):
        moved = (p - x).abs().max().item()
        assert moved > 0, what
        rounding = 4e-7 * max(p.abs().max().item(), 0.1)  # of the parameter, which has float32
        assert (p - q).abs().max().item() < 1e-3 * moved + rounding, (what, tuple(p.shape), p, q)


@dataclass(frozen=True, repr=False)
class _Own(Slot):
    """A formula of a user's: what a function makes of the step, over its mean size."""

    scope = "tensor"
    function: Callable[[Any], Any] = torch.clone

    def __call__(self, x: Any, h: Any, u: Any) -> Any:
        made = self.function(u)
        size = yield mean(made.abs())
        return made / size


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda u: u.erf() * u, None),
        (lambda u: u.flatten(), "flatten of whole tensors"),
        (lambda u: u / u.norm(), "norm of whole tensors"),
    ],
)
def test_formulas_of_users_are_followed_or_refused(function: Callable[[Any], Any], why: str | None) -> None:
    """Element by element they may be anything that torch calls so."""
    found = processes.obstacle(thalweg.ADAMW.but(direction=_Own(function)), (4, 6))
    assert found == why


def process(rank: int, folder: str, task: Callable[[Any], None]) -> None:
    """One of the two."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    task(torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of torch's that outlive the group would abort an ordinary exit, now and then


interpreter = pytest.mark.skipif(
    find_spec("triton") is None or torch.accelerator.is_available(), reason="triton cannot interpret here"
)


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize(
    "task", [checkpoints, steps, pytest.param(launches, marks=interpreter), owners, refusals, small, release]
)
def test_two_processes(tmp_path: Path, task: Callable[[Any], None]) -> None:
    """What the task's line says holds in both processes."""
    mp.spawn(process, args=(str(tmp_path), task), nprocs=2)
