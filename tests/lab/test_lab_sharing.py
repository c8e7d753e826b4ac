"""Processes that share one race: no run twice, none lost, whoever is killed. The kills are real."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.racing import metrics, race_metrics, settings, timeless, write_task
from thalweg.lab.errors import LabError
from thalweg.lab.ledger import Ledger
from thalweg.lab.race import Result, race

pytestmark = pytest.mark.usefixtures("no_report")

# Every attempt leaves a line; opened for appending, lines of several processes do not mix.
LOG = "open({path!r}, 'a').write(f'{{seed}} {{os.getpid()}}\\n')"


def start(reference: str, folder: Path, *more: str) -> subprocess.Popen[str]:
    """The race of `settings`, as a process of its own."""
    script = "import sys; from lab.racing import main; main(*sys.argv[1:])"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", script, reference, str(folder), *more],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], *processes: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def attempts(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_two_processes_make_every_run_once_and_agree(tmp_path: Path, finished: tuple[Path, str, Result]) -> None:
    log = tmp_path / "log"
    reference = write_task(tmp_path, LOG.format(path=str(log)))
    storage = f"sqlite:///{tmp_path}/shared.db"
    processes = [start(reference, tmp_path / side / "race", storage) for side in "ab"]
    for process in processes:
        assert process.wait(90) == 0, process.communicate()[1]
    summaries = [json.loads((tmp_path / side / "race" / "summary.json").read_text()) for side in "ab"]
    assert [summary["complete"] for summary in summaries] == [True, True]
    for side in "ab":
        assert race_metrics(tmp_path / side / "race") == metrics(finished[2])
    assert attempts(log) == len(finished[2].records), "a run was made twice"
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2, "only one process took part"


def test_what_a_killed_worker_and_a_killed_parent_had_in_flight_is_made_again_and_nothing_else(
    tmp_path: Path, finished: tuple[Path, str, Result]
) -> None:
    log = tmp_path / "log"
    reference = write_task(tmp_path, LOG.format(path=str(log)), pause=0.01)
    process = start(reference, tmp_path / "race")
    wait_for(lambda: attempts(log) >= 4, process)
    os.kill(int(log.read_text().splitlines()[-1].split()[1]), signal.SIGKILL)  # the worker, in its fourth run
    wait_for(lambda: attempts(log) >= 8, process)
    process.kill()
    process.wait()
    resumed = race(settings(reference), tmp_path / "race", mode="resume", workers=1)
    assert resumed.complete
    assert metrics(resumed) == metrics(finished[2])
    assert timeless(resumed.summary["tasks"]) == timeless(finished[2].summary["tasks"])
    assert max(record["attempts"] for record in resumed.records) == 2
    assert len(resumed.records) <= attempts(log) <= len(resumed.records) + 2


def ledger(path: Path, configuration: Any = None) -> Ledger:
    found = Ledger(f"sqlite:///{path}/study.db", "race")
    found.join(configuration or {})
    return found


def test_of_two_claims_one_holds_and_a_released_run_is_free(tmp_path: Path) -> None:
    one, two = ledger(tmp_path), ledger(tmp_path)
    trial = one.claim("s", "run")
    assert trial is not None
    assert two.claim("s", "run") is None
    assert two.read("s") == {"run": None}
    one.release(trial)
    assert two.read("s") == {}
    again = two.claim("s", "run")
    assert again is not None
    assert not one.finish(trial, {"status": "finished"}), "a trial that was given up must not count"
    assert two.finish(again, {"status": "finished"}, 0.5)
    assert one.read("s") == {"run": {"status": "finished"}}


def test_runs_of_a_silent_process_elsewhere_are_given_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = {"now": 1000.0}
    monkeypatch.setattr("thalweg.lab.ledger.time.monotonic", lambda: clock["now"])
    here = ledger(tmp_path)
    monkeypatch.setattr("thalweg.lab.machine.host", lambda: "another machine")
    there = ledger(tmp_path)
    assert there.claim("s", "run") is not None
    monkeypatch.undo()
    monkeypatch.setattr("thalweg.lab.ledger.time.monotonic", lambda: clock["now"])
    for _ in range(5):
        clock["now"] += 50
        there.beat(force=True)
        assert here.read("s") == {"run": None}, "it speaks, so it lives"
    clock["now"] += 61
    assert here.read("s") == {}
    assert here.claim("s", "run") is not None


def test_failures_are_tried_again_by_the_next_session_only(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    trial = one.claim("s", "run")
    assert trial is not None
    one.finish(trial, {"status": "failed"})
    assert one.read("s") == {"run": {"status": "failed"}}
    assert ledger(tmp_path).read("s") == {}


def test_a_race_at_work_is_not_started_over(tmp_path: Path) -> None:
    at_work = ledger(tmp_path)
    with pytest.raises(LabError, match="another process is racing"):
        ledger(tmp_path).clear()
    at_work.leave()


def test_a_storage_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, though it has the length of a header" * 9)
    with pytest.raises(LabError, match=r"file cannot be opened .* give an Optuna storage URL"):
        Ledger(f"sqlite:///{tmp_path}/file", "race")
    with pytest.raises(LabError, match="cannot be opened"):
        Ledger("nonsense", "race")


def test_a_claim_and_a_record_cost_little(tmp_path: Path) -> None:
    one = ledger(tmp_path)
    record = {
        "status": "finished",
        "curve": {name: [0.123456789] * 21 for name in ("step", "train_loss", "validation")},
    }
    spent = collections.deque[float]()
    for number in range(40):
        start = time.process_time()
        assert f"run {number}" not in one.read("s")
        trial = one.claim("s", f"run {number}")
        assert trial is not None
        one.finish(trial, record, 0.5)
        spent.append(time.process_time() - start)
    assert sorted(spent)[20] < 0.030
