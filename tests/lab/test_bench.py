"""The step benchmark counts, pairs and reports what it says it does; no test looks at how fast anything is."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from typing import Any

import pytest
import torch
from rich.console import Console

from lab.bench_optimizers import Plain, build
from thalweg.engine import family
from thalweg.engine.native import build as build_module
from thalweg.lab import bench, bench_probes, bench_worker
from thalweg.lab.errors import LabError, check_device


class FakeClock:
    """Time that passes only when a step says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.order = 0.0, ""
        monkeypatch.setattr(bench_worker.time, "perf_counter", lambda: self.now)

    def step(self, label: str, seconds: float) -> Any:
        def run() -> None:
            self.now += seconds
            self.order += label

        return run


def test_pairs_alternate_swap_their_order_and_keep_each_time_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    pairs = bench_worker.paired_times(clock.step("a", 2.0), clock.step("b", 1.0), repeats=4, budget_s=100)
    assert clock.order == "abbaabba"
    assert pairs == [(2.0, 1.0)] * 4


@pytest.mark.parametrize(
    ("seconds", "repeats", "budget_s", "expected"),
    [
        (1.0, 30, 0.0, bench_worker.MIN_PAIRS),  # out of budget at once: what quartiles need
        (1.0, 30, 20.0, 10),  # as many as the budget holds
        (1.0, 5, 100.0, 5),  # as many as asked
        (1e-6, 5, 100.0, 100),  # very fast: twenty times as many
        (1.0, 1, 0.0, 1),
    ],
)
def test_the_number_of_pairs_follows_repeats_and_budget(
    monkeypatch: pytest.MonkeyPatch, seconds: float, repeats: int, budget_s: float, expected: int
) -> None:
    clock = FakeClock(monkeypatch)
    step = clock.step("s", seconds)
    assert len(bench_worker.paired_times(step, step, repeats, budget_s)) == expected


def test_summary_gives_median_quartiles_and_mean() -> None:
    assert bench_worker.summary([1, 2, 3, 4, 10]) == {"median": 3, "q1": 2, "q3": 4, "mean": 4}
    assert bench_worker.summary([2.0]) == {"median": 2, "q1": 2, "q3": 2, "mean": 2}


def test_peak_extra_memory_is_the_most_held_at_once_and_not_the_sum() -> None:
    kept = torch.ones(1000)

    def step() -> None:
        first = kept + 1  # 4000 bytes
        second = first * 2  # 8000
        del first
        second.add_(kept * 2)  # 8000
        del second
        kept.add_(1)

    assert 8000 <= bench_probes.peak_extra_bytes(step) < 8100
    assert bench_probes.peak_extra_bytes(lambda: kept.add_(1)) < 100  # type: ignore[arg-type,return-value]


def test_a_step_is_measured_over_its_matrix_products() -> None:
    matrix = torch.randn(400, 400)

    def step() -> None:
        matrix @ matrix
        time.sleep(0.05)

    over = bench_probes.over_products(step)
    assert over is not None
    assert over > 2  # the product takes a few milliseconds at most, the rest fifty
    assert bench_probes.over_products(lambda: matrix.add_(1)) is None  # type: ignore[arg-type,return-value]


def test_a_row_holds_what_the_optimizer_costs_beside_both_baselines() -> None:
    shapes = [("a", (100, 10)), ("b", (50,))]
    row = bench_worker.measure("adamw", build, shapes, repeats=2, loop_baseline=True)
    assert row["state_bytes"] == 2 * 4 * 1050 + 2 * 4  # two buffers and a step count per tensor
    assert row["state_bytes_per_parameter"] == row["state_bytes"] / 1050
    assert row["words_per_element"] is row["relative_to_words"] is row["bytes_per_s"] is None
    assert row["graphs"] == row["graphs_first_step"] == 0
    assert row["finite"]
    for label in ("fused", "loop"):
        assert row[f"vs_{label}"]["q1"] <= row[f"vs_{label}"]["median"] <= row[f"vs_{label}"]["q3"]
        assert row[f"pairs_{label}"] >= 2
    assert "vs_loop" not in bench_worker.measure("adamw", build, shapes, repeats=1)


def test_another_optimizer_may_be_paired_with() -> None:
    built: list[str] = []

    def factory(name: str, named: list[tuple[str, torch.nn.Parameter]]) -> torch.optim.Optimizer:
        built.append(name)
        return build("plain", named)

    row = bench_worker.measure("plain", factory, [("a", (1000,))], repeats=2, beside="other")
    assert built == ["plain", "other"]
    assert row["vs_beside"]["median"] > 0
    result = {"rows": [row], "set": "gpt2-small", "parameters": 1000, "tensors": 1, "engine": "auto"}
    result |= {"provenance": bench.provenance(2), "beside": "other"}
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(bench.render(result))
    text = " ".join(console.export_text().split())
    assert "÷ beside" in text
    assert "paired in the same way with other" in text


