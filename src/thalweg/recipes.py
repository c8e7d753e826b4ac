"""The recipes: one line an optimizer. Read them side by side to see what each idea changes."""

from __future__ import annotations

from thalweg import flows
from thalweg.recipe import Recipe
from thalweg.slots.average import Average, Interpolate, adam_moments
from thalweg.slots.compact import Factored
from thalweg.slots.decay import Decoupled, DecoupledByStep, StableDecay, StableMomentumDecay
from thalweg.slots.direction import Orthogonal, PlusDecay, Sign
from thalweg.slots.gradient import L2
from thalweg.slots.law import Debiased, Dozat, Growing, Heavy, LookingAhead, Plain, Sum
from thalweg.slots.outer import OnceRectified, ScheduleFree
from thalweg.slots.rate import InverseTime, LossRate, RelativeRate
from thalweg.slots.ratio import OverSqrt, Rectified
from thalweg.slots.scale import ClipRMS, ShapeScale, TrustRatio, UnitNorm

SGD = Recipe(gradient=L2())
MOMENTUM = SGD.but(first=Average("momentum_buffer", Heavy()))
ADAGRAD = Recipe(
    gradient=L2(),
    second=Average("sum", Sum(), power=2, start="initial_accumulator_value"),
    ratio=OverSqrt(eps=1e-10),
    rate=InverseTime(),
)
RMSPROP = Recipe(
    gradient=L2(),
    second=Average("square_avg", Plain("alpha", 0.99), power=2),
    ratio=OverSqrt(),
    flow=flows.normalise_first,
)
ADAM = Recipe(gradient=L2(), **adam_moments(), ratio=OverSqrt())
ADAMW = ADAM.but(gradient=None, decay=Decoupled())
NADAM = ADAM.but(first=Average("exp_avg", Dozat()))
RADAM = ADAM.but(ratio=Rectified())
LION = Recipe(first=Interpolate(), direction=Sign(), decay=Decoupled())
LAMB = ADAMW.but(ratio=OverSqrt(eps=1e-6), decay=None, coupled=PlusDecay(), scale=TrustRatio())
ADAFACTOR = Recipe(
    second=Factored(),
    ratio=OverSqrt(eps=None),
    scale=ClipRMS(),
    rate=RelativeRate(),
    decay=DecoupledByStep(),
    flow=flows.step_first,
)
NSGDA = Recipe(gradient=L2(), first=Average("exp_avg", Debiased("momentum", 0.9)), scale=UnitNorm())
ADAX = ADAM.but(**adam_moments(Plain(), Growing()), ratio=OverSqrt(eps=1e-12, raw=Growing()))
ADALO = Recipe(first=Average("exp_avg", Plain()), rate=LossRate(), decay=Decoupled())
MUON = Recipe(
    first=Average("momentum_buffer", LookingAhead("momentum")),
    direction=Orthogonal(),
    scale=ShapeScale(),
    decay=Decoupled(),
)
STABLE = ADAMW.but(decay=StableDecay())
STABLE_SGD = Recipe(first=Average("momentum_buffer", Heavy()), decay=StableMomentumDecay())
SCHEDULE_FREE_SGD = SGD.but(outer=ScheduleFree())
SCHEDULE_FREE_ADAMW = ADAMW.but(first=None, outer=ScheduleFree())
SCHEDULE_FREE_RADAM = SCHEDULE_FREE_ADAMW.but(ratio=OnceRectified(), outer=ScheduleFree(rate="silent"))
