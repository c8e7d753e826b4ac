"""Measures the step of one optimizer; run as ``python -m thalweg.lab.bench_worker`` with a request on stdin.

One optimizer per process: compiled graphs, caches, warmed allocators and memory of one cannot colour the next, and
the first step is truly a process's first.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from thalweg.lab.bench_probes import (
    ADAMW_WORDS,
    cache_state,
    copy_bytes_per_s,
    graph_count,
    host_seconds,
    over_products,
    peak_extra_bytes,
    state_bytes,
    synchronize,
    words_per_element,
)
from thalweg.lab.parameter_sets import Shapes, parameter_set, routed

Factory = Callable[[str, list[tuple[str, Parameter]]], Optimizer]

MIN_PAIRS = 3
"""Pairs measured even where they outrun the time budget: fewer have no quartiles."""
MIN_SECONDS = 0.5
"""Fast steps are repeated beyond ``repeats`` for this long (at most twenty-fold), as one costs microseconds."""


def library_factory(engine: str, **options: Any) -> Factory:
    """Builds what a contender's text says with this library: ``adamw``, ``muon:ns_dtype=bfloat16``.

    What treats parameters by role (Muon) gets hidden matrices and the rest.
    """

    def build(text: str, named: list[tuple[str, Parameter]]) -> Optimizer:
        import thalweg
        from thalweg.lab.contenders import parse_contender

        contender = parse_contender(text)
        rate = {} if contender.lr is None else {"lr": contender.lr}
        own = {**rate, **dict(contender.hyper), **options}
        return thalweg.create(contender.name, routed(contender.name, named), engine=engine, **own)

    return build


def load_factory(spec: str) -> Factory:
    """The function that ``module:qualified.name`` says."""
    module, _, qualname = spec.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def make_parameters(shapes: Shapes, device: str = "cpu", seed: int = 0) -> list[tuple[str, Parameter]]:
    """Parameters of the set with gradients, all drawn from the seed at the sizes a network has."""
    generator = torch.Generator(device).manual_seed(seed)
    named = []
    for name, shape in shapes:
        param = Parameter(torch.empty(shape, device=device).normal_(0.0, 0.02, generator=generator))
        param.grad = torch.empty(shape, device=device).normal_(0.0, 1e-3, generator=generator)
        named.append((name, param))
    return named


def sharing_gradients(named: list[tuple[str, Parameter]]) -> list[Parameter]:
    """An own copy of the parameters over the same gradient tensors: a step only reads those, so a copy buys nothing."""
    copies = []
    for _, param in named:
        copy = Parameter(param.detach().clone())
        copy.grad = param.grad
        copies.append(copy)
    return copies


def stepper(opt: Optimizer, device: str = "cpu", wait: bool = True) -> Callable[[], None]:
    """A call that takes one step, and unless told not to ``wait`` returns when the device has finished it.

    A constant loss goes along where the optimizer takes one, as some scale their step by it.
    """
    arguments: dict[str, Any] = {}
    if "loss" in inspect.signature(opt.step).parameters:
        arguments["loss"] = torch.tensor(1.0, device=device)

    def step() -> None:
        opt.step(**arguments)
        if wait:
            synchronize(device)

    return step


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles; a mean too, as a median hides what an optimizer does every tenth step only."""
    q1, median, q3 = (values[0],) * 3 if len(values) == 1 else statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "mean": statistics.fmean(values)}


def scaled(spread: dict[str, float], factor: float) -> dict[str, float]:
    """A summary in another unit."""
    return {key: value * factor for key, value in spread.items()}


def settle(steps: Sequence[Callable[[], None]], rounds: int, budget_s: float) -> None:
    """Steps before those that are timed: so many rounds of them, for an eighth of the time at most."""
    settled_by = time.perf_counter() + budget_s / 8
    for _ in range(rounds):
        for step in steps:
            step()
        if time.perf_counter() > settled_by:
            break


def paired_times(
    ours: Callable[[], None], baseline: Callable[[], None], repeats: int, budget_s: float
) -> list[tuple[float, float]]:
    """Seconds of ``(ours, baseline)`` step by step, the order swapped every other pair.

    A shared machine drifts by more than the differences sought; two neighbouring steps see the same machine.
    """
    pairs: list[tuple[float, float]] = []
    clock = time.perf_counter
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        while True:
            flipped = len(pairs) % 2 == 1
            first, second = (baseline, ours) if flipped else (ours, baseline)
            t0 = clock()
            first()
            t1 = clock()
            second()
            t2 = clock()
            pairs.append((t2 - t1, t1 - t0) if flipped else (t1 - t0, t2 - t1))
            spent, count = t2 - start, len(pairs)
            if count >= repeats and (spent >= MIN_SECONDS or count >= 20 * repeats):
                break
            if count >= min(MIN_PAIRS, repeats) and spent >= budget_s:
                break
    finally:
        if collecting:
            gc.enable()
    return pairs


