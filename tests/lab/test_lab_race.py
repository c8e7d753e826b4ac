"""Races from end to end, and what happens when something goes wrong in the middle of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.racing import settings, write_task
from lab.test_lab_sharing import wait_for
from thalweg.lab.errors import LabError
from thalweg.lab.loading import load_task
from thalweg.lab.race import Result, race
from thalweg.lab.trial import Job, Point, run_trial

Finished = tuple[Path, str, Result]


def one_run(reference: str, name: str, point: Point = (), seed: int = 0) -> dict[str, object]:
    """A run in this process."""
    return run_trial(load_task(reference), Job(reference, "task", "tune", name, name, {}, point, seed, 20, 20))


def test_a_race_makes_every_run_and_writes_its_files(finished: Finished) -> None:
    directory, _, result = finished
    assert result.complete
    assert {path.name for path in directory.iterdir()} == {
        "config.json", "study.db", "results.jsonl", "summary.json", "report.html", "charts",
    }  # fmt: skip
    lines = [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]
    assert lines == result.records
    assert {line["status"] for line in lines} <= {"finished", "diverged"}
    summary = json.loads((directory / "summary.json").read_text())
    assert summary == result.summary
    assert summary["complete"]
    (task,) = summary["tasks"]
    assert {row["label"] for row in task["standings"]} == {"sgd", "adam"}
    for row in task["standings"]:
        assert [run["seed"] for run in row["runs"]] == [1000, 1001, 1002]
        assert row["test"]["low"] <= row["test"]["median"] <= row["test"]["high"]
        assert row["bytes_per_parameter"] is not None
        assert row["step_ms"] > 0


def test_initialisation_and_batches_are_paired_by_seed(finished: Finished) -> None:
    starts: dict[int, set[float]] = {}
    for record in finished[2].records:
        starts.setdefault(record["seed"], set()).add(record["curve"]["validation"][0])
    assert {seed: len(values) for seed, values in starts.items()} == dict.fromkeys([0, 1, 1000, 1001, 1002], 1)
    assert len(set.union(*starts.values())) == 5


@pytest.mark.usefixtures("no_report")
def test_a_finished_race_is_resumed_without_running_anything(finished: Finished, tmp_path: Path) -> None:
    original, reference, result = finished
    directory = tmp_path / "race"
    shutil.copytree(original, directory)
    again = race(settings(reference), directory, mode="resume")
    assert again.records == result.records
    with pytest.raises(LabError, match="report_seeds: 3 then, 4 now"):
        race(settings(reference, report_seeds=4), directory, mode="resume")
    with pytest.raises(LabError, match=r"--resume goes on with it, --fresh starts over"):
        race(settings(reference), directory)
    with pytest.raises(LabError, match="no race to resume"):
        race(settings(reference), tmp_path / "elsewhere", mode="resume")


def test_a_run_repeats_exactly(tmp_path: Path) -> None:
    reference = write_task(tmp_path)
    first, second = (one_run(reference, "adam", (("lr", 0.01),)) for _ in range(2))
    for record in (first, second):
        assert record["status"] == "finished"
        assert isinstance(record["curve"], dict)
        del record["curve"]["seconds"]
    assert first["curve"] == second["curve"]
    assert first["test"] == second["test"]


def test_a_run_of_successive_halving_stops_early(tmp_path: Path) -> None:
    reference = write_task(tmp_path)
    whole = one_run(reference, "adam", (("lr", 0.01),))
    job = Job(reference, "line", "tune", "adam", "adam", {}, (("lr", 0.01),), 0, 20, 7)
    short = run_trial(load_task(reference), job)
    assert job.key == "line adam tune lr=0.01 steps=7 seed=0"
    assert (whole["steps"], short["steps"]) == (20, 7)
    assert isinstance(whole["curve"], dict)
    assert short["curve"]["validation"] == whole["curve"]["validation"][:8]


def test_divergence_is_a_result(tmp_path: Path) -> None:
    record = one_run(write_task(tmp_path), "sgd", (("lr", 1e6),))
    assert record["status"] == "diverged"
    assert str(record["reason"]).startswith("training loss")
    assert record["test"] is None


SPARSE = """
import torch
from torch import nn
from thalweg.lab import Task

class Table:
    def __init__(self, seed):
        self.model = nn.Embedding(4, 2, sparse=True)
    def batches(self):
        while True:
            yield torch.tensor([1, 2])
    def loss(self, batch):
        return self.model(batch).square().mean()
    def evaluate(self, split):
        return {"loss": self.model.weight.square().mean().item()}

def build_task():
    return Task(name="table", statement="", metric="loss", direction="min", target=0.1, steps=20, build=Table)
"""


@pytest.mark.usefixtures("no_report")
def test_an_optimizer_that_cannot_train_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "table.py").write_text(SPARSE)
    reference = f"{tmp_path}/table.py:build_task"
    result = race(settings(reference, "lamb"), tmp_path / "race", workers=1)
    (row,) = result.summary["tasks"][0]["standings"]
    assert (row["status"], row["chosen"]) == ("refused", None)
    assert row["reason"].startswith("LAMB does not support sparse gradients")
    assert [record["status"] for record in result.records] == ["refused"], "one run says it all"
    assert result.complete
    refused = one_run(reference, "lamb")
    assert refused["status"] == "refused"
    assert "does not support sparse gradients" in str(refused["reason"])
    assert one_run(reference, "sparseadam")["status"] == "finished"
    illegal = one_run(write_task(tmp_path), "adam", (("betas.0", 1.5),))
    assert illegal["status"] == "refused"
    assert "1.5" in str(illegal["reason"])


@pytest.mark.usefixtures("no_report")
def test_a_run_that_kills_its_worker_twice_has_failed(tmp_path: Path) -> None:
    chosen = settings(write_task(tmp_path, "if seed == 1: os._exit(3)"), "adafactor", decays=(), report_seeds=1)
    result = race(chosen, tmp_path / "race", workers=1)
    (failed,) = [record for record in result.records if record["status"] == "failed"]
    assert (failed["seed"], failed["attempts"]) == (1, 2)
    assert "exit code 3" in failed["reason"]
    assert result.complete
    assert "On line 1 run failed and counted as not made." in result.summary["warnings"]


def test_a_broken_task_stops_the_race_at_once(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"every run so far has failed.*ZeroDivisionError"):
        race(settings(write_task(tmp_path, "1 / 0")), tmp_path / "race", workers=1)


def test_ctrl_c_leaves_a_partial_report(tmp_path: Path) -> None:
    log = tmp_path / "log"
    reference = write_task(tmp_path, f"open({str(log)!r}, 'a').write('.')", pause=0.01)
    command = [sys.executable, "-m", "thalweg.cli", "race", reference, "--optimizers", "sgd,adam", "--budget", "tiny"]
    command += ["--out", str(tmp_path), "--name", "race", "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs lack it
    )  # fmt: skip
    wait_for(lambda: log.exists() and len(log.read_text()) >= 4, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the worker gets it, too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    summary = json.loads((tmp_path / "race" / "summary.json").read_text())
    assert not summary["complete"]
    assert "The race was interrupted: what it shows is partial." in summary["warnings"]
    assert any("runs are missing of" in sentence for sentence in summary["not_run"])
    assert (tmp_path / "race" / "report.html").exists()
