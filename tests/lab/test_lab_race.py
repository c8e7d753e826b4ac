"""Races from end to end, and what happens when something goes wrong in the middle of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.racing import metrics, settings, write_task
from thalweg.lab import chars, digits
from thalweg.lab.errors import LabError
from thalweg.lab.race import Result, race
from thalweg.lab.trial import Job, run_trial

Finished = tuple[Path, str, Result]


def test_a_race_runs_every_cell_and_writes_its_files(finished: Finished) -> None:
    directory, _, result = finished
    assert result.complete
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "results.jsonl",
        "summary.json",
        "report.html",
    }
    lines = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    assert len(lines) == len(result.records) >= 2 * 2 * 3
    assert {line["status"] for line in lines} <= {"finished", "diverged"}
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["complete"]
    assert {row["label"] for row in summary["ranking"]} == {"sgd", "adam"}
    for row in summary["ranking"]:
        assert len(row["seeds"]) == 2
        assert row["state_bytes_per_parameter"] is not None
        assert row["step_ms"] > 0


def test_initialisation_and_batches_are_paired_by_seed(finished: Finished) -> None:
    starts: dict[int, set[float]] = {}
    for record in finished[2].records:
        starts.setdefault(record["seed"], set()).add(record["curve"]["validation"][0])
    assert {seed: len(values) for seed, values in starts.items()} == {0: 1, 1: 1}
    assert starts[0] != starts[1]


def test_workers_and_order_do_not_change_the_results(finished: Finished, tmp_path: Path) -> None:
    _, reference, result = finished
    assert metrics(race(settings(reference), tmp_path / "alone", workers=1)) == metrics(result)


def test_a_finished_race_is_resumed_without_running_anything(finished: Finished, tmp_path: Path) -> None:
    original, reference, result = finished
    directory = tmp_path / "race"
    shutil.copytree(original, directory)
    before = (directory / "results.jsonl").read_bytes()
    again = race(settings(reference), directory, mode="resume")
    assert (directory / "results.jsonl").read_bytes() == before
    assert metrics(again) == metrics(result)
    with pytest.raises(LabError, match="seeds: 2 then, 3 now"):
        race(settings(reference, seeds=3), directory, mode="resume")


def test_divergence_is_a_result(tmp_path: Path) -> None:
    result = race(settings(write_task(tmp_path), "sgd:lr=1e6", seeds=1, points=1), tmp_path / "race", workers=1)
    first = next(record for record in result.records if record["cell"] == 0)
    assert first["status"] == "diverged"
    assert first["reason"].startswith("training loss")
    assert first["test"] is None
    assert result.complete


def test_a_killed_worker_costs_one_retry(tmp_path: Path) -> None:
    marker = tmp_path / "killed"
    kill = f"m = Path({str(marker)!r})\n        if seed == 1 and not m.exists():\n            m.touch()\n"
    kill += "            os.kill(os.getpid(), signal.SIGKILL)"
    result = race(settings(write_task(tmp_path, kill), "sgd", points=1), tmp_path / "race", workers=2)
    assert marker.exists()
    assert {record["status"] for record in result.records} <= {"finished", "diverged"}
    assert max(record["attempts"] for record in result.records) == 2


def test_a_run_that_kills_its_worker_twice_has_failed(tmp_path: Path) -> None:
    kill = "if seed == 1: os._exit(3)"
    result = race(settings(write_task(tmp_path, kill), "adafactor"), tmp_path / "race", workers=2)
    failed = [record for record in result.records if record["status"] == "failed"]
    assert failed
    assert {record["seed"] for record in failed} == {1}
    assert failed[0]["attempts"] == 2
    assert "exit code 3" in failed[0]["reason"]
    assert "exit code 3" in (tmp_path / "race" / "report.html").read_text()


def test_a_broken_task_stops_the_race_at_once(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"every run so far has failed.*ZeroDivisionError"):
        race(settings(write_task(tmp_path, "1 / 0")), tmp_path / "race", workers=1)


def test_ctrl_c_leaves_a_partial_report_and_resume_finishes_it(tmp_path: Path, finished: Finished) -> None:
    reference = write_task(tmp_path, pause=0.01)
    command = [sys.executable, "-m", "thalweg.cli", "race", reference, "--optimizers", "sgd,adam", "--seeds", "2"]
    command += ["--points", "3", "--out", str(tmp_path), "--name", "race", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    results = tmp_path / "race" / "results.jsonl"
    deadline = time.monotonic() + 60
    while not (results.exists() and results.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline, "the race did not get going"
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    summary = json.loads((tmp_path / "race" / "summary.json").read_text())
    assert not summary["complete"]
    assert "This report is partial" in (tmp_path / "race" / "report.html").read_text()

    made = results.read_text().splitlines()
    resumed = race(settings(reference), tmp_path / "race", mode="resume", workers=2)
    assert resumed.complete
    assert results.read_text().splitlines()[: len(made)] == made
    assert metrics(resumed) == metrics(finished[2])


@pytest.mark.parametrize("build", [digits.build_task, chars.build_task])
@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_built_in_tasks_train_and_repeat_exactly(build, name: str) -> None:
    task = build()
    first, second = (run_trial(task, Job(name, name, {}, 0, 1e-3, 0, 3)) for _ in range(2))
    assert first["status"] == "finished"
    assert first["curve"]["step"] == [0, 3]
    assert first["curve"]["validation"] == second["curve"]["validation"]
    assert first["test"] == second["test"]
