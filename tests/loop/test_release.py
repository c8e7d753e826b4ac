"""Gradient release takes the ordinary step in less memory, in one process and in two; or says why it cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

import thalweg
from engines import rig
from loop.released import STEPS, loss_of, process, tied
from thalweg.release import GradientRelease


def coupled(name: str, **options: Any) -> bool:
    """Whether tensors of this optimizer depend on each other, or on the loss."""
    opt = thalweg.get(name).cls([nn.Parameter(torch.ones(2, 2))], **options)
    return any(r.couples or r.needs_loss for r in map(opt.recipe_of, opt.param_groups))


APART = [name for name in rig.NAMES if name != "sparseadam" and not coupled(name)]
COUPLED = [name for name in rig.NAMES if coupled(name)]


def adamw(model: nn.Module, **options: Any) -> thalweg.Optimizer:
    """AdamW with two groups that differ in rate and decay, each with large and small tensors."""
    return rig.build("adamw", rig.groups(dict(model.named_parameters()), "adamw"), "foreach", **options)


def train(
    name: str, pool: int | None, engine: str, *, model: nn.Module | None = None, steps: int = STEPS, **options: Any
) -> tuple[nn.Module, thalweg.Optimizer]:
    """A few steps with a schedule; released with that pool, ordinary ones where it is None."""
    model = tied() if model is None else model
    opt = rig.build(name, rig.groups(dict(model.named_parameters()), name), engine, **options)
    release = None if pool is None else GradientRelease(opt, pool=pool)
    rated = all(group["lr"] is not None for group in opt.param_groups)
    schedule = thalweg.schedules.Cosine(steps + 1).attach(opt) if rated else None
    for t in range(1, steps + 1):
        loss_of(model, t).backward()
        opt.step()
        if schedule is not None:
            schedule.step()
        if release is None:
            opt.zero_grad()
        assert all(p.grad is None for p in model.parameters())
    return model, opt


def apart(got: tuple[nn.Module, thalweg.Optimizer], expected: tuple[nn.Module, thalweg.Optimizer]) -> float:
    """The worst relative difference of any parameter or state."""
    everything = [rig.everything(opt, dict(model.named_parameters())) for model, opt in (got, expected)]
    return rig.worst_error(*everything)[0]


@pytest.mark.parametrize("name", APART)
def test_the_step_of_every_optimizer(name: str) -> None:
    """The same bits where tensors go one by one; elsewhere company changes the last bits, released or not."""
    options = {"silent_sgd_phase": False} if name == "schedulefree_radam" else {}  # or four steps move nothing
    ordinary = train(name, None, "reference", **options)
    pairs = zip(ordinary[0].parameters(), tied().parameters(), strict=True)
    assert sum(not torch.equal(p, q) for p, q in pairs) >= 8
    assert apart(train(name, 0, "reference", **options), ordinary) == 0
    assert apart(train(name, 40, "foreach", **options), ordinary) <= 2e-5


@pytest.mark.parametrize("name", ["adamw", "lion", "sgd"])
def test_the_same_bits_from_the_foreach_engine_where_elements_are_apart(name: str) -> None:
    ordinary = train(name, None, "foreach")
    for pool in (0, 40, 1 << 20):
        assert apart(train(name, pool, "foreach"), ordinary) == 0


def test_the_same_from_the_compiled_engine() -> None:
    got = train("adamw", 40, "compiled")
    rig.assert_compiled(got[1], dict(got[0].named_parameters()))
    assert apart(got, train("adamw", None, "compiled")) <= 2e-5


@pytest.mark.parametrize("technique", ["agc", "clip_rms", "cautious", "centralise", "lookahead"])
def test_techniques_of_one_tensor(technique: str) -> None:
    runs = [train("adamw", pool, "reference", techniques=[technique]) for pool in (0, None)]
    assert apart(*runs) == 0


@pytest.mark.parametrize("rounding", ["stochastic", "kahan"])
def test_bfloat16_is_rounded_to_the_same_bits(rounding: str) -> None:
    runs = [train("adamw", p, "foreach", model=tied(torch.bfloat16), rounding=rounding) for p in (0, None)]
    assert apart(*runs) == 0


def test_the_stall_warning_comes_too() -> None:
    with pytest.warns(RuntimeWarning, match="did not move in step 10"):
        train("sgd", 0, "foreach", model=tied(torch.bfloat16), steps=10, lr=1e-7)


class Watched:
    """Counts the gradients' elements that exist whenever one becomes final."""

    def __init__(self, model: nn.Module) -> None:
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.largest = self.most = 0
        for p in self.params:
            p.register_post_accumulate_grad_hook(self.look)

    def look(self, _: Tensor) -> None:
        sizes = [p.grad.numel() for p in self.params if p.grad is not None]
        self.most = max(self.most, sum(sizes))


