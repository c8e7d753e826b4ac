"""``thalweg memory MODEL NAME`` says before training what training then holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thalweg
from thalweg.accounting import memory
from thalweg.cli import main
from thalweg.lab.errors import LabError
from thalweg.lab.estimate import estimate, load_model, precision_rows

MODEL = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 256), nn.LayerNorm(256), nn.Linear(256, 10))

def on_the_host():
    model = nn.Linear(3, 2)
    assert float(model.weight.sum()) == float(model.weight.sum())  # no number on the meta device
    return model

class Odd: ...
odd = Odd
instance = nn.Linear(4, 3)

def failing():
    raise RuntimeError("no such checkpoint")

def frozen():
    return nn.Linear(2, 2).requires_grad_(False)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


@pytest.mark.parametrize("state", ["float32", "int8"])
@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_the_estimate_is_what_training_then_holds(file: Path, name: str, state: str) -> None:
    model = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 256), nn.LayerNorm(256), nn.Linear(256, 10))
    opt = thalweg.create(name, model, state=state)
    model(torch.arange(8)).sum().backward()
    opt.step()
    held = estimate(f"{file}:build", name, state)
    assert held == memory(opt)
    real = sum(v.nbytes for s in opt.state.values() for k, v in s.items() if k != "step" and torch.is_tensor(v))
    assert sum(held.state.values()) == real


def test_a_model_is_built_without_memory_where_it_can_be(file: Path) -> None:
    assert next(load_model(f"{file}:build").parameters()).is_meta
    assert not next(load_model(f"{file}:on_the_host").parameters()).is_meta
    assert sum(p.numel() for p in load_model(f"{file}:instance").parameters()) == 15


def test_muons_two_recipes_are_counted_on_a_parameter_set() -> None:
    held = estimate("gpt2-small", "muon")
    hidden = 12 * 768 * (3 * 768 + 768 + 4 * 768 + 4 * 768)
    assert held.parameters == 124_439_808
    assert held.state["momentum_buffer"] == 4 * hidden
    assert held.state["exp_avg"] == held.state["exp_avg_sq"] == 4 * (held.parameters - hidden)
    assert held.total == 8 * held.parameters + 4 * hidden + 8 * (held.parameters - hidden)


def test_precisions_add_up() -> None:
    held = estimate("tiny", "adamw")
    rows = precision_rows(held)
    for row in rows:
        assert row["total"] == sum(row[key] for key in ("weights", "gradients", "master", "state"))
    assert rows[0]["total"] == held.total == 16 * held.parameters
    assert rows[-1]["total"] == 8 * held.parameters


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nope", "unknown model 'nope'.*file.py:function"),
        ("missing.py:build", "no such task file"),
        ("{file}:absent", "defines no 'absent'"),
        ("{file}:odd", "gave Odd, not a torch.nn.Module"),
        ("{file}:failing", "RuntimeError: no such checkpoint"),
        ("{file}:frozen", "no parameter that is trained"),
    ],
)
def test_what_is_no_model_is_refused(file: Path, reference: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        estimate(reference.format(file=file), "adamw")


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    def run(*arguments: Any) -> int:
        monkeypatch.setattr(sys, "argv", ["thalweg", "memory", *map(str, arguments)])
        return main()

    assert run(f"{file}:build", "muon", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["state"]["momentum_buffer"] == 4 * 64 * 256
    assert found["precisions"][0]["total"] == found["total"]
    assert run("gpt2-small", "lion", "--state", "int8") == 0
    out = capsys.readouterr().out
    assert "exp_avg_scale" in out
    assert "state stored as int8" in out
    assert run("lion") == 0
    assert "on a parameter of 512x1024" in capsys.readouterr().out
    for refused in (("lion", "--state", "int8"), ("tiny", "lion", "--shape", "4x4"), ("tiny", "lyon")):
        assert run(*refused) == 2
    assert "did you mean lion" in capsys.readouterr().err
    assert run("tiny", "lion", "--state", "int7") == 2
    assert "legal are float32" in capsys.readouterr().err
