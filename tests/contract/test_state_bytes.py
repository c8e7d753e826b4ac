"""Bytes of state per parameter, weighed on a 512 x 1024 matrix, against the published index."""

from __future__ import annotations

from math import sqrt

import pytest
import torch

import thalweg

ROWS, COLUMNS = 512, 1024
SIZE = ROWS * COLUMNS
FACTORS = 4 * (ROWS + COLUMNS) / SIZE
#: Optimizer (with its defaults) -> float32 bytes per parameter: moments, factors, previous gradients, bases.
INDEX: dict[str, float] = {
    **dict.fromkeys(["sgd"], 0),
    **dict.fromkeys(["adagrad", "adalo", "am_msgd", "asgd", "dog", "ldog", "larc", "lars", "lion", "momo", "muon"], 4),
    **dict.fromkeys(["nsgda", "rmsprop", "rmspropv2", "schedulefree_sgd", "sgds"], 4),
    **dict.fromkeys(["adabelief", "adabeliefnorm", "adadelta", "adam", "adam_atan2", "adama", "adamax", "adamcpr"], 8),
    **dict.fromkeys(["adamnorm", "adamomentum", "adams", "adamw", "adamw2", "adamwarmup", "adax", "adopt"], 8),
    **dict.fromkeys(["am_adamw", "lamb", "momo_adam", "nadam", "pnm", "radam", "radamnorm", "rprop"], 8),
    **dict.fromkeys(["schedulefree_adamw", "schedulefree_radam", "sparseadam", "stableadamw"], 8),
    **dict.fromkeys(["ademamix", "dadapt_adam", "diffgrad", "diffgradnorm", "mars", "sadam"], 12),
    **dict.fromkeys(["adapnm", "prodigy"], 16),
    "fcgd": 40,
    "adagl": 48,
    "soap": 8 + 8 * (ROWS**2 + COLUMNS**2) / SIZE,
    "adafactor": FACTORS,
    "adafactor_torch": FACTORS,
    "adafactor_bv": FACTORS + 4,  # timm's momentum is bfloat16, this one float32
    "sm3": FACTORS + 4,
    "amos": 0,
    "smmf": 0.125 + 16 * (ROWS + COLUMNS) / 2 / SIZE,  # the index says sqrt(n) for either factor of a square view
    "adammini": 4 + 4 / COLUMNS,
}
#: Numbers per tensor that do not count: norms, distances, multipliers, the vectors of a power iteration.
SCALARS = 8 * 4 / SIZE


@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_state_weighs_what_the_index_says(name: str) -> None:
    p = torch.nn.Parameter(torch.randn(ROWS, COLUMNS) / sqrt(COLUMNS))
    p.grad = torch.randn_like(p)
    opt = thalweg.get(name).cls([p], engine="foreach")
    opt.step(loss=1.0)
    opt.step(loss=1.0)
    host = {"step", *opt.recipe_of(opt.param_groups[0]).numbers}
    weight = sum(t.nbytes for role, t in opt.state[p].items() if role not in host) / SIZE
    assert name in INDEX, "add what its paper says"
    assert 0 <= weight - INDEX[name] <= SCALARS
    assert weight == pytest.approx(opt.recipe_of(opt.param_groups[0]).state_bytes((ROWS, COLUMNS)))