def test_declared_words_give_the_bandwidth_and_the_ratio_to_words() -> None:
    row = bench_worker.measure("plain", build, [("a", (1000,))], repeats=2)
    assert row["words_per_element"] == 3.5
    assert row["relative_to_words"]["median"] == pytest.approx(2 * row["vs_fused"]["median"])
    assert row["bytes_per_s"] == pytest.approx(4 * 3.5 * 1000 / (row["step_ms"]["median"] / 1e3))
    assert 8000 <= row["peak_extra_bytes"] < 8200  # its two temporaries


def test_the_baseline_copies_parameters_and_shares_gradients() -> None:
    named = bench_worker.make_parameters([("a", (5, 5)), ("b", (3,))])
    copies = bench_worker.sharing_gradients(named)
    for (_, param), copy in zip(named, copies, strict=True):
        assert copy.grad is param.grad
        assert torch.equal(copy, param)
        assert copy.data_ptr() != param.data_ptr()


def test_a_constant_loss_goes_to_a_step_that_takes_one_only() -> None:
    named = bench_worker.make_parameters([("a", (5,))])
    plain = Plain(named)
    bench_worker.stepper(plain)()
    bench_worker.stepper(torch.optim.SGD(named))()
    assert plain.losses == [1.0]


@pytest.mark.parametrize(
    ("counters", "expected"),
    [
        ({}, "none"),
        ({"stats": {"unique_graphs": 1}}, "cold"),  # caches disabled
        ({"inductor": {"fxgraph_cache_miss": 2}, "aot_autograd": {"autograd_cache_miss": 2}}, "cold"),
        ({"inductor": {"fxgraph_cache_hit": 1}, "aot_autograd": {"autograd_cache_hit": 1}}, "warm"),
        ({"inductor": {"fxgraph_cache_hit": 1, "fxgraph_cache_miss": 1}}, "mixed"),
    ],
)
def test_cache_state_follows_the_compilers_counters(
    monkeypatch: pytest.MonkeyPatch, counters: dict[str, Any], expected: str
) -> None:
    import torch._dynamo.utils

    monkeypatch.setattr(family, "compiled", 0)
    monkeypatch.setattr(build_module, "found", 0)
    monkeypatch.setattr(build_module, "made", 0)
    monkeypatch.setattr(torch._dynamo.utils, "counters", {"stats": {"unique_graphs": 0}} | counters)
    assert bench_probes.cache_state() == expected


def test_a_cold_run_has_an_empty_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[str] = []

    def run(*_: Any, env: dict[str, str], **__: Any) -> subprocess.CompletedProcess[str]:
        caches.append(env.get("TORCHINDUCTOR_CACHE_DIR", ""))
        assert not caches[-1] or os.listdir(caches[-1]) == []
        return subprocess.CompletedProcess([], 0, 'chatter\n{"name": "x", "error": "none"}\n', "")

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr(bench.subprocess, "run", run)
    bench.run_step_benchmark(["x", "y"], "tiny", factory=build, cold=True)
    bench.run_step_benchmark(["x"], "tiny", factory=build)
    assert caches[0] != caches[1]
    assert caches[2] == ""
    assert not any(os.path.exists(cache) for cache in caches[:2])


def test_a_child_that_dies_or_hangs_leaves_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bench.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -9, "", "noise\nKilled\n")
    )
    assert bench.run_step_benchmark(["x"], "tiny", factory=build)["rows"] == [{"name": "x", "error": "Killed"}]

    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("x", 3)

    monkeypatch.setattr(bench.subprocess, "run", hang)
    rows = bench.run_step_benchmark(["x"], "tiny", factory=build, timeout_s=3)["rows"]
    assert rows == [{"name": "x", "error": "no answer within 3 s"}]


def test_a_factory_that_a_child_cannot_import_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        bench.run_step_benchmark(["adamw"], "tiny", factory=lambda _, named: torch.optim.SGD(named))


def text_of(result: dict[str, Any]) -> str:
    output = io.StringIO()
    Console(file=output, width=100).print(bench.render(result))
    return output.getvalue()


def test_a_run_in_fresh_processes_reports_rows_errors_checks_and_provenance() -> None:
    said: list[str] = []
    result = bench.run_step_benchmark(
        ["plain", "missing"], "tiny", repeats=2, threads=1, factory=build, checks=True, progress=said.append
    )
    assert json.loads(json.dumps(result)) == result
    assert said == ["plain (1/2)", "missing (2/2)"]
    plain, missing = result["rows"]
    assert plain["name"] == "plain"
    assert plain["vs_fused"]["median"] > 0
    assert plain["vs_loop"]["median"] > 0
    assert plain["checks"] == {
        "graphs_after_fifth_step_of_churn": 0,
        "graphs_under_scaling": {"tensors": [10, 40], "graphs": [0, 0]},
    }
    assert missing == {"name": "missing", "error": "KeyError: 'missing\\nand more'"}
    assert {"thalweg", "torch", "threads", "cpu", "date", "command"} <= set(result["provenance"])
    assert result["provenance"]["threads"] == 1
    text = text_of(result)
    assert "foreach=False" in text
    assert "KeyError" in text


