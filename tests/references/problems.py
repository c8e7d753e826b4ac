"""The small problems behind the golden numbers, and a loop that runs a reference on a problem."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .base import Array, Reference
from .lookahead import Lookahead

MATRIX = [[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]]
VECTOR = [1.0, -2.0, 0.5]

PROBLEMS: dict[str, list[ArrayLike]] = {
    "vec3": [VECTOR],
    "mat2x3": [MATRIX],
    "matrix23": [MATRIX],
    "vector3": [VECTOR],
    "matrix23+vector3": [MATRIX, VECTOR],
    "conv2122": [[[[[1.0, -2.0], [0.5, 0.25]]], [[[3.0, -1.0], [0.75, -0.5]]]]],
    "scalar": [1.5],
    "small23": [[[0.01, -0.02, 0.005], [0.0025, 0.03, -0.01]]],
    "zero23": [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]],
}

Gradient = Callable[[int, list[Array]], Sequence[ArrayLike | None]]


def golden_gradient(t: int, params: list[Array]) -> list[Array]:
    """Gradient of step t = 1, 2, ...: sin(1.3*t + 0.7*i) + 0.1*p[i], i the flat index inside the tensor."""
    return [np.sin(1.3 * t + 0.7 * np.arange(p.size).reshape(p.shape)) + 0.1 * p for p in params]


def half_square_loss(params: list[Array]) -> float:
    """The loss handed to loss-driven methods: half the sum of p^2 over all tensors."""
    return sum(float(np.sum(p * p)) for p in params) / 2


def trajectory(
    optimizer: Reference | Lookahead,
    steps: int,
    gradient: Gradient = golden_gradient,
    loss: Callable[[list[Array]], float] | None = half_square_loss,
    lr_per_step: Sequence[float] | None = None,
) -> list[list[Array]]:
    """The parameters before the first step and after each of `steps` steps: ``result[t][i]`` is tensor i after step t.

    Gradient and loss are evaluated at the parameters as they stand when the step begins; an entry None of the gradient
    skips that tensor. `lr_per_step` sets the learning rate of each step.
    """
    result = [[p.copy() for p in optimizer.params]]
    for t in range(1, steps + 1):
        if lr_per_step is not None:
            optimizer.hyper["lr"] = lr_per_step[t - 1]
        params = [p.copy() for p in optimizer.params]
        optimizer.step(gradient(t, params), None if loss is None else loss(params))
        result.append([p.copy() for p in optimizer.params])
    return result
