"""What a summary says of runs whose results are known beforehand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lab.racing import settings, simulated, write_task
from thalweg.lab import wording
from thalweg.lab.summary import summarise
from thalweg.lab.tables import print_results
from thalweg.lab.trial import Job


def made(folder: Path, optimizers: str, loss: Any, **given: Any) -> dict[str, Any]:
    """A race's summary, as a report reads it."""
    chosen = settings(write_task(folder), optimizers, **({"report_seeds": 10, "decays": ()} | given))
    summary = summarise(simulated(chosen, loss), chosen.protocol, "race", True)
    return json.loads(json.dumps(summary, allow_nan=False))


def rows(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in summary["tasks"][0]["standings"]}


def tuned(levels: dict[str, float], best: float = 1e-3) -> Any:
    """A loss by optimizer, best at one learning rate, with a seed's own part."""

    def loss(job: Job) -> float:
        away = abs(math.log10(dict(job.point)["lr"] / best))
        return levels[job.name] + 0.1 * away + 0.001 * (job.seed % 10)

    return loss


def test_ranking_and_figures_are_those_of_the_report_seeds(tmp_path: Path) -> None:
    summary = made(tmp_path, "adam adamw nadam:lr=1e-3", tuned({"adam": 0.1, "adamw": 0.1001, "nadam": 0.5}))
    found = rows(summary)
    assert [row["rank"] for row in found.values()] == [1, 2, 3]
    adam, adamw, nadam = found.values()
    assert adam["label"] == "adam"
    assert adam["test"]["median"] == pytest.approx(0.1045)
    assert (adam["test"]["low"], adam["test"]["high"]) == (pytest.approx(0.1), pytest.approx(0.109))
    assert adam["test"]["low"] < adam["test"]["interval"][0] < 0.1045 < adam["test"]["interval"][1]
    assert adam["chosen"] == {"lr": 1e-3, "weight_decay": 0.0}
    assert adam["target"] == {"hits": 10, "runs": 10, "steps": 5.0, "seconds": 0.5}
    assert nadam["target"] == {"hits": 0, "runs": 10, "steps": None, "seconds": None}
    assert adam["default"]["regret"] == 0.0
    assert adam["behind_leader"] is None
    assert adamw["behind_leader"] == nadam["behind_leader"] == {"seeds": 10, "paired": 10, "separated": True}
    assert wording.target(nadam) == "missed"


def test_trials_and_regret_are_taken_on_the_grid(tmp_path: Path) -> None:
    (row,) = rows(made(tmp_path, "adam", tuned({"adam": 0.1}, best=1e-2))).values()
    grid = [cell["validation"]["median"] for cell in row["grid"]]  # 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2
    assert [cell["lr"] for cell in row["grid"]] == [3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2]
    assert row["best_after"]["1"] == pytest.approx(sum(grid) / 5)
    assert row["best_after"]["16"] == pytest.approx(min(grid)) == pytest.approx(0.1005)
    assert row["default"]["validation"] == pytest.approx(0.2005)
    assert row["default"]["regret"] == pytest.approx(0.2005 / 0.1005 - 1)
    assert row["share_within"] == pytest.approx(1 / 5)


def test_a_lead_that_chance_would_give_is_called_that(tmp_path: Path) -> None:
    def loss(job: Job) -> float:  # each is ahead on five seeds
        return 0.1 + 0.01 * ((job.seed + (job.name == "adam")) % 2) + 0.1 * abs(math.log10(dict(job.point)["lr"]) + 3)

    summary = made(tmp_path, "adam adamw", loss)
    second = summary["tasks"][0]["standings"][1]
    assert second["behind_leader"] == {"seeds": 5, "paired": 10, "separated": False}
    assert "within what chance would give" in summary["headline"]


def test_divergence_is_worst_and_told(tmp_path: Path) -> None:
    def loss(job: Job) -> float | None:
        return None if job.name == "lamb" else tuned({"adam": 0.1})(job)

    summary = made(tmp_path, "lamb adam", loss)
    lamb = rows(summary)["lamb"]
    assert (lamb["rank"], lamb["status"], lamb["chosen"], lamb["test"]) == (2, "diverged", None, None)
    assert lamb["reason"] == "training loss was nan"
    assert len(lamb["grid"]) == 3 + 6, "the search went down as far as it may"
    assert "Nowhere in the search did most runs of lamb end without diverging." in summary["findings"]


def test_an_edge_and_a_missing_baseline_are_warned_of(tmp_path: Path) -> None:
    summary = made(tmp_path, "adam", tuned({"adam": 0.1}, best=1e9), report_seeds=3)
    warnings = " ".join(summary["warnings"])
    assert "the best learning rate of adam, 3.16, is the highest one tried" in warnings
    assert "No baseline was raced" in warnings
    assert "Reported on 3 seeds; the protocol asks for 10." in warnings
    assert any(sentence.startswith("Optimizers not raced: adabelief") for sentence in summary["not_run"])


def test_over_several_tasks_ratios_are_to_the_quickest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        path = Path(write_task(tmp_path / name).removesuffix(":build_task"))
        path.write_text(path.read_text().replace('name="line"', f'name="{name}"'))
        references.append(f"{path}:build_task")
    chosen = settings(" ".join(references), "adam adamw", report_seeds=10, decays=())
    fields = simulated(chosen, tuned({"adam": 0.1, "adamw": 0.1}))
    for field in fields:
        for record in field.entries["adamw"].records.values():
            record["target_step"] = 20 if field.course.task.name == "one" else None
    summary = summarise(fields, chosen.protocol, "race", True)
    overall = {row["label"]: row for row in summary["overall"]["rows"]}
    assert overall["adam"]["geometric_mean"] == 1
    assert overall["adamw"]["geometric_mean"] == pytest.approx(math.sqrt(20 / 5 * 20 / 5)), "a miss counts as 20 steps"
    assert [overall[label]["targets_reached"] for label in ("adam", "adamw")] == [2, 1]
    ratios, curves = summary["overall"]["profile"]["ratios"], summary["overall"]["profile"]["curves"]
    profile = {ratio: (curves["adam"][i], curves["adamw"][i]) for i, ratio in enumerate(ratios)}
    assert profile[1.0] == (1.0, 0.0)
    assert profile[16.0] == (1.0, 0.5)
    assert "Over 2 tasks adam needed the fewest steps" in summary["headline"]

    from thalweg.lab.console import stdout

    print_results(stdout(), summary | {"wall_seconds": 61.0}, tmp_path / "report.html")
    printed = capsys.readouterr().out
    assert "Over all tasks" in printed
    assert "4.00" in printed


def test_metrics_are_written_with_their_units() -> None:
    accuracy, loss = {"unit": "%", "direction": "max"}, {"unit": "", "direction": "min"}
    assert wording.metric(accuracy, 0.9876) == "98.8\u00a0%"
    assert wording.spread(accuracy, 0.9, 0.95) == "90.0–95.0\u00a0%"
    assert (wording.metric(loss, 1.23456), wording.metric(loss, 1.2e-5), wording.metric(loss, None)) == (
        "1.235", "1.2e-05", "–",
    )  # fmt: skip
    assert wording.regret(loss, {"default": {"regret": 0.25}}) == "25\u00a0%"
    assert wording.regret(loss, {"default": {"regret": 4.0}}) == "×5"
    assert wording.regret(accuracy, {"default": {"regret": 0.031}}) == "3.1 points"
    assert [wording.seconds(value) for value in (0.25, 12.0, 125.0, 7260.0)] == [
        "0.25 s", "12.0 s", "2 min 05 s", "2 h 01 min",
    ]  # fmt: skip
