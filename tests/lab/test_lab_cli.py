"""The command line: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lab.racing import write_task
from thalweg.cli import main


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command line in this process."""
    monkeypatch.setattr(sys, "argv", ["thalweg", *arguments])
    return main()


def test_race_with_json_prints_the_summary_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["race", write_task(tmp_path), "--optimizers", "sgd:momentum=0.9,adam:betas=(0.8,0.9)", "--seeds", "1"]
    arguments += ["--points", "1", "--steps", "5", "--out", str(tmp_path / "runs"), "--json"]
    assert run(monkeypatch, *arguments) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert {row["label"] for row in summary["ranking"]} == {"sgd(momentum=0.9)", "adam(betas=(0.8, 0.9))"}
    assert summary["configuration"]["task"]["steps"] == 5
    assert "adam(betas=(0.8, 0.9))" in err
    assert (tmp_path / "runs" / "line" / "report.html").exists()

    assert run(monkeypatch, *arguments) == 2
    assert "--resume goes on with it, --fresh starts over" in capsys.readouterr().err
    assert run(monkeypatch, *arguments, "--seeds", "2", "--resume") == 2
    assert "seeds: 1 then, 2 now" in capsys.readouterr().err
    arguments.remove("--json")
    assert run(monkeypatch, *arguments, "--resume") == 0
    out = capsys.readouterr().out
    assert "Report: " in out
    assert "sgd(momentum=0.9)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["race", "digts"], "did you mean digits"),
        (["race", "digits", "--optimizers", "adm"], "did you mean adam"),
        (["race", "digits", "--optimizers", "adam", "--resume", "--fresh"], "exclude each other"),
        (["race", "digits", "--optimizers", "adam", "--name", "a/b"], "single directory name"),
        (["race", "digits", "--seeds", "0"], "--seeds"),
        (["race"], "Missing argument"),
        (["show", "lyon"], "did you mean lion"),
        (["bench", "step", "--optimizers", "adm"], "did you mean adam"),
        (["bench", "step", "--set", "gpt2-smal"], "did you mean gpt2-small"),
        (["frobnicate"], "No such command"),
    ],
)
def test_usage_errors_exit_with_2_and_name_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


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
    for name in [name for name in sys.modules if name.partition(".")[0] == package or name.startswith("thalweg.lab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert run(monkeypatch, "list") == 2
    assert f"needs {package}" in (err := capsys.readouterr().err)
    assert "pip install 'thalweg[lab]'" in err


def test_a_missing_plotly_is_noticed_before_the_race(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert run(monkeypatch, "race", "digits") == 2
    assert "needs plotly" in capsys.readouterr().err
