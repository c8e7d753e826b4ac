"""Measures one optimizer of ours beside one of another library's, in one process; see ``thalweg.lab.bench_peers``."""

from __future__ import annotations

import importlib
import math
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch.nn import Parameter

from thalweg.lab.bench_probes import peak_extra_bytes, state_bytes
from thalweg.lab.bench_worker import library_factory, make_parameters, paired_times, scaled, settle, stepper, summary
from thalweg.lab.parameter_sets import parameter_set
from thalweg.lab.peers import LIBRARIES, Pair

SETTLING = 6
"""Steps between the first one and the pairs: methods treat their first steps in other ways (RAdam's first five)."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Serves one request of the parent: what can be imported, or a pair's row."""
    if request["kind"] == "libraries":
        return {"name": request["name"], "found": {key: found(key) for key in request["libraries"]}}
    pair = Pair(request["name"], request["library"], request["variant"])
    return measure(pair, request["set"], request["repeats"], request["budget_s"], request["engine"], request["device"])


def found(key: str) -> dict[str, str]:
    """The version of a library that can be imported here, or why it cannot."""
    module, distribution = LIBRARIES[key]
    try:
        importlib.import_module(module)
    except Exception as error:  # a library may fail to load in any way, and is then not there
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    try:
        return {"version": version(distribution)}
    except PackageNotFoundError:
        return {"version": "unknown"}


def measure(
    pair: Pair, set_name: str, repeats: int = 10, budget_s: float = 20.0, engine: str = "auto", device: str = "cpu"
) -> dict[str, Any]:
    """The pair's row: step by step in turn, each on parameters and gradients of its own.

    The compiler is imported before either first step, so that neither is charged for it.
    """
    importlib.import_module("torch._inductor.compile_fx")
    named = pair.parameters(make_parameters(parameter_set(set_name), device))
    if not named:
        raise ValueError(f"{set_name} has no parameter that {pair.name} is for")
    copies = []
    for name, param in named:
        copy = Parameter(param.detach().clone())
        copy.grad = None if param.grad is None else param.grad.clone()  # some write to it
        copies.append((name, copy))
    elements = sum(param.numel() for _, param in named)
    built = {
        "ours": library_factory(engine, **pair.our_options)(pair.name, named),
        "theirs": pair.build(copies),
    }
    steps = {side: stepper(opt, device) for side, opt in built.items()}
    first = {}
    for side, step in steps.items():
        start = time.perf_counter()
        step()
        first[side] = time.perf_counter() - start
    settle([*steps.values()], SETTLING, budget_s)
    times = paired_times(steps["ours"], steps["theirs"], repeats, budget_s)
    row: dict[str, Any] = {
        "name": pair.name,
        "library": pair.library,
        "variant": pair.variant,
        "options": {"ours": pair.our_options, "theirs": pair.theirs[1]},
        "parameters": elements,
        "ratio": summary([theirs / ours for ours, theirs in times]),
        "pairs": len(times),
    }
    for i, side in enumerate(("ours", "theirs")):
        values = named if side == "ours" else copies
        row[side] = {
            "step_ms": scaled(summary([pair_[i] for pair_ in times]), 1e3),
            "first_step_s": first[side],
            "state_bytes_per_parameter": state_bytes(built[side]) / elements,
            "extra_bytes_per_parameter": peak_extra_bytes(steps[side], device) / elements,
            "finite": all(math.isfinite(float(param.detach().sum())) for _, param in values),
        }
    return row
