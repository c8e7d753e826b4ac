"""Sparse gradients: the rows they name move as torch's or as in a dense step, the others keep every bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from engines.rig import everything

ROWS, WIDTH = 9, 4
#: The library's name, torch's class, options.
NAMESAKES: list[tuple[str, str, dict[str, Any]]] = [
    ("sgd", "SGD", {"lr": 0.1}),
    ("adagrad", "Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.2}),
    ("sparseadam", "SparseAdam", {"lr": 0.05, "betas": (0.8, 0.97)}),
]
LAZY = ["adamw", "lion", "rmsprop", "adadelta"]
ENGINES = ["reference", "foreach", "compiled"]


def _gradient(t: int, dtype: torch.dtype = torch.float64, names: Any = None) -> Tensor:
    """Rows of step t, some of them twice; at step 4 none at all."""
    generator = torch.Generator().manual_seed(t)
    count = 0 if t == 4 else 5
    rows = torch.randint(0, ROWS - 2, (count,), generator=generator) if names is None else torch.tensor(names)
    values = torch.randn((len(rows), WIDTH), generator=generator, dtype=torch.float64).to(dtype)
    return torch.sparse_coo_tensor(rows[None], values, (ROWS, WIDTH), check_invariants=True)


def _table(dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn((ROWS, WIDTH), generator=torch.Generator().manual_seed(0)).to(dtype))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "theirs", "options"), NAMESAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_same_as_torch(name: str, theirs: str, options: dict[str, Any], engine: str) -> None:
    """Fifteen float64 steps, and a checkpoint of torch's taken up in the middle."""
    ours, other = _table(), _table()
    a = thalweg.get(name).cls([ours], engine=engine, **options)
    b = getattr(torch.optim, theirs)([other], **options)
    for t in range(1, 16):
        ours.grad, other.grad = _gradient(t), _gradient(t)
        a.step()
        b.step()
        torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-12)
        if t == 8:
            a = thalweg.get(name).cls([ours], engine=engine, **options)
            a.load_state_dict(copy.deepcopy(b.state_dict()))


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_exactly_a_dense_step(name: str) -> None:
    """Where a zero gradient does nothing, leaving rows out gives the bits of the dense step."""
    sparse, dense = _table(torch.float32), _table(torch.float32)
    opts = [thalweg.get(name).cls([p], lr=0.1, engine="foreach") for p in (sparse, dense)]
    for t in range(1, 10):
        sparse.grad = _gradient(t, torch.float32)
        dense.grad = sparse.grad.to_dense()
        for opt in opts:
            opt.step()
    for a, b in zip(
        *(everything(o, {"p": p}).values() for o, p in zip(opts, (sparse, dense), strict=True)), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", LAZY)
def test_lazy_rows(name: str, engine: str) -> None:
    """Named rows move as in an optimizer of their own, whose steps count as the table's; the others keep every bit."""
    options = {"lr": 0.1, "weight_decay": 0.1}
    table = _table()
    before = table.detach().clone()
    rows = nn.Parameter(before[:3].clone())
    opt = thalweg.get(name).cls([table], engine=engine, techniques=["lazy"], **options)
    own = thalweg.get(name).cls([rows], engine="reference", **options)
    for t in range(1, 8):
        table.grad = _gradient(t, names=[0, 1, 2])
        rows.grad = table.grad.to_dense()[:3]
        opt.step()
        own.step()
    torch.testing.assert_close(table[:3], rows, rtol=1e-12, atol=1e-12)
    assert torch.equal(table[3:], before[3:])
    for role, value in opt.state[table].items():
        assert role == "step" or not value[3:].any()
    assert opt.state[table]["step"] == 7


def test_beside_dense_parameters_and_in_bfloat16() -> None:
    table, bias = _table(torch.bfloat16), nn.Parameter(torch.ones(3))
    before = table.detach().clone()
    opt = thalweg.AdamW([table, bias], lr=0.1, techniques=["lazy"], rounding="stochastic", engine="foreach")
    for t in (1, 2, 3):
        table.grad, bias.grad = _gradient(t, torch.bfloat16, [1, 5]), torch.ones(3)
        opt.step()
    moved = (table != before).any(1)
    assert moved.nonzero().flatten().tolist() == [1, 5]
    assert (bias < 0.8).all()
    assert opt.state[table]["exp_avg"].dtype == torch.float32


def test_single_entries_and_complex_tables() -> None:
    """Indices may reach to single entries; complex tables are pairs of real ones here too."""
    p = nn.Parameter(torch.ones(3, 3, dtype=torch.complex128))
    opt = thalweg.Adagrad([p], lr=0.1, eps=0.0, engine="reference")
    p.grad = torch.eye(3, dtype=torch.complex128).mul(2 - 3j).to_sparse()
    opt.step()
    expected = torch.ones_like(p) + torch.eye(3, dtype=torch.complex128) * (-0.1 + 0.1j)
    torch.testing.assert_close(p, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: thalweg.AdamW([p]), "acts on every row"),
        (lambda p: thalweg.SGD([p], momentum=0.9), "Average acts on every row"),
        (lambda p: thalweg.SGD([p], weight_decay=0.1), "L2 acts on every row"),
        (lambda p: thalweg.SGD([p], outer=thalweg.Lookahead()), "Lookahead acts on every row"),
        (lambda p: thalweg.LAMB([p]), "whole tensors"),
    ],
    ids=["adamw", "momentum", "decay", "lookahead", "lamb"],
)
def test_refused_with_the_reason(make: Any, why: str) -> None:
    p, other = _table(), nn.Parameter(torch.ones(2))
    opt = make(p)
    opt.add_param_group({"params": [other]})
    p.grad, other.grad = _gradient(1).coalesce(), torch.ones(2)
    before = p.detach().clone()
    with pytest.raises(RuntimeError, match=rf"sparse.*{why}.*sparse=False"):
        opt.step()
    assert torch.equal(p, before)
    assert (other == 1).all()
    assert not opt.state


def test_lazy_needs_elements() -> None:
    with pytest.raises(ValueError, match=r"lazy.*every element"):
        thalweg.LAMB([_table()], techniques=["lazy"])
