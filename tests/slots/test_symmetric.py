"""Products in blocks, and SOAP's first basis found in the span of the slices."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

import thalweg
from thalweg.engine.native import mirror
from thalweg.slots import products, soap
from thalweg.slots.products import LARGE, add_product, product
from thalweg.slots.symmetric import BLOCKED, gram, symmetric

REASON = "MKL is as fast here, or torch has no oneDNN"


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("n", [7, BLOCKED, BLOCKED + 3])
@pytest.mark.parametrize("turned", [False, True])
def test_products_in_blocks(n: int, batch: tuple[int, ...], turned: bool) -> None:
    x = (
        torch.randn(*batch, 40, n, dtype=torch.float64).mT
        if turned
        else torch.randn(*batch, n, 40, dtype=torch.float64)
    )
    z = torch.randn(*batch, n, n, dtype=torch.float64)
    z = z + z.mT
    whole = x @ x.mT
    torch.testing.assert_close(gram(x), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gram(x, z, 0.3, 0.7), 0.3 * z + 0.7 * whole, rtol=1e-12, atol=1e-12)
    square = whole @ whole
    torch.testing.assert_close(symmetric(whole, whole), square, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(symmetric(whole, whole, z, 0.3, 0.7), 0.3 * z + 0.7 * square, rtol=1e-12, atol=1e-11)
    found = gram(x)
    assert torch.equal(found, found.mT) or n < BLOCKED


LIBRARIES = ["torch's", pytest.param("oneDNN", marks=pytest.mark.skipif(products._onednn() is None, reason=REASON))]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("layout", ["rows", "columns", "some rows", "some columns"])
@pytest.mark.parametrize("other", ["rows", "columns", "some columns"])
def test_either_library(library: str, layout: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layout, the product is right; only what lies in memory in one piece goes to oneDNN."""
    layouts = {
        "rows": lambda t: t,
        "columns": lambda t: t.mT.contiguous().mT,
        "some rows": lambda t: torch.cat([t, t])[: len(t)],
        "some columns": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    }
    real, asked = products._onednn(), []

    def spy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        asked.append((x, y))
        return real(x, y)  # type: ignore[misc]

    monkeypatch.setattr(products, "_onednn", lambda: spy if library == "oneDNN" else None)
    x, y = layouts[layout](torch.randn(LARGE + 5, LARGE)), layouts[other](torch.randn(LARGE, LARGE + 9))
    z = torch.randn(LARGE + 5, LARGE + 9)
    exact = x.double() @ y.double()
    close = partial(torch.testing.assert_close, rtol=0, atol=2e-5 * LARGE**0.5, check_dtype=False)
    close(product(x, y), exact)
    close(product(x[None], y[None])[0], exact)
    close(add_product(z, x, y, 0.3, 0.7), 0.3 * z + 0.7 * exact)
    for piece in (1, products.PIECE):
        monkeypatch.setattr(products, "PIECE", piece)
        monkeypatch.setattr(products, "LARGE", 100)
        out = torch.empty(LARGE + 5, LARGE + 20)[:, : LARGE + 9]
        assert add_product(z, x, y, out=out) is out
        close(out, z + exact)
        assert product(x, y, out=out) is out
        close(out, exact)
    monkeypatch.setattr(products, "LARGE", LARGE)
    assert bool(asked) == (library == "oneDNN" and "some columns" not in (layout, other))
    assert product(x.double(), y.double()).dtype == torch.float64
    close(product(x[:5], y), exact[:5])


