"""SMMF's moments: row and column sums of a square view of the tensor, and a bit for each sign.

Formulas see the tensor as it is; what they need in the square view they turn into it and back (``thalweg.square``).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.engine import leaves
from thalweg.hyper import BETA, DECAY, Hyper
from thalweg.ops import mix
from thalweg.slots.base import Request, Slot, State, total
from thalweg.slots.compact import NEEDS, Compact
from thalweg.slots.law import Law, Plain, Rising, Weights
from thalweg.square import COLUMNS, ROWS, as_shaped, as_square, pack, square_shape, unpack
from thalweg.techniques import technique


def expand(rows: Any, columns: Any) -> Any:
    """The matrix of rank one that two vectors stand for."""
    return rows.unsqueeze(-1) * columns.unsqueeze(-2)


def compress(matrix: Any) -> Generator[Any, Any, Any]:
    """Row sums, and column sums over their total: a matrix of rank one with the sums of a non-negative ``matrix``."""
    rows, columns = yield total(matrix, COLUMNS), total(matrix, ROWS)
    whole = rows.sum()
    return rows, columns / torch.where(whole > 0, whole, 1.0)


def flat(shape: tuple[int, ...], vectors: bool) -> bool:
    """Whether SMMF leaves the tensor unfactored: a vector, whatever axes of length one it has, unless ``vectors``."""
    return not vectors and sum(n != 1 for n in shape) == 1


def seen(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Which axes are of length one is all that ``flat`` asks."""
    return tuple(min(n, 2) for n in shape)


@technique("smmf", source="arXiv 2412.08894", needs=NEEDS)
@dataclass(frozen=True, repr=False)
class Square(Compact):
    """SMMF's second moment: row and column sums of a square view of the tensor, whatever its axes are.

    ``V <- B*r*c + (1-B)*g^2`` is divided by; its row sums r and column sums c (over their total) are kept. ``vectors``:
    factor vectors too.

    Example:
        >>> import torch, thalweg
        >>> p = torch.nn.Parameter(torch.ones(64, 64))
        >>> opt = thalweg.RMSprop([p], techniques=["smmf"])
        >>> opt.recipe.state_bytes((64, 64))
        0.125
    """

    scope = "row"
    squared = True
    law: Law = Rising(default=-0.5)
    vectors: bool = True

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return seen(shape)

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if flat(shape, self.vectors):
            return {"exp_avg_sq": State()}
        n, m = square_shape(shape)
        rows, columns = State(shape=(n,), axes=(ROWS,)), State(shape=(m,), axes=(COLUMNS,))
        return {"exp_avg_sq_row": rows, "exp_avg_sq_col": columns}

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        if flat(x.shape, self.vectors):
            x["exp_avg_sq"] = v = mix(h.keep, x["exp_avg_sq"], h.gain, g, g)
            return self.read(h, v)
        square = leaves.node(as_square, g)
        v = mix(h.keep, expand(x["exp_avg_sq_row"], x["exp_avg_sq_col"]), h.gain, square, square)
        x["exp_avg_sq_row"], x["exp_avg_sq_col"] = yield from compress(v)
        return leaves.node(as_shaped, self.read(h, v), g)

    def equation(self, x: str = "g") -> str:
        return f"v = r*c (square view) ; {self.law.text('v', f'{x}^2')} ; r = rowsum(v), c = columnsum(v)/sum(v)"


@dataclass(frozen=True, repr=False)
class Shrinking(Plain):
    """Exponential average whose memory shortens with t: beta*growth_rate^(t-1) (SMMF)."""

    beta: str = "beta"

    def text(self, s: str, x: str) -> str:
        return f"b = {self.beta}*growth_rate^(t-1) ; {s} <- b*{s} + (1-b)*{x}"

    def hypers(self) -> dict[str, Hyper]:
        return {
            self.beta: Hyper(self.default, BETA.low, BETA.high, open_high=False),
            "growth_rate": Hyper(0.999, 0.0, 1.0, open_high=False),
        }

    def weights(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> Weights:
        keep = h[self.beta] * h["growth_rate"] ** (t - 1)
        return Weights(keep, 1 - keep)


@dataclass(frozen=True, repr=False)
class SquareMomentum(Slot):
    """SMMF's first moment: factors of its absolute values in a square view, and its signs as bits (or booleans)."""

    scope = "row"
    squared = True
    law: Law = Shrinking()
    vectors: bool = True
    packed: bool = True

    def hypers(self) -> dict[str, Hyper]:
        return self.law.hypers()

    def alike(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return seen(shape)

    def state(self, shape: tuple[int, ...]) -> dict[str, State]:
        if flat(shape, self.vectors):
            return {"exp_avg": State()}
        n, m = square_shape(shape)
        signs = State(shape=(n * m,), dtype=torch.bool)
        if self.packed:
            signs = State(shape=(n, -(-m // 8)), dtype=torch.uint8, axes=(ROWS, None))
        rows, columns = State(shape=(n,), axes=(ROWS,)), State(shape=(m,), axes=(COLUMNS,))
        return {"exp_avg_row": rows, "exp_avg_col": columns, "exp_avg_sign": signs}

    def scalars(self, h: Mapping[str, Any], t: int, numbers: dict[str, float]) -> dict[str, float | bool]:
        return self.law.weights(h, t, numbers)._asdict()

    def __call__(self, x: Any, h: Any, g: Any) -> Generator[Request, Any, Any]:
        if flat(x.shape, self.vectors):
            x["exp_avg"] = m = mix(h.keep, x["exp_avg"], h.gain, g)
            return m
        square = leaves.node(as_square, g)
        size = expand(x["exp_avg_row"], x["exp_avg_col"])
        signs = x["exp_avg_sign"]
        up = leaves.node(unpack, signs, square) if self.packed else leaves.node(as_square, signs)
        m = mix(h.keep, torch.where(up, size, -size), h.gain, square)
        x["exp_avg_row"], x["exp_avg_col"] = yield from compress(m.abs())
        up = m > 0
        x["exp_avg_sign"] = leaves.node(pack, up) if self.packed else up.flatten()
        return leaves.node(as_shaped, m, g)

    def equation(self, x: str = "g") -> str:
        return (
            f"m = sign*r*c (square view) ; {self.law.text('m', x)} ;"
            " sign = m > 0, r = rowsum(|m|), c = columnsum(|m|)/sum(|m|)"
        )


@dataclass(frozen=True, repr=False)
class NoDecay(Slot):
    """weight_decay is read and left without effect, as the published SMMF does in its "adam" mode."""

    def hypers(self) -> dict[str, Hyper]:
        return {"weight_decay": DECAY}

    def __call__(self, x: Any, h: Any, lr: Any, v: Any, u: Any) -> Any:
        return None

    def equation(self, x: str = "g") -> str:
        return "weight_decay has no effect"
