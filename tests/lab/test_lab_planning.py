"""What a race plans: grids, searches, seeds and baselines, without training anything."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lab.racing import settings, simulated, write_task
from thalweg.lab import grid
from thalweg.lab.contenders import Contender, parse_contender, parse_contenders
from thalweg.lab.errors import LabError
from thalweg.lab.planning import Entry, Field
from thalweg.lab.protocol import BUDGETS, budget
from thalweg.lab.race import Settings
from thalweg.lab.results import RaceDirectory, check_same
from thalweg.lab.search import Range, Search, Trial, best_point, edge
from thalweg.lab.trial import Job

ADAMW = parse_contender("adamw")


def valley(best_lr: float, best_decay: float = 0.01, depth: float = 0.1) -> Any:
    """A validation loss with one best configuration."""

    def loss(job: Job) -> float:
        at = dict(job.point)
        away = abs(math.log10(at["lr"] / best_lr)) if "lr" in at else 0.0
        return depth + away + abs(at.get("weight_decay", best_decay) - best_decay) + job.seed * 1e-6

    return loss


@pytest.fixture
def line(tmp_path: Path) -> str:
    return write_task(tmp_path)


def only(fields: list[Field], label: str | None = None) -> Entry:
    entries = fields[0].entries
    return entries[label] if label else next(iter(entries.values()))


def test_grid_is_centred_and_spaced_by_half_decades() -> None:
    assert grid.initial_cells(5) == [-2, -1, 0, 1, 2]
    assert grid.initial_cells(4) == [-1, 0, 1, 2]
    assert [grid.rate(1e-3, cell) for cell in (-1, 0, 1, 2)] == [3.16e-4, 1e-3, 3.16e-3, 1e-2]


@pytest.mark.parametrize(("best", "expected"), [(0, None), (1, 2), (-1, -2)])
def test_grid_grows_where_the_best_lies_on_an_edge(best: int, expected: int | None) -> None:
    scores = {cell: (-abs(cell - best) * 1.0, 0.0) for cell in (-1, 0, 1)}
    assert grid.next_cell(scores, [-1, 0, 1]) == expected


def test_grid_goes_down_when_everything_diverges_and_is_bounded() -> None:
    scores = dict.fromkeys((-1, 0, 1), grid.HOPELESS)
    added = []
    while (cell := grid.next_cell(scores, [-1, 0, 1])) is not None:
        scores[cell] = grid.HOPELESS
        added.append(cell)
    assert added == [-2, -3, -4, -5, -6, -7]
    assert grid.best_cell(scores) is None
    rising = {cell: (float(cell), 0.0) for cell in range(-1, 1 + grid.REACH + 1)}
    assert grid.next_cell(rising, [-1, 0, 1]) is None


def test_equal_points_are_told_apart_by_loss_then_by_nearness_to_the_default() -> None:
    assert grid.best_cell({-1: (0.9, -0.3), 0: (0.9, -0.2), 1: (0.9, -0.1)}) == 1
    assert grid.best_cell({-2: (0.9, -0.1), 1: (0.9, -0.1)}) == 1
    near, far = (("lr", 1e-3), ("weight_decay", 0.1)), (("lr", 1e-2), ("weight_decay", 0.01))
    assert best_point(ADAMW, {Trial(far): (0.9, -0.1), Trial(near): (0.9, -0.1)}) == near


def test_the_grid_is_searched_until_its_best_is_inside(line: str) -> None:
    entry = only(simulated(settings(line, "adam", decays=()), valley(0.1, best_decay=0.0)))
    assert dict(entry.chosen or ())["lr"] == pytest.approx(0.1)
    assert sorted(dict(trial.point)["lr"] for trial in entry.scores)[-2:] == [0.1, 0.316]
    assert edge(entry.search, entry.chosen, entry.scores) is None
    beyond = only(simulated(settings(line, "adam", decays=()), valley(1e9, best_decay=0.0)))
    assert edge(beyond.search, beyond.chosen, beyond.scores) == "highest"


def test_another_decay_that_wins_gets_learning_rates_of_its_own(line: str) -> None:
    def loss(job: Job) -> float:  # at a decay of 0.1 the best rate is another
        at = dict(job.point)
        best, depth = (3.16e-3, 0.05) if at["weight_decay"] == 0.1 else (1e-3, 0.2)
        return depth + 0.1 * abs(math.log10(at["lr"] / best))

    entry = only(simulated(settings(line, "lamb", decays=(0.0, 0.01, 0.1)), loss))
    assert entry.chosen == (("lr", 3.16e-3), ("weight_decay", 0.1))
    tried = {(dict(t.point)["lr"], dict(t.point)["weight_decay"]) for t in entry.scores}
    assert tried == {(3.16e-4, 0.01), (1e-3, 0.01), (3.16e-3, 0.01), (1e-3, 0.0)} | {
        (lr, 0.1) for lr in (3.16e-4, 1e-3, 3.16e-3, 1e-2)
    }


def test_seeds_are_few_for_tuning_and_fresh_for_reporting(line: str) -> None:
    entry = only(simulated(settings(line, "adam", tune_seeds=3, report_seeds=4), valley(1e-3)))
    phases = {phase: {r["seed"] for r in entry.records.values() if r["phase"] == phase} for phase in ("tune", "report")}
    assert phases == {"tune": {0, 1, 2}, "report": {1000, 1001, 1002, 1003}}
    assert {r["lr"] for r in entry.records.values() if r["phase"] == "report"} == {1e-3}


def test_baselines_are_tuned_at_least_as_much_as_anyone(line: str) -> None:
    def loss(job: Job) -> float:
        return valley(1e-3 if job.name != "lion" else 1.0)(job)

    fields = simulated(settings(line, "sgd:momentum=0.9 adamw lion"), loss)
    trials = {label: len(entry.scores) for label, entry in fields[0].entries.items()}
    assert trials["lion"] > 7
    assert trials["sgd(momentum=0.9)"] == trials["adamw"] == trials["lion"]
    finer = {dict(trial.point)["lr"] for trial in only(fields, "adamw").extra}
    assert {1.78e-3, 5.62e-4} <= finer, "the further trials refine the grid around its best"


def test_a_median_of_seeds_decides_and_divergence_is_worst(line: str) -> None:
    def loss(job: Job) -> float | None:
        if dict(job.point)["lr"] > 1e-3:
            return None
        return 0.01 if job.seed == 2 and dict(job.point)["lr"] < 1e-3 else 0.5 - 0.1 * (dict(job.point)["lr"] == 1e-3)

    entry = only(simulated(settings(line, "adam", tune_seeds=3, decays=()), loss))
    assert dict(entry.chosen or ())["lr"] == 1e-3
    assert entry.scores[Trial((("lr", 3.16e-3), ("weight_decay", 0.0)))] == grid.HOPELESS


def test_plans_depend_on_the_records_and_not_on_their_order(line: str) -> None:
    chosen = settings(line, "adam", decays=(0.0, 0.1))
    forward = only(simulated(chosen, valley(0.03, 0.1)))
    backward = Entry(forward.course, forward.contender, chosen.protocol, chosen.protocol.as_search())
    for record in reversed(forward.records.values()):
        backward.take(record)
    backward.replan()
    assert backward.chosen == forward.chosen
    assert backward.scores == forward.scores
    assert [job.key for job in backward.tuning_jobs()] == [job.key for job in forward.tuning_jobs()]


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_samplers_ask_for_as_many_trials_as_a_grid_and_repeat_exactly(line: str, kind: str) -> None:
    chosen = settings(line, "adam", search=kind, points=5)
    first, again = (only(simulated(chosen, valley(0.03))) for _ in range(2))
    assert len(first.scores) == 5 + 1
    assert list(first.scores) == list(again.scores)
    assert next(iter(first.scores)).point == (("lr", 1e-3), ("weight_decay", 0.0))
    assert all(1e-3 / 110 < dict(trial.point)["lr"] < 1e-3 * 110 for trial in first.scores)


def test_halving_trains_the_best_third_for_three_times_as_long(line: str) -> None:
    entry = only(simulated(settings(line, "adam", search="halving", points=5, decays=(0.0, 0.1)), valley(1e-2)))
    stages = {share: sum(trial.share == share for trial in entry.scores) for share in (1 / 9, 1 / 3, 1.0)}
    assert stages == {1 / 9: 10, 1 / 3: 4, 1.0: 2}
    assert dict(entry.chosen or ())["lr"] == 1e-2
    assert {job.stop for job in entry.tuning_jobs()} == {2, 7, 20}
    assert {job.stop for job in entry.report_jobs()} == {20}


def test_a_sweep_searches_what_it_is_told(line: str) -> None:
    space = (Range.parse("lr=1e-4:1e-1:log"), Range.parse("betas.0=0.8:0.99"))

    def loss(job: Job) -> float | None:
        at = dict(job.point)
        return abs(math.log10(at["lr"]) + 2) + abs(at["betas.0"] - 0.9)

    grids = only(simulated(settings(line, "adam", sweep=Search("grid", space=space, trials=16)), loss))
    assert len(grids.scores) == 16
    assert dict(grids.chosen or ()) == {"lr": 0.01, "betas.0": pytest.approx(0.9267)}
    tpe = only(simulated(settings(line, "adam", sweep=Search("tpe", space=space, trials=12)), loss))
    assert len(tpe.scores) == 12
    assert next(iter(tpe.scores)).point == (("betas.0", 0.9), ("lr", 1e-3)), "the defaults come first"


@pytest.mark.parametrize("text", ["lr", "lr=1", "lr=2:1", "lr=0:1:log", "lr=1:2:linear", "lr=a:b"])
def test_a_space_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="write name=low:high"):
        Range.parse(text)


def test_contenders_are_read_with_their_hyper_parameters() -> None:
    contender = parse_contender("sgd:momentum=0.9:lr=0.05")
    assert contender == Contender("sgd", (("momentum", 0.9),), 0.05, 0.0)
    assert contender.label == "sgd(momentum=0.9)"
    assert contender.baseline
    assert not parse_contender("sgd").baseline
    fixed = parse_contender("adamw:weight_decay=0.1")
    assert (fixed.lr, fixed.decay, fixed.label) == (1e-3, None, "adamw(weight_decay=0.1)")
    shared = parse_contender("adamw:state=int8:techniques=agc+cautious")
    assert shared.hyper == (("state", "int8"), ("techniques", ("agc", "cautious")))
    assert shared.label == "adamw(state=int8, techniques=agc+cautious)"


def test_a_configuration_is_what_a_storage_gives_back(line: str) -> None:
    contender = parse_contender("adamw:techniques=agc:betas=(0.8,0.9)")
    settings = Settings((line,), (contender,), BUDGETS["tiny"])
    configuration = settings.configuration(settings.courses())
    assert json.loads(json.dumps(configuration)) == configuration


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


def test_budgets_below_the_protocol_say_so() -> None:
    assert BUDGETS["small"].shortfalls() == BUDGETS["standard"].shortfalls() == BUDGETS["full"].shortfalls() == []
    assert len(BUDGETS["tiny"].shortfalls()) >= 2
    with pytest.raises(LabError, match="did you mean small"):
        budget("smal")


def test_two_tasks_of_one_name_are_refused(line: str) -> None:
    with pytest.raises(LabError, match="two tasks are called line"):
        Settings((line, line), (ADAMW,), BUDGETS["tiny"]).courses()


def test_directory_refuses_what_it_would_overwrite_or_mix(tmp_path: Path) -> None:
    directory = RaceDirectory(tmp_path / "race")
    directory.check_new()
    directory.begin({"seeds": 3})
    with pytest.raises(LabError, match=r"--resume .* --fresh"):
        directory.check_new()
    (directory.path / "notes.txt").write_text("kept")
    directory.clear()
    assert [path.name for path in directory.path.iterdir()] == ["notes.txt"]
    with pytest.raises(LabError, match=r"seeds: 3 then, 5 now; task.steps: 10 then, 20 now"):
        check_same({"seeds": 3, "task": {"steps": 10}}, {"seeds": 5, "task": {"steps": 20}}, "here")
