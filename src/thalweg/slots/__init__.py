"""The slots: each idea once. ``Slot`` says how to write one; ``recipes.py`` shows how they are put together."""

from thalweg.slots.average import Average, Centred, Factored, Interpolate, Largest
from thalweg.slots.base import Slot, State, matrices, mean, total
from thalweg.slots.decay import Decoupled, DecoupledByStep, StableDecay, StableMomentumDecay
from thalweg.slots.direction import Orthogonal, PlusDecay, Sign
from thalweg.slots.gradient import L2
from thalweg.slots.law import Debiased, Dozat, Growing, Heavy, Law, LookingAhead, Plain, Rising, Sum, Weights
from thalweg.slots.outer import Lookahead, ScheduleFree
from thalweg.slots.rate import InverseTime, LossRate, RelativeRate
from thalweg.slots.ratio import OverSqrt, Rectified
from thalweg.slots.scale import ClipRMS, ShapeScale, TrustRatio, UnitNorm

__all__ = [
    "L2", "Average", "Centred", "ClipRMS", "Debiased", "Decoupled", "DecoupledByStep", "Dozat", "Factored", "Growing",
    "Heavy", "Interpolate", "InverseTime", "Largest", "Law", "Lookahead", "LookingAhead", "LossRate", "Orthogonal",
    "OverSqrt", "Plain", "PlusDecay", "Rectified", "RelativeRate", "Rising", "ScheduleFree", "ShapeScale", "Sign",
    "Slot", "StableDecay", "StableMomentumDecay", "State", "Sum", "TrustRatio", "UnitNorm", "Weights", "matrices",
    "mean", "total",
]  # fmt: skip
