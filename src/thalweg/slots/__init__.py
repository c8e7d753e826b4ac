"""The slots: each idea once. ``Slot`` says how to write one; ``recipes.py`` shows how they are put together."""

from thalweg.slots.adam_moments import Friction, Peak, Twofold
from thalweg.slots.average import Average, Centred, Interpolate, Largest
from thalweg.slots.base import Slot, State, largest, matrices, mean, settled, total
from thalweg.slots.classic import AverageAfter, FallingRate, Lazy, OverDeltas, RateInSteps, Resilient
from thalweg.slots.clipping import SpectralBound
from thalweg.slots.compact import Cover, Factored, FlooredFactored
from thalweg.slots.decay import Decoupled, DecoupledByStep, StableDecay, StableMomentumDecay
from thalweg.slots.denominators import Atan2, EpsInside, Softplus
from thalweg.slots.direction import Orthogonal, PlusDecay, Sign
from thalweg.slots.gradient import L2, LayerRate
from thalweg.slots.law import Debiased, Dozat, Fading, Growing, Heavy, Law, LookingAhead, Plain, Rising, Sum, Weights
from thalweg.slots.outer import Lookahead, ScheduleFree
from thalweg.slots.rate import InverseTime, LossRate, RelativeRate
from thalweg.slots.ratio import Over, OverSqrt, Rectified
from thalweg.slots.scale import ClipRMS, ShapeScale, TrustRatio, UnitNorm
from thalweg.slots.square import Square, SquareMomentum
from thalweg.slots.warmup import UntilRectified, Warmup

__all__ = [
    "L2", "Atan2", "Average", "AverageAfter", "Centred", "ClipRMS", "Cover", "Debiased", "Decoupled", "DecoupledByStep",
    "Dozat", "EpsInside", "Factored", "Fading", "FallingRate", "FlooredFactored", "Friction", "Growing", "Heavy",
    "Interpolate", "InverseTime", "Largest", "Law", "LayerRate", "Lazy", "Lookahead", "LookingAhead", "LossRate",
    "Orthogonal", "Over", "OverDeltas", "OverSqrt", "Peak", "Plain", "PlusDecay", "RateInSteps", "Rectified",
    "RelativeRate", "Resilient", "Rising", "ScheduleFree", "ShapeScale", "Sign", "Slot", "Softplus", "SpectralBound",
    "Square", "SquareMomentum",
    "StableDecay", "StableMomentumDecay", "State", "Sum", "TrustRatio", "Twofold", "UnitNorm", "UntilRectified",
    "Warmup", "Weights", "largest", "matrices", "mean", "settled", "total",
]  # fmt: skip