@pytest.mark.parametrize("pool", [0, 300, 3000])
def test_gradients_hold_no_more_than_the_pool_and_the_largest(pool: int) -> None:
    model = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(32, 32), nn.Tanh())])
    watched = Watched(model)
    opt = thalweg.AdamW(model.parameters())
    release = GradientRelease(opt, pool=pool)
    for _ in range(2):
        model(torch.ones(1, 32)).sum().backward()
        opt.step()
    assert 1024 <= watched.most <= pool + 1024
    release.remove()
    model(torch.ones(1, 32)).sum().backward()
    assert watched.most == 20 * (1024 + 32)


@pytest.mark.parametrize("engine", ["reference", "foreach", "compiled"])
@pytest.mark.parametrize("state", ["bfloat16", "int8", "int4"])
def test_small_state_is_the_same_released_or_not(state: str, engine: str) -> None:
    """Codes are equal too: a tensor's random bits and its blocks' scales do not depend on when it is stepped on."""

    def run(released: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.LayerNorm(64))
        opt = thalweg.AdamW(model.parameters(), state=state, engine=engine)
        if released:
            GradientRelease(opt, pool=0)
        for t in range(STEPS):
            x = torch.randn(16, 64, generator=torch.Generator().manual_seed(t))
            model(x).square().mean().backward()
            opt.step()
            opt.zero_grad()
        assert any(s.dtype in (torch.bfloat16, torch.uint8) for held in opt.state.values() for s in held.values())
        return [*model.parameters(), *(s for p in model.parameters() for s in opt.state[p].values())]

    for ordinary, released in zip(run(False), run(True), strict=True):
        assert torch.equal(ordinary, released)


