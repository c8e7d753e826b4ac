"""Steps that are captured and replayed, on the CPU: numbers worked out on the device, and nothing else left to Python.

There is no graph capture on a CPU, so a tape stands in for it: it keeps every operation of torch and every launch of a
kernel that a step makes, and plays them again, on the same tensors and without the library.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

import thalweg
from engines.rig import LAYOUTS, NAMES, build, everything, parameters, run, set_gradients, worst_error
from engines.test_triton import all_by_triton, interpreted, needs_triton, on_cpu
from thalweg.engine import compiled
from thalweg.engine import triton as accelerators
from thalweg.engine.triton import chunk

__all__ = ["on_cpu"]

#: What cannot be captured, and why.
REFUSED = {
    **dict.fromkeys(("adamcpr", "adapnm", "asgd", "pnm", "rprop", "soap"), "depends on the step count"),
    **dict.fromkeys(("adalo", "momo", "momo_adam"), "looks at the loss in Python"),
    "adama": "keeps on the host",
}
CAPTURED = [name for name in NAMES if name not in REFUSED]
STEPS = 8  # RAdam changes its formula at the sixth
DENSE = tuple(name for name in LAYOUTS if name not in ("gaps", "rare"))


class NoReading(TorchDispatchMode):
    """Refuses to hand a number to Python, for which a device would have to be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("Python has read a number")
        return func(*args, **(kwargs or {}))


