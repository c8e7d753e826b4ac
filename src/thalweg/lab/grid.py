"""The learning-rate grid: its points, its best one, and where to look next when the best lies on an edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

DECADES = 0.5
"""Neighbouring points differ by a factor of the square root of ten."""
REACH = 6
"""How many points a grid may grow at either end; three decades more, then the edge is reported as an edge."""

Score = tuple[float, float]
"""How good a configuration is: its metric, then the tie-breaker; larger is better in both."""

HOPELESS: Score = (-math.inf, -math.inf)


def initial_cells(points: int) -> list[int]:
    """Point numbers around 0, the optimizer's default rate; an even count leans upwards."""
    below = (points - 1) // 2
    return list(range(-below, points - below))


def rate(default: float, cell: float) -> float:
    """The learning rate of a point, in the three digits it is reported with."""
    return float(f"{default * 10 ** (cell * DECADES):.3g}")


def best_cell(scores: Mapping[int, Score]) -> int | None:
    """The best point, the one nearest to the default rate among equals; None when nothing there could train."""
    hopeful = [cell for cell, score in scores.items() if score > HOPELESS]
    return max(hopeful, key=lambda cell: (scores[cell], -abs(cell), cell), default=None)


def next_cell(scores: Mapping[int, Score], initial: Sequence[int]) -> int | None:
    """The point to add when the best one lies on an edge; None when the grid is finished.

    Where every point diverged the rates were too high, so the search goes down.
    """
    low, high = min(scores), max(scores)
    best = best_cell(scores)
    if (best is None or best == low) and low > initial[0] - REACH:
        return low - 1
    if best == high and high < initial[-1] + REACH:
        return high + 1
    return None
