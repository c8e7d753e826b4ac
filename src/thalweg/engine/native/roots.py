"""Roots of products in recorded graphs: of a row's number and a column's, the root of each needs to be taken once."""

from __future__ import annotations

from typing import Any, NamedTuple

from thalweg.engine.functions import limits_of, name_of

#: About the least normal float32. As much is added to a product for the sake of zeros, and changes nothing else.
LEAST = 1.2e-38


class Root(NamedTuple):
    """The root of the product of ``factors``, or if larger of one of ``limits``."""

    factors: tuple[Any, Any]
    limits: tuple[Any, ...]


def of_product(node: Any) -> Root | None:
    """What a node is, if it is such a root."""
    if name_of(node) != "sqrt":
        return None
    inner, limits = node.args[0], []
    while True:
        name = name_of(inner)
        if name == "clamp" and limits_of(inner).keys() == {"min"}:
            limits.append(limits_of(inner)["min"])
        elif name != "add" or not isinstance(inner.args[1], float) or not 0 <= inner.args[1] <= LEAST:
            break
        inner = inner.args[0]
    return Root(inner.args, tuple(limits)) if name == "mul" and len(inner.args) == 2 else None
