"""Functions of a step's numbers, which slots work out in Python or, for captured steps, as tensors of the device."""

from __future__ import annotations

import math
from typing import Any

import torch


def _either(name: str) -> Any:
    plain, of_tensor = getattr(math, name), getattr(torch, name)

    def function(x: Any) -> Any:
        return of_tensor(x) if isinstance(x, torch.Tensor) else plain(x)

    function.__name__ = name
    return function


sqrt, exp, expm1, cos = map(_either, ("sqrt", "exp", "expm1", "cos"))