class Tape(NoReading):
    """What is done while it is on, to be done again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.again: list[Callable[[], None]] = []
        launch = chunk.Chunk.launch

        def launched(self_: Any, *arguments: Any, **named: Any) -> None:
            self.again.append(lambda: launch(self_, *arguments, **named))
            with _disable_current_modes():  # the interpreter's own
                launch(self_, *arguments, **named)

        monkeypatch.setattr(chunk.Chunk, "launch", launched)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        fresh = all(t.untyped_storage().data_ptr() not in given for t in made)
        if not func.is_view:
            self.again.append(lambda: self._repeat(func, args, kwargs or {}, made if fresh else []))
        return out

    @staticmethod
    def _repeat(func: Any, args: Any, kwargs: Any, made: list[Tensor]) -> None:
        out = [t for t in tree_leaves(func(*args, **kwargs)) if isinstance(t, Tensor)]
        for kept, found in zip(made, out, strict=True) if made else ():
            kept.copy_(found)

    def play(self) -> None:
        """Do it again."""
        with torch.no_grad():
            for action in self.again:
                action()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refusals(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"capturable=True does not work with {thalweg.get(name).cls.__name__}.*{REFUSED[name]}.*leave it False",
    ):
        build(name, parameters(layouts=("matrix",)), "auto", capturable=True)


def test_the_document_names_them() -> None:
    text = (Path(__file__).parents[2] / "docs/cuda_graphs.md").read_text()
    rows = re.findall(r"^\| (`.*) \| .* \|$", text, re.MULTILINE)
    assert {*re.findall(r"`(\w+)`", " ".join(rows))} == {*REFUSED, "Lookahead"}
    assert f"{len(CAPTURED)} of the {len(NAMES)} optimizers" in text
    with pytest.raises(ValueError, match="depends on the step count"):
        thalweg.SGD([Parameter(torch.ones(2))], lr=0.1, outer=thalweg.Lookahead(), capturable=True)


def test_refused_in_a_later_group() -> None:
    a, b = (Parameter(torch.ones(2)) for _ in range(2))
    opt = thalweg.Optimizer([{"params": [a], "recipe": "adamw", "capturable": True}])
    with pytest.raises(ValueError, match="depends on the step count"):
        opt.add_param_group({"params": [b], "recipe": "rprop", "capturable": True})
    assert len(opt.param_groups) == 1


def everything_moved(opt: thalweg.Optimizer, params: dict[str, Parameter]) -> dict[str, Tensor]:
    """Parameters, state, and the numbers that groups keep."""
    found = everything(opt, params)
    for i, group in enumerate(opt.param_groups):
        for key in opt.recipe_of(group).group_numbers:
            found[f"group {i}.{key}"] = torch.as_tensor(group[key], dtype=torch.float64)
    return found


@cache
def _ordinary(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    params = parameters(dtype)
    return everything_moved(run(name, "reference", params, STEPS, two_groups=True), params)


@pytest.mark.parametrize("engine", ["reference", "foreach"])
@pytest.mark.parametrize("name", CAPTURED)
def test_numbers_are_those_of_ordinary_steps(name: str, engine: str) -> None:
    """In double precision, every layout, and one parameter that is left out now and then."""
    params = parameters(torch.float64)
    with NoReading():
        opt = run(name, engine, params, STEPS, two_groups=True, capturable=True)
    expected = _ordinary(name, torch.float64)
    found = everything_moved(opt, params)
    assert found.keys() == expected.keys()
    # Orthogonalising in other products is what differs most.
    error, where = worst_error(found, expected)
    assert error <= (1e-9 if name == "muon" else 1e-12), where


@pytest.mark.parametrize("name", ["adamw", "lamb", "radam", "adafactor", "prodigy", "schedulefree_radam", "muon"])
def test_compiled(name: str) -> None:
    params = parameters()
    with NoReading():
        opt = run(name, "compiled", params, STEPS, two_groups=True, capturable=True)
    error, where = worst_error(everything_moved(opt, params), _ordinary(name, torch.float32))
    assert error <= (2e-4 if name == "muon" else 2e-5), where


@pytest.mark.parametrize("changes", [{"rounding": "stochastic"}, {"state": "bfloat16"}, {"state": "int8"}], ids=str)
@pytest.mark.parametrize("engine", ["foreach", "compiled"])
def test_codecs_and_random_rounding(engine: str, changes: dict[str, Any]) -> None:
    """Seeds are worked out on the device, too: the same bits."""
    found = []
    for capturable in (False, True):
        params = parameters(torch.bfloat16 if "rounding" in changes else torch.float32, ("large", "vector"))
        opt = run("adamw", engine, params, 3, capturable=capturable, **changes)
        found.append(everything(opt, params))
    for key, ordinary in found[0].items():
        assert torch.equal(found[1][key], ordinary), key


@needs_triton
@interpreted
@pytest.mark.parametrize("changes", [{}, {"state": "int8"}, {"rounding": "stochastic"}], ids=str)
@pytest.mark.parametrize("name", ["adamw", "lamb", "radam", "nadam", "prodigy", "schedulefree_adamw", "dog"])
def test_replay_of_kernels(name: str, changes: dict[str, Any], on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    dtype = torch.bfloat16 if changes.get("rounding") else torch.float32
    opt = _replayed(name, "compiled", dtype, changes, monkeypatch)
    assert all_by_triton(opt)


@pytest.mark.parametrize("name", CAPTURED)
def test_replay_without_a_compiler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _replayed(name, "foreach", torch.float32, {}, monkeypatch)


def _replayed(
    name: str, engine: str, dtype: torch.dtype, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> thalweg.Optimizer:
    """Two steps, a third one kept on tape, and replays of it, beside as many ordinary steps."""
    ordinary, params = parameters(dtype, DENSE), parameters(dtype, DENSE)
    expected = everything_moved(run(name, engine, ordinary, STEPS, **changes), ordinary)
    opt = build(name, params, engine, capturable=True, **changes)
    for t in (1, 2):
        set_gradients(params, t)
        opt.step()
    grads: list[Any] = [None if p.grad is None else p.grad.clone() for p in params.values()]
    for p, grad in zip(params.values(), grads, strict=True):
        p.grad = grad
    fresh = parameters(dtype, DENSE)
    tape = Tape(monkeypatch)
    for t in range(3, STEPS + 1):
        set_gradients(fresh, t)
        for grad, like in zip(grads, fresh.values(), strict=True):
            if grad is not None:
                grad.copy_(like.grad)
        if t == 3:
            with tape:
                opt.step()
        else:
            tape.play()
    error, where = worst_error(everything_moved(opt, params), expected)
    assert error <= (2e-4 if name == "muon" else 2e-5), where
    return opt


@pytest.mark.parametrize("shape", [(), (1,)])
def test_rates_in_tensors_are_read_anew(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's way with them: the number in the tensor changes, and the next replay goes by it."""
    rate = torch.full(shape, 0.1)
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = thalweg.SGD([p], lr=rate, capturable=True)
    opt.step()
    tape = Tape(monkeypatch)
    with tape:
        opt.step()
    opt.param_groups[0]["lr"].fill_(0.01)
    tape.play()
    assert torch.allclose(p.detach(), torch.full((3,), 1 - 0.1 - 0.1 - 0.01))


