"""The built-in tasks: what each promises in its declaration, in its splits and in the `Problem` protocol."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.training import SEED, evaluated, trained
from thalweg.lab.loading import load_task, task_names
from thalweg.lab.tasks import Problem, Task, digits, factors, surfaces, tabular, text, vae
from thalweg.lab.tasks.supervised import three_parts


@pytest.fixture(autouse=True)
def _one_thread(_same_start: None) -> None:
    """As a race's workers have it; small models gain nothing from a second one."""
    torch.set_num_threads(1)


def weights(problem: Problem) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in problem.model.parameters()]


def flat(batch: Any) -> list[Any]:
    return list(batch) if isinstance(batch, tuple) else [batch]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", task_names())
class TestEveryTask:
    def test_it_declares_what_a_reader_needs(self, name: str) -> None:
        task = load_task(name)
        assert task.name == name
        for sentence in (task.statement, task.limits, task.split):
            assert re.fullmatch(r"[A-Z\d].*[.?]", sentence), sentence
        assert len(task.statement) <= 120
        assert len(task.limits) <= 120
        assert 0 < task.seconds <= 6
        assert task.steps / task.interval <= 20
        assert (task.kind == "check") == (task.metric == "passed")

    def test_a_seed_fixes_weights_batches_and_evaluations(self, name: str) -> None:
        build = load_task(name).build
        first, other = build(SEED), build(SEED + 1)
        torch.randn(3)  # the global stream has moved on
        second = build(SEED)
        assert same(weights(first), weights(second))
        drawn = [[flat(batch) for batch in itertools.islice(p.batches(), 3)] for p in (first, second, other)]
        assert all(same(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
        assert not same(weights(first) + drawn[0][0], weights(other) + drawn[2][0])
        assert evaluated(first) == evaluated(second)

    def test_evaluation_disturbs_nothing(self, name: str) -> None:
        task = load_task(name)
        plain, watched = task.build(SEED), task.build(SEED)
        before = weights(watched)
        batches = iter(plain.batches()), iter(watched.batches())
        state = torch.get_rng_state()
        for _ in range(3):
            values = evaluated(watched)
            assert values == evaluated(watched)
            assert math.isfinite(values[task.metric])
            assert task.metric in evaluated(watched, "test")
            assert same(flat(next(batches[0])), flat(next(batches[1])))
        assert same(weights(watched), before)
        assert torch.equal(state, torch.get_rng_state())

    def test_a_step_moves_every_parameter_downhill(self, name: str) -> None:
        problem = load_task(name).build(SEED)
        batch = next(iter(problem.batches()))
        before, parts = weights(problem), [part for part, _ in problem.model.named_parameters()]
        optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.01 if name == "stall" else 1e-4)
        loss = problem.loss(batch)
        loss.backward()
        optimizer.step()
        for part, old, new in zip(parts, before, weights(problem), strict=True):
            assert not torch.equal(old, new), f"{part} did not move"
        if name != "gan":  # where one player's gain is the other's loss
            assert problem.loss(batch).item() < loss.item()


def test_the_tables_in_the_documents_are_the_declarations() -> None:
    """docs/tasks.md has each task's own words and numbers."""
    lines = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text().splitlines()
    for name in task_names():
        task = load_task(name)
        target = f"{100 * task.target:g} %" if task.unit == "%" else f"{task.target:g} {task.unit}".strip()
        for cells in (
            [task.statement, task.limits],
            [task.metric, target, f"{task.steps}", f"{task.seconds:g}", task.split],
        ):
            assert f"| `{name}` | {' | '.join(cells)} |" in lines


@pytest.mark.parametrize(
    ("name", "lr", "metric"),
    [("mlp", 1e-2, 0.9), ("wine", 1e-2, 0.2), ("diabetes", 3e-3, 0.7), ("quadratic", 0.1, 0.3), ("vae", 3e-3, 28.0)],
)
def test_a_fraction_of_the_budget_gets_far(name: str, lr: float, metric: float) -> None:
    task = load_task(name)
    start, end = evaluated(task.build(SEED)), trained(task, "adamw", lr, steps=task.steps // 3)
    assert not (start[task.metric] >= metric if task.direction == "max" else start[task.metric] <= metric)
    assert end[task.metric] >= metric if task.direction == "max" else end[task.metric] <= metric


class TestSplits:
    @pytest.mark.parametrize("name", ["digits", "mlp", "vae", "noisy", "cancer", "wine", "diabetes", "factors"])
    def test_the_stated_sizes_are_true(self, name: str) -> None:
        task = load_task(name)
        problem = task.build(SEED)
        sizes = [f"{len(problem.splits[part][1]):,}" for part in ("train", "validation", "test")]  # type: ignore[attr-defined]
        assert re.findall(r"\d[\d,]*\d", task.split)[:3] == sizes

    @pytest.mark.parametrize("stratify", [True, False])
    def test_rows_are_shared_out_without_rest_or_overlap(self, stratify: bool) -> None:
        parts = three_parts(torch.arange(178) % 3, stratify)
        assert [len(rows) for rows in parts.values()] == [106, 36, 36]
        assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(178))

    @pytest.mark.parametrize("table", ["diabetes", "wine", "breast_cancer"])
    def test_tables_are_standardised_by_the_training_part(self, table: str) -> None:
        inputs, _ = tabular.load_splits(table)["train"]
        assert torch.allclose(inputs.mean(0), torch.zeros(inputs.shape[1]), atol=1e-5)
        assert torch.allclose(inputs.std(0), torch.ones(inputs.shape[1]), atol=1e-5)
        assert tabular.load_splits(table)["test"][0].mean(0).abs().max() > 0.01

    def test_ratings_are_shared_out_without_overlap(self) -> None:
        pairs = torch.cat([inputs for inputs, _ in factors.load_splits().values()])
        assert len(pairs.unique(dim=0)) == len(pairs) == 9000

    def test_text_is_cut_into_consecutive_parts(self) -> None:
        cut = text.corpus("abcdefghij" * 10 + "é")
        joined = torch.cat([cut.splits[part] for part in ("train", "validation", "test")])
        assert "".join(cut.alphabet[code] for code in joined) == "abcdefghij" * 10 + "?"
        assert [len(cut.splits[part]) for part in ("train", "validation", "test")] == [80, 10, 11]

    def test_three_in_ten_training_labels_are_wrong_and_no_others(self) -> None:
        clean, noisy = digits.load_splits(), digits.noisy_splits()
        assert torch.equal(clean["train"][0], noisy["train"][0])
        assert int((clean["train"][1] != noisy["train"][1]).sum()) == round(0.3 * 1077)
        assert all(torch.equal(clean[part][1], noisy[part][1]) for part in ("validation", "test"))

    def test_the_tail_falls_a_hundredfold(self) -> None:
        counts = digits.tail_splits()["train"][1].bincount()
        assert counts.tolist() == sorted(counts.tolist(), reverse=True)
        assert counts[0] == 100 * counts[9]
        assert f"{int(counts.sum())} images" in load_task("tail").split
        assert torch.equal(digits.tail_splits()["test"][1], digits.load_splits()["test"][1])


def test_balanced_accuracy_counts_every_class_once() -> None:
    scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    values = digits.balanced(scores, torch.tensor([0, 0, 0, 1]))
    assert values["balanced accuracy"] == 0.5
    assert values["loss"] == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2)


