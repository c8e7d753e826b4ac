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
    return (yield from follow(r, x, u, v))


def normalise_first(r: Any, x: Any) -> Flow:
    """Divide the gradient first and average the quotient: RMSprop with momentum."""
    g = yield from r.gradient(x, x.grad)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, g, v)
    u = yield from r.first(x, u)
    return (yield from follow(r, x, u, v))


def step_first(r: Any, x: Any) -> Flow:
    """Average whole steps, learning rate included: Adafactor."""
    g = yield from r.gradient(x, x.grad)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, g, v)
    u = yield from r.scale(x, u)
    lr = yield from r.rate(x)
    u = yield from r.first(x, u * lr)
    u = yield from r.direction(x, u)
    return (yield from finish(r, x, u, lr, v, taken=1))


def clip_first(r: Any, x: Any) -> Flow:
    """As ``normalise_first``, with the quotient scaled before it is averaged: Adafactor in big_vision."""
    g = yield from r.gradient(x, x.grad)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, g, v)
    u = yield from r.scale(x, u)
    u = yield from r.first(x, u)
    lr = yield from r.rate(x)
    return (yield from finish(r, x, u, lr, v))


def first_then_second(r: Any, x: Any) -> Flow:
    """As ``moment_first``, with the second moment taken after, and in sight of, the first: AdaBelief."""
    g = yield from r.gradient(x, x.grad)
    m = yield from r.first(x, g)
    v = yield from r.second(x, g)
    u = yield from r.ratio(x, m, v)
    return (yield from follow(r, x, u, v))


def rate_first(r: Any, x: Any) -> Flow:
    """As ``moment_first``, with a rate found from the treated gradient before the averages move: DoG, Prodigy."""
    x.grad = g = yield from r.gradient(x, x.grad)
    lr = yield from r.rate(x, g)
    u, v = yield from averaged(r, x, g, g)
    return (yield from finish(r, x, u, lr, v))


def rate_within(r: Any, x: Any) -> Flow:
    """As ``rate_first``, with the rate inside what the first moment averages: D-Adaptation."""
    x.grad = g = yield from r.gradient(x, x.grad)
    lr = yield from r.rate(x, g)
    u, v = yield from averaged(r, x, g, g * lr)
    return (yield from finish(r, x, u, lr, v, taken=1))


def rate_last(r: Any, x: Any) -> Flow:
    """As ``moment_first``, with a rate found from the direction that it scales: MoMo."""
    x.grad = g = yield from r.gradient(x, x.grad)
    u, v = yield from averaged(r, x, g, g)
    lr = yield from r.rate(x, u)
    return (yield from finish(r, x, u, lr, v))


def averaged(r: Any, x: Any, g: Any, pushed: Any) -> Flow:
    """The direction, bent and scaled, and the second moment; the first moment averages ``pushed``."""
    v = yield from r.second(x, g)
    m = yield from r.first(x, pushed)
    u = yield from r.ratio(x, m, v)
    u = yield from bent(r, x, u)
    return u, v


def in_basis(r: Any, x: Any) -> Flow:
    """As ``moment_first``, with the second moment kept and divided by in a basis that is learnt on the way: SOAP.

    The first moment stays in the parameter's own coordinates: turned afresh in every step, it is the moment kept in a
    basis and turned along whenever that changes.
    """
    g = yield from r.gradient(x, x.grad)
    if r.silent:
        x.new.clear()  # the first step leaves nothing behind but the basis
        yield from r.basis(x, g, "start")
        return x.param
    yield from r.basis(x, g, "learn")  # of what this takes nothing is left when the averages come
    u = yield from r.basis(x, (yield from r.first(x, g)), "in")
    v = yield from r.second(x, (yield from r.basis(x, g, "in")))
    u = yield from r.ratio(x, u, v)
    u = yield from r.basis(x, u, "out")
    second = r.recipe.second
    yield from r.basis(x, u, "change", () if second is None else tuple(second.state(x.shape)))
    return (yield from follow(r, x, u, v))


def fold(r: Any, x: Any) -> Flow:
    """Take the gradient into both averages and move nothing: a micro-batch of AdamA."""
    g = yield from r.gradient(x, x.grad)
    yield from r.second(x, g)
    yield from r.first(x, g)
    return x.param


def bent(r: Any, x: Any, u: Any) -> Flow:
    """The direction bent, joined by decay where that is part of it, and scaled."""
    u = yield from r.direction(x, u)
    u = yield from r.coupled(x, u)
    return (yield from r.scale(x, u))


def follow(r: Any, x: Any, u: Any, v: Any) -> Flow:
    """All that follows the quotient: bend and scale it, find the rate, and finish."""
    u = yield from bent(r, x, u)
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
