"""The parts of a race that need no training: grids, contenders, tasks, the directory, the ranking."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from thalweg.lab import Task, grid, wording
from thalweg.lab.contenders import Contender, parse_contender, parse_contenders
from thalweg.lab.errors import LabError
from thalweg.lab.loading import load_task
from thalweg.lab.results import RaceDirectory
from thalweg.lab.summary import cell_scores, standings

TASK = Task(
    "toy", "A toy.", metric="accuracy", direction="max", target=0.9, steps=10, build=lambda seed: None, unit="%"
)


def record(label: str, seed: int, value: float | None, cell: int = 0, **more: Any) -> dict[str, Any]:
    """A run as a worker reports it; None stands for a run that diverged."""
    metric = None if value is None else {"accuracy": value, "loss": 1 - value}
    return {
        "key": f"{label} cell={cell} seed={seed}",
        "label": label,
        "cell": cell,
        "lr": 10.0**cell,
        "seed": seed,
        "status": "diverged" if value is None else "finished",
        "reason": None,
        "validation": metric,
        "test": metric,
        "target_step": None if value is None or value < 0.9 else 5,
        "target_seconds": None if value is None or value < 0.9 else 0.5,
        "seconds": 1.0,
        "step_ms": 0.1,
        "state_bytes": 80,
        "parameters": 10,
    } | more


def test_grid_is_centred_and_spaced_by_half_decades() -> None:
    assert grid.initial_cells(5) == [-2, -1, 0, 1, 2]
    assert grid.initial_cells(4) == [-1, 0, 1, 2]
    assert [grid.rate(1e-3, cell) for cell in (-1, 0, 1, 2)] == [3.16e-4, 1e-3, 3.16e-3, 1e-2]


@pytest.mark.parametrize(
    ("best", "expected"),
    [(0, None), (1, 2), (-1, -2)],
)
def test_grid_grows_where_the_best_lies_on_an_edge(best: int, expected: int | None) -> None:
    scores = {cell: (-abs(cell - best) * 1.0, 0.0) for cell in (-1, 0, 1)}
    assert grid.next_cell(scores, [-1, 0, 1]) == expected


def test_grid_goes_down_when_everything_diverges_and_is_bounded() -> None:
    scores = dict.fromkeys((-1, 0, 1), grid.HOPELESS)
    added = []
    while (cell := grid.next_cell(scores, [-1, 0, 1])) is not None:
        scores[cell] = grid.HOPELESS
        added.append(cell)
    assert added == [-2, -3, -4, -5]
    assert grid.best_cell(scores) is None
    rising = {cell: (float(cell), 0.0) for cell in range(-1, 1 + grid.REACH + 1)}
    assert grid.next_cell(rising, [-1, 0, 1]) is None
    assert grid.edge(rising) == "highest"


def test_equal_points_are_told_apart_by_loss_then_by_nearness_to_the_default() -> None:
    assert grid.best_cell({-1: (0.9, -0.3), 0: (0.9, -0.2), 1: (0.9, -0.1)}) == 1
    assert grid.best_cell({-2: (0.9, -0.1), 1: (0.9, -0.1)}) == 1


def test_contenders_are_read_with_their_hyper_parameters() -> None:
    contender = parse_contender("sgd:momentum=0.9:lr=0.05")
    assert contender == Contender("sgd", (("momentum", 0.9),), 0.05)
    assert contender.label == "sgd(momentum=0.9)"
    assert parse_contender("adam").lr == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["adm"], "did you mean adam"),
        (["sgd:momentun=0.9"], "did you mean momentum"),
        (["sgd:0.9"], "key=value"),
        (["sgd:lr=-1"], "above 0"),
        (["adam", "adam"], "more than once"),
        ([], "no optimizer named"),
    ],
)
def test_contenders_that_cannot_race_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(LabError, match=message):
        parse_contenders(texts)


def test_tasks_are_found_by_name_or_file(tmp_path: Path) -> None:
    assert load_task("digits").steps > 0
    assert load_task("chars", steps=3).steps == 3
    path = tmp_path / "mine.py"
    path.write_text("def build_task():\n    return 3\n\nbroken = 1 / 1\n")
    for reference, message in (
        ("digit", "did you mean digits"),
        (f"{tmp_path}/other.py", "no such task file"),
        (f"{path}:build_tusk", "defines no 'build_tusk'"),
        (f"{path}:build_task", "gave int"),
    ):
        with pytest.raises(LabError, match=message):
            load_task(reference)
    path.write_text("1 / 0\n")
    with pytest.raises(LabError, match="ZeroDivisionError"):
        load_task(f"{path}:build_task")


@pytest.mark.parametrize("wrong", [{"name": "a/b"}, {"direction": "up"}, {"steps": 0}])
def test_tasks_are_checked_when_they_are_made(wrong: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"name": "toy", "statement": "", "metric": "loss", "direction": "min", "target": 0.0}
    with pytest.raises(ValueError, match=r"directory|direction|steps"):
        Task(**(fields | {"steps": 1, "build": lambda seed: None} | wrong))


def test_directory_refuses_what_it_would_overwrite_or_mix(tmp_path: Path) -> None:
    directory = RaceDirectory(tmp_path / "race")
    directory.open_new({"seeds": 3, "task": {"steps": 10}})
    with pytest.raises(LabError, match=r"--resume .* --fresh"):
        directory.open_new({"seeds": 3})
    with pytest.raises(LabError, match=r"seeds: 3 then, 5 now; task.steps: 10 then, 20 now"):
        directory.open_resumed({"seeds": 5, "task": {"steps": 20}})
    with pytest.raises(LabError, match="no race to resume"):
        RaceDirectory(tmp_path / "other").open_resumed({})
    (directory.path / "notes.txt").write_text("kept")
    directory.append(record("sgd", 0, 0.5))
    directory.open_fresh({"seeds": 5})
    assert directory.load() == []
    assert (directory.path / "notes.txt").read_text() == "kept"


def test_results_survive_a_crash_in_the_middle_of_a_line(tmp_path: Path) -> None:
    directory = RaceDirectory(tmp_path)
    directory.append(record("sgd", 0, 0.5))
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"key": "sgd cell=0 se')
    directory.append(record("sgd", 2, 0.7))
    assert [one["seed"] for one in directory.load()] == [0, 2]
    directory.append(record("sgd", 0, 0.9))
    assert [one["test"]["accuracy"] for one in directory.load()] == [0.9, 0.7]


def test_failed_runs_are_made_again_on_resume(tmp_path: Path) -> None:
    directory = RaceDirectory(tmp_path)
    directory.open_fresh({})
    directory.append(record("sgd", 0, 0.5))
    directory.append(record("sgd", 1, 0.5, status="failed"))
    directory.append(record("sgd", 2, None))
    assert [one["seed"] for one in directory.open_resumed({})] == [0, 2]


def test_ranking_is_by_test_at_the_rate_chosen_on_validation() -> None:
    def split(label: str, cell: int, validation: float, test: float) -> list[dict[str, Any]]:
        return [
            record(label, seed, validation, cell, test={"accuracy": test + seed / 1000, "loss": 0.0})
            for seed in range(3)
        ]

    records = split("a", 0, 0.95, 0.80) + split("a", 1, 0.90, 0.99) + split("b", 0, 0.85, 0.85)
    rows = standings(TASK, [Contender("a", lr=1.0), Contender("b", lr=1.0)], records)
    assert [row.label for row in rows] == ["b", "a"]
    assert rows[1].best is not None
    assert rows[1].best.lr == 1.0
    assert rows[1].test == pytest.approx(0.801)
    assert rows[1].separated
    assert "b: 85.1" in wording.headline(TASK, rows, 3)


def test_overlapping_seeds_are_called_level() -> None:
    values = {"a": (0.95, 0.93, 0.97), "b": (0.94, 0.96, 0.92), "c": (0.5, 0.51, 0.52)}
    records = [record(label, seed, value) for label, row in values.items() for seed, value in enumerate(row)]
    rows = standings(TASK, [Contender(label, lr=1.0) for label in values], records)
    assert [(row.label, row.separated) for row in rows] == [("a", False), ("b", False), ("c", True)]
    assert rows[1].leader_ahead == 2
    assert "lead over b lies within the seed spread" in wording.headline(TASK, rows, 3)
    assert "cannot tell a lead from noise" in wording.headline(TASK, rows, 2)
    assert "missed by c" in " ".join(wording.findings(TASK, rows, 3))


def test_divergence_counts_as_worst_and_failure_as_not_made() -> None:
    records = [record("a", 0, 0.9), record("a", 1, None), record("a", 2, None)]
    records += [record("b", 0, 0.6), record("b", 1, 0.6), record("b", 2, 0.0, status="failed")]
    assert cell_scores(TASK, records[:3]) == {0: grid.HOPELESS}
    rows = standings(TASK, [Contender("a", lr=1.0), Contender("b", lr=1.0)], records)
    assert [(row.label, row.test) for row in rows] == [("b", 0.6), ("a", None)]
    assert rows[0].best is not None
    assert (rows[0].best.finished, rows[0].best.failed) == (2, 1)
    assert "most runs of a end" in " ".join(wording.findings(TASK, rows, 3))
    assert wording.result(TASK, rows[1]) == "diverged"


def test_a_task_to_minimise_ranks_the_other_way_round() -> None:
    task = Task("toy", "", metric="loss", direction="min", target=0.2, steps=1, build=lambda seed: None)
    records = [record("a", seed, 0.5) for seed in range(3)] + [record("b", seed, 0.9) for seed in range(3)]
    records += [record("c", seed, None) for seed in range(3)]
    rows = standings(task, [Contender(label, lr=1.0) for label in "cab"], records)
    assert [row.label for row in rows] == ["b", "a", "c"]
    assert all(math.isfinite(row.test) for row in rows if row.test is not None)
    assert json.dumps([row.test for row in rows], allow_nan=False)