def test_brier_scores_known_answers() -> None:
    sure, even = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert tabular.certainty(sure, torch.tensor([0]))["Brier score"] == pytest.approx(0)
    assert tabular.certainty(sure, torch.tensor([1]))["Brier score"] == pytest.approx(2)
    assert tabular.certainty(even, torch.tensor([1]))["Brier score"] == pytest.approx(0.5)


def test_batch_norms_are_evaluated_with_statistics_of_the_weights_alone() -> None:
    problem = load_task("digits").build(SEED)
    before = evaluated(problem)
    for images, _ in itertools.islice(problem.batches(), 3):
        problem.model(images + 5)  # running averages far from the data's own
    assert evaluated(problem) == before


def test_latents_and_decoded_images_serve_a_map() -> None:
    problem = vae.Autoencoding(SEED)
    places, labels = problem.latents("test")
    images = problem.model.decode(places[:4])
    assert places.shape == (360, 2)
    assert labels.shape == (360,)
    assert images.shape == (4, 8, 8)
    assert bool(((images > 0) & (images < 1)).all())


@pytest.mark.parametrize(
    ("field", "message"),
    [({"kind": "game"}, "'race' or 'check'"), ({"seconds": -1.0}, "seconds"), ({"target": math.nan}, "target")],
)
def test_a_task_refuses_what_cannot_be(field: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "x", "statement": "", "metric": "loss", "direction": "min", "target": 1.0}
    with pytest.raises(ValueError, match=message):
        Task(**(good | {"steps": 1, "build": surfaces.Rosenbrock} | field))
