"""Other libraries beside this one: who is paired with whom, what a row holds, and what is said of the missing."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn import Parameter

import thalweg
from lab.bench_optimizers import Plain
from thalweg.cli import main
from thalweg.lab import bench_pairs, bench_peers, bench_worker, peers
from thalweg.lab.bench_probes import state_bytes
from thalweg.lab.errors import LabError
from thalweg.lab.parameter_sets import parameter_set
from thalweg.lab.peers import FAMILIES, LIBRARIES, Pair, pairs


def test_every_name_of_ours_is_registered_and_every_library_has_families() -> None:
    assert {name for family in FAMILIES for name in family.classes} <= set(thalweg.list_optimizers())
    assert {family.library for family in FAMILIES} == set(LIBRARIES)
    assert len({(family.library, family.variant) for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize("pair", pairs(None, ["torch.optim"]), ids=lambda p: f"{p.name} {p.variant}")
def test_torchs_are_what_ours_are(pair: Pair) -> None:
    """The same class of rule keeps the same state; a wrong pairing shows in its bytes."""
    held = []
    for build in (bench_worker.library_factory("foreach", **pair.our_options), lambda _, named: pair.build(named)):
        named = pair.parameters(bench_worker.make_parameters(parameter_set("tiny")))
        opt = build(pair.name, named)
        opt.step()
        elements = sum(param.numel() for _, param in named)
        held.append(state_bytes(opt) / elements)
    assert held[0] == pytest.approx(held[1], abs=0.05)


def test_muon_is_measured_on_hidden_matrices_alone() -> None:
    named = [(name, Parameter(torch.empty(shape, device="meta"))) for name, shape in parameter_set("gpt2-small")]
    kept = Pair("muon", "torch.optim", "default").parameters(named)
    assert len(kept) == 48
    assert {name.rpartition(".h.")[0] for name, _ in kept} == {"transformer"}
    assert Pair("adamw", "torch.optim", "fused").parameters(named) == named


def test_options_make_ours_the_like_of_theirs() -> None:
    assert Pair("adamw", "torchao", "8 bits").our_options == {"state": "int8"}
    assert Pair("muon", "torch.optim", "default").our_options == {"ns_dtype": "bfloat16"}
    assert Pair("lion", "pytorch_optimizer", "compile").theirs == ("Lion", {"compile": True})
    assert Pair("sm3", "pytorch_optimizer", "default").theirs == ("SM3", {"momentum": 0.9})


def test_a_row_holds_both_sides_on_memory_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def build(self: Pair, named: Any) -> Plain:
        given.extend(named)
        return Plain(named)

    real = bench_worker.make_parameters

    def make(*args: Any) -> Any:
        given.extend(real(*args))
        return given[:]

    monkeypatch.setattr(Pair, "build", build)
    monkeypatch.setattr(bench_pairs, "make_parameters", make)
    row = bench_pairs.measure(Pair("adamw", "torch.optim", "fused"), "tiny", repeats=2, engine="foreach")
    ours, theirs = given[:10], given[10:]
    for (_, own), (_, copy) in zip(ours, theirs, strict=True):
        assert own.data_ptr() != copy.data_ptr()
        assert own.grad.data_ptr() != copy.grad.data_ptr()
        assert torch.equal(own.grad, copy.grad)
    assert row["ratio"]["q1"] <= row["ratio"]["median"] <= row["ratio"]["q3"]
    assert row["ours"]["state_bytes_per_parameter"] == pytest.approx(8, abs=0.01)
    assert row["theirs"]["state_bytes_per_parameter"] == 0
    assert row["theirs"]["extra_bytes_per_parameter"] > 0
    assert row["ours"]["finite"]
    assert row["theirs"]["finite"]
    assert row["ours"]["first_step_s"] > 0
    assert json.loads(json.dumps(row)) == row


def text_of(result: dict[str, Any]) -> str:
    output = io.StringIO()
    Console(file=output, width=120).print(bench_peers.render(result))
    return output.getvalue()


def test_a_pair_is_measured_in_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_peers.in_fresh_process

    def fresh(request: dict[str, Any], *rest: Any) -> dict[str, Any]:
        return bench_pairs.answer(request) if request["kind"] == "libraries" else real(request, *rest)

    monkeypatch.setattr(bench_peers, "in_fresh_process", fresh)
    monkeypatch.setitem(peers.LIBRARIES, "timm", ("thalweg.no_such_module", "timm"))
    result = bench_peers.run_peer_benchmark(
        ["muon"], ["torch.optim", "timm"], "tiny", repeats=2, threads=1, budget_s=1.0
    )
    assert json.loads(json.dumps(result)) == result
    (row,) = result["rows"]
    assert (row["name"], row["library"], row["variant"]) == ("muon", "torch.optim", "default")
    assert row["parameters"] == 64 * 128
    assert row["ratio"]["median"] > 0
    text = text_of(result)
    assert "muon (ns_dtype=bfloat16)" in text
    assert "not measured, as it cannot be imported: timm (ModuleNotFoundError" in text


def answering(ratios: dict[str, float | None]) -> Any:
    def answer(request: dict[str, Any], *_: Any) -> dict[str, Any]:
        if request["kind"] == "libraries":
            found = {key: {"version": "1"} for key in request["libraries"]}
            return {"name": "libraries", "found": found | {"timm": {"error": "ModuleNotFoundError: no timm"}}}
        ratio = ratios[request["name"]]
        if ratio is None:
            return {"name": request["name"], "error": "broken"}
        side = {"step_ms": {"median": 1.0}, "first_step_s": 1.0, "state_bytes_per_parameter": 8.0}
        side |= {"extra_bytes_per_parameter": 0.0, "finite": True}
        spread = {"median": ratio, "q1": ratio, "q3": ratio}
        return {"ratio": spread, "ours": side, "theirs": side, "options": {"ours": {}, "theirs": {}}}

    return answer


def test_the_geometric_mean_is_over_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, "in_fresh_process", answering({"adamw": 2.0, "lion": 8.0, "lamb": None}))
    result = bench_peers.run_peer_benchmark(["adamw", "lion", "lamb"], ["pytorch_optimizer", "timm"], "tiny")
    default, compiled = result["means"]
    assert default == {
        "library": "pytorch_optimizer", "variant": "default", "optimizers": 2, "ratio": pytest.approx(4.0),
        "failed": ["lamb"],
    }  # fmt: skip
    assert compiled["variant"] == "compile"
    assert result["missing"] == {"timm": "ModuleNotFoundError: no timm"}
    text = text_of(result)
    assert "4.00" in text
    assert "lamb, pytorch_optimizer: broken" in text
    assert "no timm" in text


def test_unknown_libraries_and_empty_choices_are_refused() -> None:
    with pytest.raises(LabError, match="did you mean torchao"):
        bench_peers.run_peer_benchmark(["adamw"], ["torcha"], "tiny")
    with pytest.raises(LabError, match="none of timm has any of sgd"):
        bench_peers.run_peer_benchmark(["sgd"], ["timm"], "tiny")


def test_a_library_that_fails_to_load_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.LIBRARIES, "timm", ("thalweg.no_such_module", "thalweg"))
    assert bench_pairs.found("timm") == {"error": "ModuleNotFoundError: No module named 'thalweg.no_such_module'"}
    assert bench_pairs.found("torch.optim") == {"version": torch.__version__}


def test_state_in_lists_and_in_tensor_subclasses_is_counted() -> None:
    class Nested(Plain):
        pass

    opt = Nested([Parameter(torch.ones(2))])
    opt.state[opt.param_groups[0]["params"][0]] = {
        "a": [torch.zeros(3), {"b": torch.zeros(2, dtype=torch.uint8)}],
        "c": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged),
        "n": 3,
    }
    inner = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    parts = sum(getattr(inner, part).nbytes for part in inner.__tensor_flatten__()[0])
    assert state_bytes(opt) == 12 + 2 + parts


def test_the_command_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_peers, "in_fresh_process", answering({"adamw": 3.0}))
    line = ["thalweg", "bench", "peers", "--optimizers", "adamw", "--with", "pytorch_optimizer"]
    line += ["--json", "--set", "tiny"]
    monkeypatch.setattr(sys, "argv", line)
    assert main() == 0
    assert json.loads(capsys.readouterr().out)["means"][0]["ratio"] == pytest.approx(3.0)
    monkeypatch.setattr(sys, "argv", [*line[:-1], "tyny"])
    assert main() == 2
    assert "did you mean tiny" in capsys.readouterr().err
