"""Adam in the eigenbasis of Shampoo's preconditioner: the basis, and what SOAP does after the step."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg import flows
from thalweg.hyper import Hyper
from thalweg.slots.base import Request, Slot, State, matrices, mean
from thalweg.slots.decay import Decoupled
from thalweg.slots.products import product
from thalweg.slots.symmetric import BLOCKED, gram


def turn(stack: Tensor, *bases: Tensor, shape: tuple[int, ...], axes: tuple[int, ...], back: bool) -> Tensor:
    """Each axis of ``axes`` of a stack ``(batch, *shape)`` multiplied by its basis, or by the inverse to come back."""
    turned = stack.reshape(stack.shape[0], *shape)
    for axis, basis in zip(axes, bases, strict=True):
        last = turned.movedim(axis + 1, -1)
        flat = product(last.reshape(last.shape[0], -1, last.shape[-1]), basis.mT if back else basis)
        turned = flat.reshape(last.shape).movedim(-1, axis + 1)
    return turned.reshape(stack.shape)


def slices(stack: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """A tensor's slices along one axis as the rows of a matrix, for a stack ``(batch, *shape)``."""
    return stack.reshape(stack.shape[0], *shape).movedim(axis + 1, 1).reshape(stack.shape[0], shape[axis], -1)


def averaged(
    grams: Tensor, stack: Tensor, keep: float, gain: float, *, shape: tuple[int, ...], axis: int, product: Any
) -> Tensor:
    """The average of the products of a tensor's slices with each other: for a matrix of G G^T or G^T G."""
    rows = slices(stack, shape, axis)
    return product(rows, grams, keep, gain)


def whole(x: Tensor, z: Tensor, beta: float, alpha: float) -> Tensor:
    """``beta*z + alpha*x@x.mT``, all of it."""
    return torch.baddbmm(z, x, x.mT, beta=beta, alpha=alpha)


def eigenvectors(grams: Tensor) -> Tensor:
    """Orthonormal eigenvectors of symmetric matrices as columns, that of the largest eigenvalue first.

    What is not finite is left to show in the gradients that are turned, rather than refused here.
    """
    return torch.linalg.eigh(grams.nan_to_num())[1].flip(-1)


def first_basis(grams: Tensor, stack: Tensor, *, shape: tuple[int, ...], axis: int) -> Tensor:
    """The eigenvectors of the first gradient's products alone.

    They are found from those of the products the other way where the slices span a small part of a large space: the
    vectors beyond it belong to the eigenvalue zero and are arbitrary.
    """
    rows = slices(stack, shape, axis)
    n, rank = rows.shape[-2:]
    if n < BLOCKED or 2 * rank > n:
        return eigenvectors(grams)
    return spanned(product(rows, eigenvectors(gram(rows.mT))))


def other_basis(stack: Tensor, basis: Tensor, *, shape: tuple[int, ...], axis: int) -> Tensor:
    """The same of a matrix's longer axis: the eigenvectors of the shorter one turn it into as many of its own, each as
    long as its singular value."""
    return spanned(product(slices(stack, shape, axis), basis))


def spanned(columns: Tensor) -> Tensor:
    """An orthonormal basis whose first vectors span the columns, each with those before it.

    The reflections of a QR factorisation, multiplied as matrices: I - V T V^T with 1/T the upper half of V^T V, its
    diagonal halved.
    """
    found, scales = torch.geqrf(columns.nan_to_num())
    vectors = found.tril(-1)
    vectors.diagonal(dim1=-2, dim2=-1).fill_(1)
    vectors.mul_((scales != 0).unsqueeze(-2))  # no reflection
    inverse = gram(vectors.mT).triu_(1)
    inverse.diagonal(dim1=-2, dim2=-1).copy_(torch.where(scales != 0, 1 / scales, 1))
    basis = product(torch.linalg.solve_triangular(inverse, vectors, upper=True, left=False), vectors.mT).neg_()
    basis.diagonal(dim1=-2, dim2=-1).add_(1)
    return basis


def descending(turned: Tensor, bases: Tensor) -> Tensor:
    """The order of basis vectors by the eigenvalues that they stand for, the largest first, from the products GG Q."""
    return (turned * bases).sum(-2).argsort(dim=-1, descending=True)


