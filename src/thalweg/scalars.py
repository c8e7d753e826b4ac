"""Numbers of a step, which slots work out in Python, or on a device for captured steps, and functions of them.

On a device they are ``DeviceNumber``; arithmetic and ``**`` need no function of their own. ``x if condition else y``,
``min`` and ``max`` work, too, but the rest of the formula is run once for each way that they can go.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from torch import Tensor


class NotCapturable(ValueError):
    """A formula that only the host can follow."""


class DeviceNumber(Tensor):
    """A number that only the device knows, in float64. Nothing changes it in place."""

    def __bool__(self) -> bool:
        from thalweg.engine.captured import choose

        return choose(self)

    def _refuse(self, *_: Any) -> NoReturn:
        raise NotCapturable("a number that follows from the step count, or is given as a tensor, is needed in Python")

    __float__ = __int__ = __index__ = item = tolist = _refuse
    __iadd__ = Tensor.__add__
    __isub__ = Tensor.__sub__
    __imul__ = Tensor.__mul__
    __itruediv__ = Tensor.__truediv__


def plain(x: Any) -> Any:
    """A number that a parameter group holds, which may be a tensor, as a float where Python works with it."""
    return x if isinstance(x, DeviceNumber) else float(x)


def _either(name: str) -> Any:
    in_python, of_tensor = getattr(math, name), getattr(torch, name)

    def function(x: Any) -> Any:
        return of_tensor(x) if isinstance(x, Tensor) else in_python(x)

    function.__name__ = name
    return function


sqrt, exp, expm1, cos, isfinite = map(_either, ("sqrt", "exp", "expm1", "cos", "isfinite"))


def most(x: Any, y: Any) -> Any:
    """``max(x, y)``, in one way."""
    return _where(y > x, y, x) if isinstance(x, Tensor) or isinstance(y, Tensor) else max(x, y)


def least(x: Any, y: Any) -> Any:
    """``min(x, y)``, in one way."""
    return _where(y < x, y, x) if isinstance(x, Tensor) or isinstance(y, Tensor) else min(x, y)


def _where(condition: Tensor, x: Any, y: Any) -> Tensor:
    return torch.where(condition, on(condition.device, x), on(condition.device, y))


def on(device: torch.device, x: Any) -> Tensor:
    """A number as a tensor of a device; not by ``torch.tensor``, which would copy it from the host."""
    return x if isinstance(x, Tensor) else torch.full((), x, dtype=torch.float64, device=device)