def test_peak_memory_falls_as_predicted() -> None:
    """Memory that backward and step allocate, by torch's profiler; the first steps make state and buffers."""

    def peak(pool: int | None) -> int:
        model = nn.Sequential(*[nn.Linear(256, 256, bias=False) for _ in range(12)])
        opt = thalweg.SGD(model.parameters(), lr=0.1, engine="reference")
        release = None if pool is None else GradientRelease(opt, pool=pool)
        for _ in range(2):
            loss = model(torch.ones(1, 256)).square().mean()
            with torch.profiler.profile(profile_memory=True) as profile:
                loss.backward()
                opt.step()
            opt.zero_grad()
        del release
        events = sorted(
            (e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"),  # type: ignore[union-attr]
            key=lambda e: e.start_ns(),
        )
        held = most = 0
        for event in events:
            held += event.nbytes()
            most = max(most, held)
        return most

    gradient = 256 * 256 * 4
    print("peak, in gradients of one tensor:", ordinary := peak(None) / gradient, released := peak(0) / gradient)
    # A gradient's transposed product, and what the step's formula takes, stand beside the gradients in both.
    assert 12 <= ordinary <= 15
    assert 1 <= released <= 4


def test_accumulation_steps_on_the_last_micro_batch() -> None:
    def run(pool: int | None) -> tuple[nn.Module, thalweg.Optimizer]:
        model = tied()
        opt = adamw(model)
        release = None if pool is None else GradientRelease(opt, pool=pool)
        for t in range(1, STEPS + 1):
            for part in range(3):
                # Step 2 uses the rare parameter in a held micro-batch only: its gradient waits for step().
                at = t if part == 0 else 1
                with release.accumulate() if release and part < 2 else nullcontext():
                    (loss_of(model, at, part) / 3).backward()
            opt.step()
            opt.zero_grad()
        return model, opt

    ordinary = run(None)
    for pool in (0, 40, 1 << 20):
        assert apart(run(pool), ordinary) == 0


def test_adama_takes_micro_batches_into_its_moments() -> None:
    def run(pool: int | None) -> tuple[nn.Module, thalweg.Optimizer]:
        model = tied()
        opt = rig.build("adama", rig.groups(dict(model.named_parameters()), "adama"), "foreach")
        release = None if pool is None else GradientRelease(opt, pool=pool)
        for t in range(1, STEPS + 1):
            for part in range(3):
                at = t if part == 0 else 1
                with release.accumulate() if release and part < 2 else nullcontext():
                    (loss_of(model, at, part) / 3).backward()
                if part < 2:
                    if release is None:
                        opt.accumulate()
                        opt.zero_grad()
                    assert all(p.grad is None for p in model.parameters())
            opt.step()
            opt.zero_grad()
        return model, opt

    ordinary = run(None)
    for pool in (0, 40, 1 << 20):
        assert apart(run(pool), ordinary) == 0


def test_a_checkpoint_resumes_as_if_nothing_had_happened() -> None:
    whole = train("adamw", 0, "foreach")
    model = tied()
    opt = adamw(model)
    GradientRelease(opt, pool=0)
    schedule = thalweg.schedules.Cosine(STEPS + 1).attach(opt)
    for t in range(1, STEPS + 1):
        if t == 3:
            saved = copy.deepcopy((model.state_dict(), opt.state_dict(), schedule.state_dict()))
            model = tied()
            opt = adamw(model)
            schedule = thalweg.schedules.Cosine(STEPS + 1).attach(opt)
            for thing, state in zip((model, opt, schedule), saved, strict=True):
                thing.load_state_dict(state)
            GradientRelease(opt, pool=0)
        loss_of(model, t).backward()
        opt.step()
        schedule.step()
    assert apart((model, opt), whole) == 0


def test_a_checkpoint_in_the_middle_of_a_step_is_refused_and_loading_one_abandons_it() -> None:
    model, opt = tied(), None
    opt = thalweg.AdamW(model.parameters())
    GradientRelease(opt, pool=0)
    loss_of(model, 1).backward()
    opt.step()
    saved = copy.deepcopy(opt.state_dict()), copy.deepcopy(model.state_dict())
    loss_of(model, 2).backward()
    with pytest.raises(RuntimeError, match=r"state_dict\(\) in the middle of a step"):
        opt.state_dict()
    opt.load_state_dict(saved[0])
    model.load_state_dict(saved[1])
    loss_of(model, 2).backward()
    opt.step()
    assert int(opt.state[model.embed.weight]["step"]) == 2


def test_removing_it_gives_ordinary_steps_back() -> None:
    model = tied()
    opt = thalweg.AdamW(model.parameters())
    release = GradientRelease(opt, pool=0)
    with pytest.raises(ValueError, match="released already"):
        GradientRelease(opt)
    loss_of(model, 1).backward()
    with pytest.raises(RuntimeError, match="remove"):
        release.remove()
    opt.step()
    release.remove()
    loss_of(model, 1).backward()
    before = model.one.weight.clone()
    assert model.one.weight.grad is not None
    opt.step()
    assert not torch.equal(before, model.one.weight)
    GradientRelease(opt)


def test_parameters_that_are_added_or_thawed_later_are_released_too() -> None:
    one, two = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    one.weight.requires_grad_(False)
    opt = thalweg.SGD(one.parameters(), lr=0.1)
    GradientRelease(opt, pool=0)
    one.weight.requires_grad_(True)
    opt.add_param_group({"params": two.parameters()})
    for released in (False, True):
        before = [p.weight.clone() for p in (one, two)]
        two(one(torch.ones(3))).sum().backward()
        assert [p.weight.grad is None for p in (one, two)] == [released] * 2
        opt.step()
        assert not any(torch.equal(p.weight, q) for p, q in zip((one, two), before, strict=True))


def test_sparse_gradients_wait_for_the_step() -> None:
    def run(released: bool) -> Tensor:
        torch.manual_seed(0)
        embed = nn.Embedding(9, 3, sparse=True)
        opt = thalweg.SparseAdam(embed.parameters(), lr=0.1)
        if released:
            GradientRelease(opt, pool=0)
        for t in range(3):
            embed(torch.tensor([t, t + 1])).square().sum().backward()
            opt.step()
            opt.zero_grad()
        return embed.weight.detach()

    assert torch.equal(run(True), run(False))


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_optimizers_are_refused(name: str) -> None:
    model = tied()
    opt = rig.build(name, dict(model.named_parameters()), "auto")
    with pytest.raises(ValueError, match=r"group 0: .*(totals over the|needs the loss).*or an ordinary step"):
        GradientRelease(opt)
    loss_of(model, 1).backward()
    assert model.one.weight.grad is not None, "a refused release leaves nothing behind"


@pytest.mark.parametrize("technique", ["clip_norm", thalweg.Stable()], ids=["clip_norm", "stable"])
def test_coupling_techniques_are_refused(technique: Any) -> None:
    opt = thalweg.AdamW(tied().parameters(), weight_decay=0.1, techniques=[technique])
    with pytest.raises(ValueError, match="totals over the"):
        GradientRelease(opt)


def test_what_cannot_be_right_is_refused() -> None:
    model = tied()
    with pytest.raises(TypeError, match="LBFGS"):
        GradientRelease(thalweg.LBFGS(model.parameters()))  # type: ignore[arg-type]
    opt = thalweg.AdamW(model.parameters())
    with pytest.raises(ValueError, match="at least 0"):
        GradientRelease(opt, pool=-1)
    release = GradientRelease(opt, pool=20)
    with pytest.raises(RuntimeError, match="takes no closure"):
        opt.step(lambda: 0.0)
    loss_of(model, 1).backward()
    with pytest.raises(RuntimeError, match=r"accumulate\(\) in the middle"), release.accumulate():
        pass
    with pytest.raises(RuntimeError, match=r"second backward .*accumulate\(\)"):
        loss_of(model, 2).backward()


SPOILED: dict[str, Callable[[nn.Module, thalweg.Accumulator], Any]] = {
    "clipped": lambda model, _: nn.utils.clip_grad_norm_(model.parameters(), 1e-3),
    "divided": lambda _, sums: sums.finish(),
    "dropped": lambda model, _: model.zero_grad(),
}


@pytest.mark.parametrize("how", SPOILED)
def test_gradients_that_were_changed_meanwhile_are_noticed(how: str) -> None:
    model = tied()
    opt = thalweg.AdamW(model.parameters())
    GradientRelease(opt, pool=100)
    sums = thalweg.Accumulator(model)
    sums.backward(loss_of(model, 1), count=2)
    assert {p.grad is None for p in model.parameters()} == {True, False}
    SPOILED[how](model, sums)
    with pytest.raises(RuntimeError, match=r"changed between backward and step.*agc"):
        opt.step()


@pytest.mark.parametrize("pool", [0, 100, 1000])
@pytest.mark.parametrize("unscaled", [False, True])
def test_a_scaler_is_refused_unless_it_is_off(pool: int, unscaled: bool) -> None:
    model = tied()
    opt = thalweg.AdamW(model.parameters())
    GradientRelease(opt, pool=pool)
    off = torch.amp.GradScaler("cpu", enabled=False)
    off.scale(loss_of(model, 1)).backward()
    off.step(opt)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model, 1)).backward()
    if unscaled:
        scaler.unscale_(opt)
    with pytest.raises(RuntimeError, match=r"GradScaler.*bfloat16"):
        scaler.step(opt)


@pytest.mark.parametrize("engine", ["foreach", "compiled"])
def test_a_weight_that_backward_still_needs_is_noticed(engine: str) -> None:
    """A detached use of the weight saves it for later than its own gradient; autograd must see that it has moved."""
    model = nn.Linear(8, 8, bias=False)
    x = torch.ones(2, 8, requires_grad=True)
    opt = thalweg.AdamW(model.parameters(), lr=0.1, engine=engine)
    GradientRelease(opt, pool=0)
    late = (x @ model.weight.detach()) * 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(late).sum().backward()


def test_averaged_weights_are_not_trained() -> None:
    model = tied()
    opt = thalweg.ScheduleFreeAdamW(model.parameters())
    GradientRelease(opt, pool=0)
    loss_of(model, 1).backward()
    opt.step()
    opt.eval()
    with pytest.raises(RuntimeError, match="eval mode"):
        loss_of(model, 2).backward()


def test_two_processes(tmp_path: Path) -> None:
    mp.spawn(process, args=(str(tmp_path),), nprocs=2)
