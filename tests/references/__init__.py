"""Slow, plain float64 references of the optimizers, in NumPy alone.

They are the independent check of the library: they share no code with it, nor with torch.optim. `REFERENCES` maps the
public name of an optimizer to its class, `Lookahead` wraps any of them, `trajectory` runs one on a problem.
"""

from .adafactor import Adafactor
from .adalo import AdaLo
from .adam import Adam, AdamS, AdamW, NAdam
from .adaptive import Adagrad, AdaX, RMSprop
from .base import Array, Reference
from .lion import Lion
from .lookahead import Lookahead
from .muon import Muon
from .normalised import LAMB, NSGDA
from .problems import PROBLEMS, golden_gradient, half_square_loss, trajectory
from .radam import RAdam
from .schedulefree import ScheduleFreeAdamW, ScheduleFreeSGD
from .sgd import SGD, SGDS

REFERENCES: dict[str, type[Reference]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "radam": RAdam,
    "lion": Lion,
    "lamb": LAMB,
    "adafactor": Adafactor,
    "nsgda": NSGDA,
    "adax": AdaX,
    "adalo": AdaLo,
    "muon": Muon,
    "adams": AdamS,
    "sgds": SGDS,
    "schedulefree_sgd": ScheduleFreeSGD,
    "schedulefree_adamw": ScheduleFreeAdamW,
}

__all__ = [
    "PROBLEMS",
    "REFERENCES",
    "Array",
    "Lookahead",
    "Reference",
    "golden_gradient",
    "half_square_loss",
    "trajectory",
]