@pytest.mark.parametrize("together", [0, 1 << 20])
def test_symmetric_products_of_float32(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block into the result, or put together when all are there."""
    monkeypatch.setattr("thalweg.slots.symmetric.TOGETHER", together)
    x, z = torch.randn(BLOCKED + 70, 300), torch.randn(BLOCKED + 70, BLOCKED + 70)
    z = z + z.mT
    whole = x.double() @ x.double().mT
    for found, exact in (
        (gram(x), whole),
        (gram(x, alpha=0.5), whole / 2),
        (gram(x.mT.contiguous().mT, z, 0.3, 0.7), 0.3 * z + 0.7 * whole),
        (symmetric(z, z, z, 1.0, 0.5), z + 0.5 * (z.double() @ z.double())),
    ):
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)
        assert torch.equal(found, found.mT)


@pytest.mark.parametrize("compiler", [True, False])
@pytest.mark.parametrize("n", [3, 64, 150, 200])
def test_blocks_are_put_together(n: int, compiler: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies below the diagonal of each row of blocks is not looked at."""
    if not compiler:
        monkeypatch.setattr(mirror, "_code", lambda: None)
    whole = torch.randn(n, n)
    rows = [whole[i : i + mirror.UNIT, i:].contiguous() for i in range(0, n, mirror.UNIT)]
    z = torch.randn(n, n)
    half = whole.triu() + whole.triu(1).mT
    torch.testing.assert_close(mirror.assemble(rows), half, rtol=0, atol=0)
    expected = half * 2 + (z.triu() + z.triu(1).mT) * 3
    torch.testing.assert_close(mirror.assemble(rows, z, beta=3.0, alpha=2.0), expected, rtol=1e-6, atol=1e-6)


def holds_eigenvectors(basis: Tensor, grams: Tensor) -> Tensor:
    """Orthonormal, complete, eigenvectors of the products in the order of eigenvalues; these, over the largest."""
    torch.testing.assert_close(basis.mT @ basis, torch.eye(basis.shape[-1]).expand_as(basis), rtol=0, atol=2e-5)
    found = basis.mT @ grams @ basis
    eigenvalues = torch.linalg.eigvalsh(grams.double()).flip(-1).float()
    scale = float(eigenvalues.max())
    torch.testing.assert_close(found / scale, torch.diag_embed(eigenvalues) / scale, rtol=0, atol=2e-6)
    return eigenvalues / scale


@pytest.mark.parametrize(("shape", "axis"), [((BLOCKED + 40, 60), 0), ((60, BLOCKED + 40), 1), ((4, 5, BLOCKED), 2)])
def test_a_first_basis_in_a_large_space(shape: tuple[int, ...], axis: int) -> None:
    g = torch.randn(2, *shape)
    rows = soap.slices(g, shape, axis)
    grams = rows @ rows.mT
    eigenvalues = holds_eigenvectors(soap.first_basis(grams, g, shape=shape, axis=axis), grams)
    assert float(eigenvalues[:, rows.shape[-1] :].abs().max()) < 1e-6


@pytest.mark.parametrize("shape", [(BLOCKED + 40, 60), (60, BLOCKED + 40), (BLOCKED, BLOCKED)])
def test_the_first_bases_of_a_large_matrix(shape: tuple[int, ...]) -> None:
    """The longer axis's follows from the shorter one's, in a step of the optimizer too."""
    g = torch.randn(2, *shape)
    short, long = sorted((0, 1), key=lambda axis: shape[axis])
    rows = {axis: soap.slices(g, shape, axis) for axis in (short, long)}
    basis = soap.first_basis(rows[short] @ rows[short].mT, g, shape=shape, axis=short)
    other = soap.other_basis(g, basis, shape=shape, axis=long)
    holds_eigenvectors(other, rows[long] @ rows[long].mT)
    singular = torch.linalg.svdvals(g)
    turned = (other.mT @ rows[long] @ basis).diagonal(dim1=-2, dim2=-1).abs()
    torch.testing.assert_close(turned, singular, rtol=0, atol=2e-4 * float(singular.max()))

    p = torch.nn.Parameter(torch.zeros(shape))
    opt = thalweg.SOAP([p])
    p.grad = g[0]
    opt.step()
    for axis in (0, 1):
        holds_eigenvectors(opt.state[p][f"Q_{axis}"][None], rows[axis][:1] @ rows[axis][:1].mT)


def test_no_gradient_gives_a_basis() -> None:
    torch.testing.assert_close(soap.spanned(torch.zeros(1, 5, 3)), torch.eye(5)[None])


def test_what_is_not_finite_shows_in_the_basis_rather_than_raising() -> None:
    g = torch.full((1, BLOCKED + 40, 60), float("nan"))
    rows = soap.slices(g, (BLOCKED + 40, 60), 0)
    basis = soap.first_basis(rows @ rows.mT, g, shape=(BLOCKED + 40, 60), axis=0)
    assert basis.shape == (1, BLOCKED + 40, BLOCKED + 40)
    assert bool(basis.isfinite().all())