def orthonormal(turned: Tensor, order: Tensor) -> Tensor:
    """The products GG Q, in that order, made orthonormal: one power iteration.

    ``torch.linalg.qr`` would do, and hold three more matrices; here the factors take the place of the products.
    """
    found = turned.mT.gather(-2, order.unsqueeze(-1).expand_as(turned)).nan_to_num_().mT  # columns, as LAPACK has them
    scales = found.new_empty(found.shape[:-1])
    torch.geqrf(found, out=(found, scales))
    return torch.linalg.householder_product(found, scales, out=found)


def reordered(stack: Tensor, *orders: Tensor, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
    """The entries of a stack ``(batch, *shape)`` along each axis of ``axes``, in that axis's order."""
    found = stack.reshape(stack.shape[0], *shape)
    for axis, order in zip(axes, orders, strict=True):
        last = found.movedim(axis + 1, -1)
        where = order.view(order.shape[0], *(1,) * (last.ndim - 2), -1).expand_as(last)
        found = last.gather(-1, where).movedim(-1, axis + 1)
    return found.reshape(stack.shape)


@dataclass(frozen=True, repr=False)
class Eigenbasis(Slot):
    """SOAP's basis: the eigenvectors of an average of the gradient's products along each axis.

    For the flow ``in_basis``. The first step of a parameter only sets the basis; afterwards it follows by one power
    iteration every ``precondition_frequency`` steps, its vectors sorted by eigenvalue, and with them the second moment.
    0-d tensors, 1-d ones unless ``precondition_1d``, and axes above ``max_precond_dim`` keep their own coordinates.
    ``merge_dims`` first joins neighbouring axes as long as their product does not exceed ``max_precond_dim``.
    """

    scope: ClassVar[str] = "matrix"
    silent: ClassVar[int] = 1
    max_precond_dim: int = 10000
    merge_dims: bool = False
    precondition_1d: bool = False

    def __post_init__(self) -> None:
        limit = self.max_precond_dim
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"Invalid max_precond_dim: {limit!r}; legal is a whole number of at least 1")

    def check(self, recipe: Any) -> None:
        if recipe.flow is not flows.in_basis:
            raise ValueError(f"Eigenbasis needs flow=flows.in_basis, this recipe has {recipe.flow.__name__}")
        shaped = recipe.second is not None and any(s.shape is not None for s in recipe.second.state((8, 8)).values())
        if shaped:
            raise ValueError(
                f"{type(recipe.second).__name__} keeps its second moment in other shapes than the parameter's, which"
                " cannot follow a basis whose vectors change places; use SOAP's own"
            )

    def folded(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape whose axes have bases: the tensor's own, or with neighbouring axes joined."""
        if not self.merge_dims or len(shape) < 2:
            return shape
        found: list[int] = []
        size = 1
        for n in shape:
            if size * n <= self.max_precond_dim:
                size *= n
            elif size > 1:
                found.append(size)
                size = n
            else:
                found.append(n)
        return (*found, size) if size > 1 or not found else tuple(found)

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of the folded shape that have a basis."""
        if len(shape) < (1 if self.precondition_1d else 2):
            return ()
        return tuple(i for i, n in enumerate(self.folded(shape)) if n <= self.max_precond_dim)

    def apart(self, shape: tuple[int, ...]) -> bool:
        return not self.merge_dims and 0 not in self.axes(shape)

    def hypers(self) -> dict[str, Hyper]:
        return {
            "betas.1": Hyper(0.95, 0.0, 1.0),
            "shampoo_beta": Hyper(-1.0, -1.0, 1.0),
            "precondition_frequency": Hyper(10.0, 1.0),
        }

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        sizes = self.folded(shape)
        return {f"{role}_{i}": State(shape=(sizes[i],) * 2) for role in ("GG", "Q") for i in self.axes(shape)}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        beta = h["betas.1"] if h["shampoo_beta"] < 0 else h["shampoo_beta"]
        return {"keep": beta, "gain": 1 - beta, "refresh": t % int(h["precondition_frequency"]) == 0}

    def __call__(self, x: Any, h: Any, value: Any, way: str, roles: tuple[str, ...] = ()) -> Generator[Any, Any, Any]:
        """Turn ``value`` "in" or "out"; "start" the basis from it, or "learn" from it the basis to "change" to.

        "change" reorders the state ``roles`` as well. What comes back from the last three is ``value`` as it was.
        """
        axes = self.axes(x.shape)
        if not axes:
            return value
        if way in ("in", "out"):
            bases = [x[f"Q_{i}"] for i in axes]
            return (yield self._matrices(turn, x, value, *bases, axes=axes, back=way == "out"))
        if way == "change":
            if "bases" in x.notes:
                for role in roles:
                    x[role] = yield self._matrices(reordered, x, x[role], *x.notes["orders"], axes=axes)
                self._set(x, "Q", x.notes["bases"])
            return value
        grams = yield tuple(self._average(x, value, i, h) for i in axes)
        self._set(x, "GG", grams)
        if way == "start":
            self._set(x, "Q", (yield from self._first(x, value, dict(zip(axes, grams, strict=True)))))
        elif h.refresh:
            old = [x[f"Q_{i}"] for i in axes]
            turned = yield tuple(matrices(product, *pair, shared=True) for pair in zip(grams, old, strict=True))
            orders = yield tuple(matrices(descending, *pair, shared=True) for pair in zip(turned, old, strict=True))
            bases = yield tuple(matrices(orthonormal, *pair, shared=True) for pair in zip(turned, orders, strict=True))
            x.notes |= {"bases": bases, "orders": orders}
        return value

    def _first(self, x: Any, value: Any, grams: dict[int, Any]) -> Generator[Any, Any, tuple[Any, ...]]:
        """The first basis of each axis; a large matrix's longer one follows from the shorter one's."""
        shape = self.folded(x.shape)
        if len(shape) == len(grams) == 2 and max(shape) >= BLOCKED:
            short = shape.index(min(shape))
            basis = yield matrices(eigenvectors, grams[short], shared=True)
            other = yield self._matrices(other_basis, x, value, basis, shared=True, axis=1 - short)
            return (other, basis) if short else (basis, other)
        return (yield tuple(self._matrices(first_basis, x, g, value, shared=True, axis=i) for i, g in grams.items()))

    def _set(self, x: Any, name: str, values: tuple[Any, ...]) -> None:
        for i, value in zip(self.axes(x.shape), values, strict=True):
            x[f"{name}_{i}"] = value

    def _average(self, x: Any, value: Any, axis: int, h: Any) -> Request:
        form = partial(averaged, shape=self._shape(x), axis=axis)
        published, fast = (partial(form, product=product) for product in (whole, gram))
        return matrices(published, x[f"GG_{axis}"], value, fast=fast, given=(h.keep, h.gain), shared=True)

    def _matrices(self, function: Any, x: Any, *values: Any, shared: bool = False, **given: Any) -> Request:
        return matrices(partial(function, shape=self._shape(x), **given), *values, shared=shared)

    def _shape(self, x: Any) -> tuple[int, ...]:
        """The folded shape, where pieces are apart of any number of rows."""
        shape = self.folded(x.shape)
        return (-1, *shape[1:]) if self.apart(x.shape) else shape

    def equation(self, x: str = "g") -> str:
        return (
            "for each axis: GG <- shampoo_beta*GG + (1-shampoo_beta)*(g's products along it), Q its eigenvectors,"
            " refreshed every precondition_frequency steps (Q <- qr(GG*Q)), the first step sets them and moves nothing"
            f" ; g, {x} and u = the step turned by Q of each axis, and u turned back"
        )


@dataclass(frozen=True, repr=False)
class DecoupledAfter(Decoupled):
    """Decoupled decay taken of the parameter that the step has led to, as in SOAP."""

    def __call__(self, x: Any, h: Any, new: Any) -> Any:  # type: ignore[override]
        return new * h.keep


@dataclass(frozen=True, repr=False)
class UnitRMS(Slot):
    """Each tensor's step has root mean square one (``normalize_grads``), times Adam's corrections if they apply."""

    scope = "tensor"
    corrected: bool = True

    def hypers(self) -> dict[str, Hyper]:
        return {"betas.0": Hyper(0.95, 0.0, 1.0), "betas.1": Hyper(0.95, 0.0, 1.0)} if self.corrected else {}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        times = (1 - h["betas.1"] ** t) ** 0.5 / (1 - h["betas.0"] ** t) if self.corrected else 1.0
        return {"times": times}

    def __call__(self, x: Any, h: Any, u: Any) -> Generator[Request, Any, Any]:
        square = yield mean(u * u)
        return u * h.times / (square.sqrt() + 1e-30)

    def equation(self, x: str = "g") -> str:
        times = "*sqrt(1-betas.1^t)/(1-betas.0^t)" if self.corrected else ""
        return f"u = u/(rms(u) + 1e-30){times}"
