"""Slow, plain float64 references of the optimizers, in NumPy alone.

They are the independent check of the library: they share no code with it, nor with torch.optim. `REFERENCES` maps the
public name of an optimizer to its class, `Lookahead` wraps any of them, `trajectory` runs one on a problem.
"""

from .adafactor import Adafactor
from .adalo import AdaLo
from .adam import Adam, AdamS, AdamW, NAdam
from .adam_variants import AdamAtan2, Adamax, AdaMomentum, AdamWarmup, DiffGrad, SAdam
from .adama import AdamA
from .adanorm import AdaBeliefNorm, AdamNorm, DiffGradNorm, RAdamNorm
from .adaptive import AdaX
from .base import Array, Reference
from .blocks import MARS, AdamMini
from .classic import ASGD, SGD, Adadelta, Adagrad, RMSprop, RMSpropV2, Rprop, SparseAdam
from .fractional import FCGD, AdaGL
from .layerwise import LARC, LARS, AdamCPR, AdamW2
from .lion import Lion
from .lookahead import Lookahead
from .memory import SM3, SMMF, AdafactorBV, AdafactorTorch, Amos
from .moments import ADOPT, AdaBelief, AdEMAMix, StableAdamW
from .muon import Muon
from .normalised import LAMB, NSGDA
from .outer import MomentumLookahead, ScheduleFreeAdam, ScheduleFreeRAdam
from .pnm import PNM, AdaPNM
from .problems import PROBLEMS, golden_gradient, half_square_loss, trajectory
from .radam import RAdam
from .schedulefree import ScheduleFreeSGD
from .sgd import SGDS
from .soap import SOAP
from .tuning_free import AMMSGD, AMAdamW, DAdaptAdam, DoG, LDoG, MoMo, MoMoAdam, Prodigy

REFERENCES: dict[str, type[Reference]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "rmspropv2": RMSpropV2,
    "adadelta": Adadelta,
    "sparseadam": SparseAdam,
    "asgd": ASGD,
    "rprop": Rprop,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": NAdam,
    "radam": RAdam,
    "adamax": Adamax,
    "adam_atan2": AdamAtan2,
    "sadam": SAdam,
    "adamwarmup": AdamWarmup,
    "diffgrad": DiffGrad,
    "adamomentum": AdaMomentum,
    "lion": Lion,
    "lamb": LAMB,
    "lars": LARS,
    "larc": LARC,
    "adamcpr": AdamCPR,
    "adamw2": AdamW2,
    "adafactor": Adafactor,
    "adafactor_torch": AdafactorTorch,
    "adafactor_bv": AdafactorBV,
    "sm3": SM3,
    "smmf": SMMF,
    "amos": Amos,
    "nsgda": NSGDA,
    "adax": AdaX,
    "adalo": AdaLo,
    "muon": Muon,
    "adams": AdamS,
    "sgds": SGDS,
    "soap": SOAP,
    "schedulefree_sgd": ScheduleFreeSGD,
    "schedulefree_adamw": ScheduleFreeAdam,
    "schedulefree_radam": ScheduleFreeRAdam,
    "prodigy": Prodigy,
    "dadapt_adam": DAdaptAdam,
    "dog": DoG,
    "ldog": LDoG,
    "momo": MoMo,
    "momo_adam": MoMoAdam,
    "am_msgd": AMMSGD,
    "am_adamw": AMAdamW,
    "stableadamw": StableAdamW,
    "adopt": ADOPT,
    "ademamix": AdEMAMix,
    "adabelief": AdaBelief,
    "mars": MARS,
    "adammini": AdamMini,
    "adamnorm": AdamNorm,
    "adabeliefnorm": AdaBeliefNorm,
    "radamnorm": RAdamNorm,
    "diffgradnorm": DiffGradNorm,
    "pnm": PNM,
    "adapnm": AdaPNM,
    "adama": AdamA,
    "fcgd": FCGD,
    "adagl": AdaGL,
}

__all__ = [
    "PROBLEMS",
    "REFERENCES",
    "Array",
    "Lookahead",
    "MomentumLookahead",
    "Reference",
    "golden_gradient",
    "half_square_loss",
    "trajectory",
]
