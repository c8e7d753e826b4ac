"""The gallery: teaching pictures, each computed by the library's own optimizers, schedules and recipes."""

from __future__ import annotations

from thalweg.lab.gallery import (
    adagrad,
    averages,
    memory,
    parabola,
    schedules,
    surfaces,
    training,
)
from thalweg.lab.gallery.style import PICTURES, Facts, Picture, make

__all__ = [
    "PICTURES",
    "Facts",
    "Picture",
    "adagrad",
    "averages",
    "make",
    "memory",
    "parabola",
    "schedules",
    "surfaces",
    "training",
]
