"""The command line: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

import thalweg
from lab.racing import settings, simulated, write_task
from thalweg.cli import main
from thalweg.lab.progress import LiveBoard


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command line in this process."""
    monkeypatch.setattr(sys, "argv", ["thalweg", *arguments])
    return main()


def test_race_with_json_prints_the_summary_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["race", write_task(tmp_path), "--optimizers", "sgd:momentum=0.9,adafactor", "--seeds", "1"]
    arguments += ["--budget", "tiny", "--search", "random", "--points", "1", "--report-seeds", "2", "--steps", "5"]
    arguments += ["--workers", "1", "--out", str(tmp_path / "runs"), "--json"]
    assert run(monkeypatch, *arguments) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert summary["schema"] == 2
    assert {row["label"] for row in summary["tasks"][0]["standings"]} == {"sgd(momentum=0.9)", "adafactor"}
    assert summary["tasks"][0]["steps"] == 5
    assert summary["protocol"]["search"] == "random"
    assert "line adafactor report weight_decay=0 seed=1001" in err
    assert (tmp_path / "runs" / "line" / "report.html").exists()

    assert run(monkeypatch, *arguments) == 2
    assert "--resume goes on with it, --fresh starts over" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--seeds", "2", "--resume") == 2
    assert "protocol.tune_seeds: 1 then, 2 now" in capsys.readouterr().err
    arguments.remove("--json")
    assert run(monkeypatch, *arguments, "--resume") == 0
    out = capsys.readouterr().out
    assert "Report: " in out
    assert "Warning: Tuned on 1 seed;" in out
    assert "sgd(momentum=0.9)" in out


def test_the_live_board_shows_the_task_of_the_last_run(tmp_path: Path) -> None:
    chosen = settings(write_task(tmp_path), "adam lion")
    (field,) = simulated(chosen, lambda job: 0.25 if job.name == "adam" else None)
    records = [record for entry in field.entries.values() for record in entry.records.values()]
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)
    with LiveBoard(chosen.contenders, console) as board:
        board.begin(records[:2], 40)
        board.note("a worker died")
        for record in records[2:]:
            board.ran(record, 40)
        console.print(board._picture())
    assert "a worker died" in shown.getvalue()
    assert "loss 0.25" in shown.getvalue()
    assert "diverged: training loss was nan" in shown.getvalue()
    assert f"{len(records)}/40" in shown.getvalue()


@pytest.mark.usefixtures("no_report")
def test_a_sweep_finds_what_it_is_told_to_search(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["sweep", write_task(tmp_path), "adam", "--space", "lr=1e-3:1:log", "--space", "betas.0=0.5,0.9"]
    arguments += ["--trials", "6", "--seeds", "1", "--report-seeds", "2", "--search", "grid", "--workers", "1"]
    assert run(monkeypatch, *arguments, "--out", str(tmp_path / "runs"), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["name"] == "sweep-adam"
    (row,) = summary["tasks"][0]["standings"]
    assert len(row["grid"]) == 6
    assert {cell["searched"]["betas.0"] for cell in row["grid"]} == {0.5, 0.9}
    assert row["chosen"]["searched"]["betas.0"] in (0.5, 0.9)
    best = min(cell["validation"]["median"] for cell in row["grid"] if cell["validation"])
    (chosen,) = [cell for cell in row["grid"] if cell["lr"] == row["chosen"]["lr"]
                 and cell["searched"] == row["chosen"]["searched"]]  # fmt: skip
    assert chosen["validation"]["median"] == best


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["race", "digts"], "did you mean digits"),
        (["race", "digits", "--optimizers", "adm"], "did you mean adam"),
        (["race", "digits", "--optimizers", "adam", "--resume", "--fresh"], "exclude each other"),
        (["race", "digits", "--optimizers", "adam", "--name", "a/b"], "single directory name"),
        (["race", "digits", "--seeds", "0"], "--seeds"),
        (["race", "digits", "--budget", "smal"], "did you mean small"),
        (["race", "digits", "--search", "gird"], "did you mean grid"),
        (["race", "wine", "--storage", "nonsense"], "give an Optuna storage URL"),
        (["race"], "Missing argument"),
        (["sweep", "wine", "adam", "--space", "lr=3"], "write name=low:high"),
        (["sweep", "wine", "adam", "--space", "betas.2=0.1:0.2"], "betas.2 is no number of adam"),
        (["sweep", "wine", "adam", "--space", "beta=0.1:0.2"], "did you mean betas"),
        (["show", "lyon"], "did you mean lion"),
        (["bench", "step", "--optimizers", "adm"], "did you mean adam"),
        (["bench", "step", "--set", "gpt2-smal"], "did you mean gpt2-small"),
        (["frobnicate"], "No such command"),
    ],
)
def test_usage_errors_exit_with_2_and_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_schedules(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "schedules", "--json") == 0
    rows = {row["name"]: row["formula"] for row in json.loads(capsys.readouterr().out)}
    assert rows["Step"] == "f(k) = gamma^floor(k/every)"
    assert run(monkeypatch, "schedules") == 0
    assert rows.keys() <= set(capsys.readouterr().out.split())


def test_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "memory", "adamw", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"] == 8
    assert list(found["totals"].values()) == [16, 12, 16, 18, 20, 8]
    assert run(monkeypatch, "memory", "adafactor", "--shape", "64x64") == 0
    assert "64x64" in capsys.readouterr().out
    assert run(monkeypatch, "memory", "adamw", "--shape", "x") != 0
    assert "not a shape" in capsys.readouterr().err


def test_techniques(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "techniques", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["lookahead"]["place"] == "outer"
    assert rows["eps_inside"]["needs"]
    assert all(row["title"] and row["source"] and row["optimizers"] == len(row["admitting"]) for row in rows.values())
    assert "adamw" in rows["eps_inside"]["admitting"]
    assert "sgd" not in rows["eps_inside"]["admitting"]
    assert run(monkeypatch, "techniques") == 0
    assert rows.keys() <= set(capsys.readouterr().out.split())


def test_list_and_show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "list", "--json") == 0
    assert "adam" in {entry["name"] for entry in json.loads(capsys.readouterr().out)}
    assert run(monkeypatch, "list") == 0
    assert "adamw" in capsys.readouterr().out
    assert run(monkeypatch, "show", "adam", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["defaults"]["lr"] == pytest.approx(1e-3)
    assert found["state_bytes_per_parameter"] == pytest.approx(8, abs=0.1)
    assert run(monkeypatch, "show", "adam") == 0
    assert "8 bytes per parameter" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setattr(thalweg, "lab", thalweg.lab)  # what is imported below takes its place until the test is over
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.startswith("thalweg.lab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert run(monkeypatch, "list") == 2
    assert f"needs {package}" in (err := capsys.readouterr().err)
    assert "pip install 'thalweg[lab]'" in err


def test_a_missing_package_is_noticed_before_the_race(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert run(monkeypatch, "race", "digits") == 2
    assert "needs vl_convert" in capsys.readouterr().err
