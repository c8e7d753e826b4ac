"""Thalweg: deep-learning optimizers for PyTorch, each idea written once, composed freely, run in one fused pass."""

from thalweg import flows, slots
from thalweg._version import __version__
from thalweg.accumulation import Accumulator
from thalweg.optimizer import Optimizer
from thalweg.optimizers.adafactor import Adafactor
from thalweg.optimizers.adam import Adam, AdamS, AdamW, NAdam, RAdam
from thalweg.optimizers.adaptive import Adagrad, RMSprop
from thalweg.optimizers.adax import AdaX
from thalweg.optimizers.layerwise import LAMB
from thalweg.optimizers.muon import Muon
from thalweg.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from thalweg.optimizers.sgd import SGD, SGDS
from thalweg.optimizers.simple import AdaLo, Lion, nSGDA
from thalweg.recipe import Recipe
from thalweg.recipes import ADAMW, MUON
from thalweg.registry import create, define, get, list_optimizers
from thalweg.routing import roles, route
from thalweg.slots.gradient import Centralise
from thalweg.slots.outer import Lookahead, ScheduleFree
from thalweg.techniques import list_techniques

__all__ = [
    "ADAMW",
    "LAMB",
    "MUON",
    "SGD",
    "SGDS",
    "Accumulator",
    "AdaLo",
    "AdaX",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamS",
    "AdamW",
    "Centralise",
    "Lion",
    "Lookahead",
    "Muon",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Recipe",
    "ScheduleFree",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "__version__",
    "create",
    "define",
    "flows",
    "get",
    "list_optimizers",
    "list_techniques",
    "nSGDA",
    "roles",
    "route",
    "slots",
]