@pytest.mark.parametrize("set_name", ["gpt2-small", "tiny"])
def test_the_table_fits_a_hundred_columns_with_nothing_cut(set_name: str) -> None:
    row = bench_worker.measure("plain", build, [("a", (10,))], repeats=1, loop_baseline=set_name == "tiny")
    wide = dict.fromkeys(("median", "q1", "q3", "mean"), 12.34)
    row |= {"name": "adan_with_long_nam", "first_step_s": 123.45, "cache": "mixed", "vs_fused": wide, "graphs": 12}
    row |= {"words_per_element": 10.5, "bytes_per_s": 106.1e9, "step_ms": dict.fromkeys(wide, 12345.6)}
    row |= {"vs_loop": wide} if set_name == "tiny" else {}
    source = bench.provenance(2)
    result = {"set": set_name, "parameters": 10, "tensors": 1, "engine": "auto", "rows": [row], "provenance": source}
    lines = text_of(result).splitlines()
    assert any("adan_with_long_nam" in line and "123.45 mixed" in line for line in lines)
    assert not any("…" in line for line in lines)
    assert max(len(line.rstrip()) for line in lines) <= 100


def test_an_interrupted_run_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the third of four; in the first there is nothing to keep."""
    known = {"name": "a", "step_ms": {"median": 2.0}, "vs_fused": {"median": 0.5}}
    answers: list[dict[str, Any]] = []

    def answer(request: dict[str, Any], *_: Any) -> dict[str, Any]:
        if not answers:
            raise KeyboardInterrupt
        return answers.pop(0)

    monkeypatch.setattr(bench, "in_fresh_process", answer)
    with pytest.raises(KeyboardInterrupt):
        bench.run_step_benchmark(["a", "b", "c", "d"], "tiny")
    answers += [known, {"name": "b", "error": "broken"}]
    told: list[str] = []
    result = bench.run_step_benchmark(["a", "b", "c", "d"], "tiny", told=told.append)
    assert told == ["a: 2 ms, 0.50 of fused AdamW", "b: broken"]
    assert [row["name"] for row in result["rows"]] == ["a", "b"]
    assert result["left"] == 2
    assert "interrupted: 2 not measured" in str(bench.interrupted(result)[0])


def test_rows_are_sorted_by_the_ratio_with_failures_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ratios = {"slow": 2.0, "broken": None, "fast": 0.5}

    def answer(request: dict[str, Any], *_: Any) -> dict[str, Any]:
        ratio = ratios[request["name"]]
        found = {"error": "broken"} if ratio is None else {"vs_fused": {"median": ratio}}
        return {"name": request["name"], **found}

    monkeypatch.setattr(bench, "in_fresh_process", answer)
    rows = bench.run_step_benchmark(list(ratios), "tiny", factory=build)["rows"]
    assert [row["name"] for row in rows] == ["fast", "slow", "broken"]


def test_a_contenders_options_reach_the_optimizer() -> None:
    named = bench_worker.make_parameters([("weight", (64, 64)), ("bias", (64,))])
    opt = bench_worker.library_factory("foreach")("adamw:state=int8:eps=1e-7", named)
    opt.step()
    assert opt.param_groups[0]["eps"] == 1e-7
    assert opt.state[named[0][1]]["exp_avg"].dtype == torch.uint8
    muon = bench_worker.library_factory("foreach")("muon:ns_dtype=bfloat16", named)
    assert len(muon.param_groups) == 2


def test_what_an_accelerator_is_asked_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's time ends when a step returns, the device is waited for in between; a copy is read and written."""
    waited = []
    monkeypatch.setattr(bench_probes, "synchronize", waited.append)
    monkeypatch.setattr(bench_probes.time, "perf_counter", iter(range(1000)).__next__)
    assert bench_probes.host_seconds(lambda: None, "cpu", repeats=3) == 1.0
    assert len(waited) == 4
    assert bench_probes.copy_bytes_per_s("cpu", numbers=100, repeats=3) == 800.0


def test_the_table_of_an_accelerator_has_columns_of_its_own() -> None:
    result = bench.run_step_benchmark(["sgd"], "tiny", repeats=1, threads=1, budget_s=0.1)
    row = result["rows"][0]
    assert "host_ms" not in row
    row |= {"host_ms": 0.5, "copy_bytes_per_s": 2 * row["bytes_per_s"]}
    del row["vs_loop"]
    with Console(width=160, file=io.StringIO(), record=True) as console:
        console.print(bench.render(result))
    text = console.export_text()
    assert "÷ copy" in text
    assert " 0.50 " in text


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(LabError, match="no device 'nowhere' here; there is cpu"):
        check_device("nowhere")
    check_device("cpu")
