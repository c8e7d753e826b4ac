"""Parameter sets have the architectures' counts; the graph checks count what is compiled."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch

from lab.bench_optimizers import Plain, build
from thalweg.lab.bench_graphs import graphs_under_churn, graphs_under_scaling
from thalweg.lab.parameter_sets import PARAMETER_SETS, parameter_set, replicated


@pytest.mark.parametrize(
    ("name", "tensors", "elements"),
    [("gpt2-small", 148, 124_439_808), ("resnet50", 161, 25_557_032), ("tiny", 10, 14_058)],
)
def test_a_parameter_set_has_the_architectures_counts(name: str, tensors: int, elements: int) -> None:
    shapes = parameter_set(name)
    assert len(shapes) == len({name for name, _ in shapes}) == tensors
    assert sum(prod(shape) for _, shape in shapes) == elements


def test_parameter_sets_have_the_architectures_shapes() -> None:
    resnet, gpt2 = dict(parameter_set("resnet50")), dict(parameter_set("gpt2-small"))
    assert resnet["layer2.0.conv1.weight"] == (128, 256, 1, 1)
    assert resnet["layer2.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert resnet["layer4.2.conv2.weight"] == (512, 512, 3, 3)
    assert gpt2["transformer.h.11.mlp.c_fc.weight"] == (768, 3072)


def test_an_unknown_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'huge'.*gpt2-small, resnet50, tiny"):
        parameter_set("huge")
    assert set(PARAMETER_SETS) == {"gpt2-small", "resnet50", "tiny"}


def test_replicating_multiplies_the_tensors_under_distinct_names() -> None:
    names = [name for name, _ in replicated(parameter_set("tiny"), 4)]
    assert len(set(names)) == len(names) == 40


def test_churn_counts_the_graphs_compiled_after_the_fifth_step() -> None:
    assert graphs_under_churn("adamw", factory=build) == 0
    assert graphs_under_churn("stable", factory=build) == 0
    assert graphs_under_churn("compiling", factory=build, steps=20) == 15  # one per lr, past dynamo's limit of 8


def test_churn_changes_every_hyperparameter_and_drops_gradients_each_third_step() -> None:
    seen: list[tuple[Any, ...]] = []

    class Recording(Plain):
        def step(self, closure: Any = None, *, loss: torch.Tensor | None = None) -> None:  # type: ignore[override]
            group = self.param_groups[0]
            missing = tuple(index for index, param in enumerate(group["params"]) if param.grad is None)
            seen.append((group["lr"], *group["eps"], missing))

    graphs_under_churn("any", factory=lambda _, named: Recording(named), steps=12)
    for position in range(3):
        assert len({record[position] for record in seen}) == 12
    assert [bool(record[-1]) for record in seen] == [False, False, True] * 4
    assert len({record[-1] for record in seen}) == 4  # none, and three thirds in turn
    seen.clear()
    graphs_under_churn("any", factory=lambda _, named: Recording(named), steps=12, rotate=False)
    assert len({record[-1] for record in seen}) == 2


def test_scaling_counts_graphs_for_the_set_and_for_more_tensors() -> None:
    assert graphs_under_scaling("stable", factory=build) == {"tensors": [10, 40], "graphs": [1, 1]}
    assert graphs_under_scaling("compiling", factory=build) == {"tensors": [10, 40], "graphs": [1, 4]}
