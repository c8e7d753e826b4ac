"""Products in blocks, and SOAP's first basis found in the span of the slices."""

from __future__ import annotations

import pytest
import torch

from thalweg.slots import soap
from thalweg.slots.symmetric import BLOCKED, symmetric


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("n", [7, BLOCKED, BLOCKED + 3])
def test_products_in_blocks(n: int, batch: tuple[int, ...]) -> None:
    x = torch.randn(*batch, n, 40, dtype=torch.float64)
    z = torch.randn(*batch, n, n, dtype=torch.float64)
    z = z + z.mT
    whole = x @ x.mT
    torch.testing.assert_close(symmetric(x, x.mT), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(symmetric(x, x.mT, z, 0.3, 0.7), 0.3 * z + 0.7 * whole, rtol=1e-12, atol=1e-12)
    found = symmetric(x, x.mT)
    assert torch.equal(found, found.mT) or n < BLOCKED


@pytest.mark.parametrize(("shape", "axis"), [((BLOCKED + 40, 60), 0), ((60, BLOCKED + 40), 1), ((4, 5, BLOCKED), 2)])
def test_a_first_basis_in_a_large_space(shape: tuple[int, ...], axis: int) -> None:
    """Orthonormal, complete, and eigenvectors of the products in the order of their eigenvalues."""
    g = torch.randn(2, *shape)
    rows = soap.slices(g, shape, axis)
    grams = rows @ rows.mT
    basis = soap.first_basis(grams, g, shape=shape, axis=axis)
    n, rank = rows.shape[1:]
    eye = torch.eye(n).expand(2, n, n)
    torch.testing.assert_close(basis.mT @ basis, eye, rtol=0, atol=2e-5)
    found = basis.mT @ grams @ basis
    eigenvalues = torch.linalg.eigvalsh(grams.double()).flip(-1).float()
    scale = float(eigenvalues.max())
    torch.testing.assert_close(found / scale, torch.diag_embed(eigenvalues) / scale, rtol=0, atol=2e-6)
    assert float(eigenvalues[:, rank:].abs().max()) < 1e-6 * scale


def test_what_is_not_finite_shows_in_the_basis_rather_than_raising() -> None:
    g = torch.full((1, BLOCKED + 40, 60), float("nan"))
    rows = soap.slices(g, (BLOCKED + 40, 60), 0)
    basis = soap.first_basis(rows @ rows.mT, g, shape=(BLOCKED + 40, 60), axis=0)
    assert basis.shape == (1, BLOCKED + 40, BLOCKED + 40)
    assert bool(basis.isfinite().all())
