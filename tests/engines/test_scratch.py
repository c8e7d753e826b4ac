"""Memory that one temporary leaves to the next, and the halves of symmetric matrices."""

from __future__ import annotations

import pytest
import torch

import thalweg
from thalweg.engine import scratch
from thalweg.engine.native import mirror as mirror_module
from thalweg.engine.native.mirror import mirror

CPU = torch.device("cpu")
LARGE = (600, 600)


def _empty(shape: tuple[int, ...] = LARGE, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return scratch.empty(shape, dtype, CPU)


@pytest.fixture(autouse=True)
def _clear() -> None:
    scratch.clear()


def test_memory_is_handed_on_only_once_nobody_reads_it() -> None:
    first = _empty()
    place = first.data_ptr()
    part = first[3]
    del first
    assert _empty().data_ptr() != place  # a view of it lives
    scratch.clear()
    first = _empty()
    place = first.data_ptr()
    del first, part
    assert _empty((500, 600)).data_ptr() == place


def test_what_is_in_use_outlives_the_step() -> None:
    kept = _empty().fill_(3.0)
    scratch.clear()
    others = [_empty().fill_(float(i)) for i in range(4)]
    assert (kept == 3).all()
    assert len({t.data_ptr() for t in (kept, *others)}) == 5


def test_shapes_and_dtypes_are_those_asked_for() -> None:
    for shape, dtype in ((LARGE, torch.bfloat16), ((2, 600, 600), torch.float64), ((3, 4), torch.float32)):
        found = _empty(shape, dtype)
        assert found.shape == shape
        assert found.dtype == dtype
        assert found.is_contiguous()


def test_a_step_leaves_no_memory_behind() -> None:
    p = torch.nn.Parameter(torch.randn(600, 700))
    p.grad = torch.randn_like(p)
    thalweg.Muon([p], lr=0.01).step()
    assert not scratch._held


def test_matrices_of_one_step_share_memory_but_no_numbers() -> None:
    """Each matrix's step is what it is alone."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((600, 700), (600, 700), (520, 530), (700, 600))]
    for p in params:
        p.grad = torch.randn_like(p)
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params]
    for p, q in zip(params, alone, strict=True):
        q.grad = p.grad
        thalweg.Muon([q], lr=0.01, engine="compiled").step()
    thalweg.Muon(params, lr=0.01, engine="compiled").step()
    for p, q in zip(params, alone, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 15, 64, 65, 200, 333])
@pytest.mark.parametrize("compiled", [True, False])
def test_mirror(n: int, dtype: torch.dtype, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled and mirror_module._code() is None:
        pytest.skip("no C++ compiler")
    if not compiled:
        monkeypatch.setattr(mirror_module, "_code", lambda: None)
    matrix = torch.randn(n, n).to(dtype)
    expected = matrix.triu() + matrix.triu(1).mT
    assert mirror(matrix) is matrix
    assert torch.equal(matrix, expected)