def test_rates_in_tensors_and_numbers_of_groups() -> None:
    """The rate may be a vector of one."""
    found = []
    for rate in (0.1, torch.full((1,), 0.1, dtype=torch.float64)):
        p = Parameter(torch.ones(1))
        opt = thalweg.ScheduleFreeAdamW([p], lr=rate, capturable=isinstance(rate, Tensor))
        for t in range(3):
            p.grad = torch.full((1,), 1.0 + t)
            opt.step()
        found.append(p.detach())
    assert torch.allclose(*found, rtol=1e-6)


def test_rates_elsewhere_are_refused() -> None:
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = thalweg.SGD([p], lr=0.1, capturable=True)
    opt.step()
    before = p.detach().clone()
    opt.param_groups[0]["lr"] = torch.ones((), device="meta")
    with pytest.raises(ValueError, match=r"lr is a tensor on meta.*move it to cpu"):
        opt.step()
    assert torch.equal(p.detach(), before)
    assert opt.state[p]["step"] == 1


def test_what_needs_python_names_itself() -> None:
    """A number that a formula looks at in Python cannot be a tensor."""
    with pytest.raises(ValueError, match="needed in Python"):
        thalweg.Optimizer([Parameter(torch.ones(2))], recipe="adax", betas=(0.9, torch.tensor(1e-4)), capturable=True)


def test_sparse_gradients_are_refused() -> None:
    p = Parameter(torch.ones(3, 2))
    p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (3, 2))
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        thalweg.SGD([p], lr=0.1, capturable=True).step()


def test_capture_of_an_ordinary_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its replays would be wrong, and nothing would say so."""
    monkeypatch.setattr("thalweg.optimizer.capturing", lambda device: True)
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    opt = thalweg.AdamW([p])
    with pytest.raises(RuntimeError, match=r"captured with capturable=False.*capturable=True"):
        opt.step()
    assert not opt.state[p]
    thalweg.AdamW([p], capturable=True).step()


@needs_triton
@interpreted
def test_tables_of_a_capture_are_not_kept(on_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A captured copy of a table is made in replays only, so that no other step may go by it."""
    params = parameters(layouts=("large", "vector"))
    opt = run("adamw", "compiled", params, 2, capturable=True)
    (plan,) = opt._compiled.plans.values()
    (known,) = (each for each in plan.chunks if isinstance(each, chunk.Chunk))
    with monkeypatch.context() as patch:
        for module in (accelerators.chunk, compiled):
            patch.setattr(module, "capturing", lambda device: True)
        set_gradients(params, 3)
        opt.step()
        assert known.known == []
        params["vector"].grad = None
        opt.step()
        assert list(opt._compiled.plans.values()) == [plan]
    table = known.table
    set_gradients(params, 4)
    opt.step()
    assert known.table is not table
    assert known.known


@pytest.mark.parametrize("capturable", [False, True])
def test_checkpoints_go_both_ways(capturable: bool) -> None:
    """What was saved by one kind of step is gone on with by the other."""
    params, others = parameters(layouts=DENSE), parameters(layouts=DENSE)
    opt = run("nadam", "foreach", params, 3, capturable=capturable)
    other = build("nadam", others, "foreach", capturable=not capturable)
    for p, q in zip(params.values(), others.values(), strict=True):
        q.data.copy_(p.data)
    saved = opt.state_dict()
    other.load_state_dict(
        {**saved, "param_groups": [{**g, "capturable": not capturable} for g in saved["param_groups"]]}
    )
    for each, own in ((opt, params), (other, others)):
        set_gradients(own, 4)
        each.step()
    error, where = worst_error(everything(other, others), everything(opt, params))
    assert error <= 1e-6, where