def measure(
    name: str,
    factory: Factory,
    shapes: Shapes,
    repeats: int = 30,
    budget_s: float = 40.0,
    device: str = "cpu",
    loop_baseline: bool = False,
    beside: str | None = None,
) -> dict[str, Any]:
    """One optimizer's row: its first step, then its steps paired with fused AdamW's, and what it holds and moves.

    ``loop_baseline`` pairs it with ``AdamW(foreach=False)`` as well, the fastest of torch's on a few small tensors;
    ``beside`` with another contender from the same factory.
    """
    named = make_parameters(shapes, device)
    elements = sum(param.numel() for _, param in named)
    graphs_before = graph_count()
    opt = factory(name, named)
    step = stepper(opt, device)
    start = time.perf_counter()
    step()
    row: dict[str, Any] = {"name": name, "first_step_s": time.perf_counter() - start}
    row["graphs_first_step"] = graph_count() - graphs_before
    settle([step], 3, budget_s)

    baselines: dict[str, Callable[[list[Parameter]], Optimizer]] = {
        "fused": lambda params: torch.optim.AdamW(params, fused=True)
    }
    if loop_baseline:
        baselines["loop"] = lambda params: torch.optim.AdamW(params, foreach=False)
    if beside is not None:
        other, labels = beside, [label for label, _ in named]
        baselines["beside"] = lambda params: factory(other, list(zip(labels, params, strict=True)))
    for label, build in baselines.items():
        baseline = build(sharing_gradients(named))
        baseline_step = stepper(baseline, device)
        for _ in range(2):
            baseline_step()
        pairs = paired_times(step, baseline_step, repeats, budget_s / len(baselines))
        row[f"vs_{label}"] = summary([ours / theirs for ours, theirs in pairs])
        row[f"pairs_{label}"] = len(pairs)
        row[f"{label}_ms"] = scaled(summary([theirs for _, theirs in pairs]), 1e3)
        if label == "fused":
            row["step_ms"] = scaled(summary([ours for ours, _ in pairs]), 1e3)
        del baseline, baseline_step

    words = words_per_element(opt)
    held = state_bytes(opt)
    row["peak_extra_bytes"] = peak_extra_bytes(step, device)
    row |= {
        "state_bytes": held,
        "state_bytes_per_parameter": held / elements,
        "extra_bytes_per_parameter": row["peak_extra_bytes"] / elements,
        "words_per_element": words,
        "bytes_per_s": None if words is None else 4 * words * elements / (row["step_ms"]["median"] / 1e3),
        **_beside_host(opt, step, device),
        "relative_to_words": None if words is None else scaled(row["vs_fused"], ADAMW_WORDS / words),
        "graphs": graph_count() - graphs_before,
        "cache": cache_state(),
        "finite": all(math.isfinite(float(param.detach().sum())) for _, param in named),
    }
    return row


def _beside_host(opt: Optimizer, step: Callable[[], None], device: str) -> dict[str, float | None]:
    """On a CPU the step's time over its products'; on an accelerator how long it keeps the host, and a copy's speed."""
    if torch.device(device).type == "cpu":
        return {"over_products": over_products(step)}
    host = host_seconds(stepper(opt, device, wait=False), device)
    return {"over_products": None, "host_ms": 1e3 * host, "copy_bytes_per_s": copy_bytes_per_s(device)}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Serves one request of the parent process: a row of measurements, or the graph checks."""
    torch.set_num_threads(request["threads"])
    if request["kind"] in ("peer", "libraries"):
        from thalweg.lab import bench_pairs

        return bench_pairs.answer(request)
    spec = request["factory"]
    factory = load_factory(spec) if spec else library_factory(request["engine"])
    name = request["name"]
    if request["kind"] == "checks":
        from thalweg.lab.bench_graphs import graphs_under_churn, graphs_under_scaling

        return {
            "graphs_after_fifth_step_of_churn": graphs_under_churn(name, factory=factory),
            "graphs_under_scaling": graphs_under_scaling(name, factory=factory),
        }
    return measure(
        name,
        factory,
        parameter_set(request["set"]),
        request["repeats"],
        request["budget_s"],
        request["device"],
        loop_baseline=request["set"] == "tiny",
        beside=request.get("beside"),
    )


def main() -> None:
    """Answers the request on stdin in stdout's last line, as libraries print there at will; an error is an answer."""
    request = json.load(sys.stdin)
    try:
        reply = answer(request)
    except Exception as error:  # whatever an optimizer raises belongs in its row, not on the terminal
        traceback.print_exc()
        summary_line = (str(error).strip().splitlines() or [""])[0]
        reply = {"name": request["name"], "error": f"{type(error).__name__}: {summary_line}"}
    print(f"\n{json.dumps(reply)}")


if __name__ == "__main__":
    main()
