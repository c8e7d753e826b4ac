"""``Many``: a list of tensors that answers arithmetic like one tensor, through torch's foreach operations.

It lets the formulas, written once for one tensor, run over a whole list without a compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def _data(value: Any) -> Any:
    return value.tensors if isinstance(value, Many) else value


class Many:
    """A list of tensors with the arithmetic of one. Operations without a foreach form run in a loop.

    A factor that is a plain number is kept aside until it can join a sum, so ``p*a + u*b`` is two passes over memory
    and one fresh temporary instead of four and three.
    """

    __slots__ = ("_factor", "_held")

    def __init__(self, tensors: Sequence[Tensor], factor: float = 1.0) -> None:
        self._held = list(tensors)
        self._factor = factor

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, multiplied by what was kept aside."""
        if self._factor != 1:
            self._held, self._factor = list(torch._foreach_mul(self._held, self._factor)), 1.0
        return self._held

    def mix(self, a: Any, b: Any, x: Any, y: Any) -> Many:
        """``a*self + b*x*y``, on one fresh temporary where the scalars are plain numbers."""
        if not (isinstance(a, (int, float)) and isinstance(b, (int, float)) and isinstance(x, Many)):
            return self * a + x * y * b
        scaled = torch._foreach_mul(self._held, a * self._factor)
        torch._foreach_addcmul_(scaled, x.tensors, _data(y), b)
        return Many(scaled)

    def _sum(self, other: Any, sign: float) -> Many:
        if not isinstance(other, Many):
            return Many(
                torch._foreach_add(self.tensors, other) if sign > 0 else torch._foreach_sub(self.tensors, other)
            )
        alpha = sign * other._factor
        if self._factor == 1:
            return Many(torch._foreach_add(self._held, other._held, alpha=alpha))
        if alpha == 1:
            return Many(torch._foreach_add(other._held, self._held, alpha=self._factor))
        scaled = torch._foreach_mul(self._held, self._factor)
        torch._foreach_add_(scaled, other._held, alpha=alpha)
        return Many(scaled)

    def __add__(self, other: Any) -> Many:
        return self._sum(other, 1.0)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Many:
        return self._sum(other, -1.0)

    def __rsub__(self, other: Any) -> Many:
        return -self + other

    def __mul__(self, other: Any) -> Many:
        if isinstance(other, (int, float)) and self._held[0].is_floating_point():
            return Many(self._held, self._factor * other)
        return Many(torch._foreach_mul(self.tensors, _data(other)))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Many:
        return Many(torch._foreach_div(self._held, _data(other)), self._factor)

    def __rtruediv__(self, other: Any) -> Many:
        return self.reciprocal() * other

    def __neg__(self) -> Many:
        return self * -1

    def __abs__(self) -> Many:
        return self.abs()

    def __pow__(self, exponent: float) -> Many:
        return Many(torch._foreach_pow(self.tensors, exponent))

    def sqrt(self) -> Many:
        return Many(torch._foreach_sqrt(self.tensors))

    def abs(self) -> Many:
        return Many(torch._foreach_abs(self.tensors))

    def sign(self) -> Many:
        return Many(torch._foreach_sign(self.tensors))

    def reciprocal(self) -> Many:
        return Many(torch._foreach_reciprocal(self.tensors))

    def square(self) -> Many:
        return self * self

    def _each(self, function: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Many:
        rows: Iterator[tuple[Any, ...]] = (
            tuple(a.tensors[i] if isinstance(a, Many) else a for a in args) for i in range(len(self.tensors))
        )
        named = [
            {k: v.tensors[i] if isinstance(v, Many) else v for k, v in kwargs.items()} for i in range(len(self.tensors))
        ]
        return Many([function(*row, **kw) for row, kw in zip(rows, named, strict=True)])

    def each(self, function: Callable[..., Tensor], *args: Any) -> Many:
        """A function of every tensor, and of what the arguments hold for it."""
        return self._each(function, args, {})

    def __getattr__(self, name: str) -> Callable[..., Many]:
        method = getattr(Tensor, name)
        return lambda *args, **kwargs: self._each(method, (self, *args), kwargs)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        first = next(a for a in (*args, *kwargs.values()) if isinstance(a, Many))
        if function is torch.maximum:
            return Many(torch._foreach_maximum(args[0].tensors, _data(args[1])))
        return first._each(function, args, kwargs)


def _operator(name: str) -> Callable[[Many, Any], Many]:
    method = getattr(Tensor, name)
    return lambda self, other: self._each(method, (self, other), {})


for _name in ("__gt__", "__ge__", "__lt__", "__le__", "__and__", "__or__", "__lshift__"):
    setattr(Many, _name, _operator(_name))
