"""Flows: the order in which slots are applied. Each reads like an algorithm box.

``r`` holds the slots bound to this step's scalars, ``x`` is one tensor's view. A slot that is absent from the
recipe passes its input through. ``yield from`` lets any slot ask the engine for a reduction.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from thalweg.ops import mix

Flow = Generator[Any, Any, Any]


def moment_first(r: Any, x: Any) -> Flow:
    """Average the gradient, divide, bend and scale the average: SGD, Adam and most of their descendants."""
    g = yield from r.gradient(x, x.grad)
    v = yield from r.second(x, g)
    m = yield from r.first(x, g)
    u = yield from r.ratio(x, m, v)
    u = yield from r.direction(x, u)
    u = yield from r.coupled(x, u)
    u = yield from r.scale(x, u)
    lr = yield from r.rate(x)
    return (yield from finish(r, x, u, lr, v))


def normalise_first(r: Any, x: Any) -> Flow:
    """Divide the gradient first and average the quotient: RMSprop with momentum."""
    g = yield from r.gradient(x, x.grad)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, g, v)
    u = yield from r.first(x, u)
    u = yield from r.scale(x, u)
    lr = yield from r.rate(x)
    return (yield from finish(r, x, u, lr, v))


def step_first(r: Any, x: Any) -> Flow:
    """Average whole steps, learning rate included: Adafactor."""
    g = yield from r.gradient(x, x.grad)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, g, v)
    u = yield from r.scale(x, u)
    lr = yield from r.rate(x)
    u = yield from r.first(x, u * lr)
    return (yield from finish(r, x, u, lr, v, taken=1))


def first_then_second(r: Any, x: Any) -> Flow:
    """As ``moment_first``, with the second moment taken after, and in sight of, the first: AdaBelief."""
    g = yield from r.gradient(x, x.grad)
    m = yield from r.first(x, g)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, m, v)
    u = yield from r.direction(x, u)
    u = yield from r.coupled(x, u)
    u = yield from r.scale(x, u)
    lr = yield from r.rate(x)
    return (yield from finish(r, x, u, lr, v))


def finish(r: Any, x: Any, u: Any, lr: Any, v: Any, taken: Any = None) -> Flow:
    """Decay, step, what comes after it, and the outer method; ``taken`` replaces lr where u holds it.

    ``p <- outer(after(p*keep - lr*u))``
    """
    keep = yield from r.decay(x, lr, v, u)
    step = lr if taken is None else taken
    new = mix(1 if keep is None else keep, x.param, -step, u)
    new = yield from r.after(x, new)
    return (yield from r.outer(x, x.param, new))
