"""The step benchmark: what one optimizer step costs, beside torch's fused AdamW in the same run.

Each optimizer is measured in a process of its own (:mod:`thalweg.lab.bench_worker`); this module starts those,
gathers their rows with where they came from, and renders the table.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from thalweg.lab.bench_graphs import graphs_under_churn, graphs_under_scaling
from thalweg.lab.bench_worker import Factory
from thalweg.lab.parameter_sets import count_elements, parameter_set

__all__ = ["graphs_under_churn", "graphs_under_scaling", "render", "run_step_benchmark"]

#: Where compilers keep what they have compiled: our own, torch's, and Triton's.
CACHES = ("THALWEG_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def run_step_benchmark(
    optimizers: Sequence[str],
    set_name: str,
    repeats: int = 30,
    threads: int = 2,
    engine: str = "auto",
    *,
    device: str = "cpu",
    budget_s: float = 40.0,
    cold: bool = False,
    checks: bool = False,
    beside: str | None = None,
    factory: Factory | None = None,
    timeout_s: float = 1200.0,
    progress: Callable[[str], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures the optimizers' step on a parameter set, one fresh process each, and returns a JSON-able result.

    ``repeats`` pairs of steps are timed per baseline: more where a step is very fast, fewer where ``budget_s`` runs
    out. ``beside`` is one more optimizer that every one is paired with. ``cold`` gives each process an empty compiler
    cache; ``checks`` adds the graph counts under churn and scaling.
    ``factory`` builds the optimizers in place of this library; it is imported in the child, so it must live at the top
    of a module. An optimizer that fails leaves a row with its ``error`` and does not end the run. Interrupted, it
    returns what has been measured, and how many are ``left``. ``told`` is given a line about each when it is done.
    """
    shapes = parameter_set(set_name)
    names = _all_names() if list(optimizers) == ["all"] else list(optimizers)
    request: dict[str, Any] = {
        "factory": None if factory is None else _factory_spec(factory),
        "set": set_name,
        "repeats": repeats,
        "threads": threads,
        "engine": engine,
        "device": device,
        "budget_s": budget_s,
        "beside": beside,
    }

    def measure(name: str) -> dict[str, Any]:
        row = in_fresh_process(request | {"name": name, "kind": "step"}, cold, timeout_s)
        if checks and "error" not in row:
            found = in_fresh_process(request | {"name": name, "kind": "checks"}, False, timeout_s)
            row["checks"] = {key: value for key, value in found.items() if key != "name"}
        return row

    def line(row: dict[str, Any]) -> str:
        return f"{row['step_ms']['median']:.3g} ms, {row['vs_fused']['median']:.2f} of fused AdamW"

    rows = measured([(name, name) for name in names], measure, line, progress, told)
    left = len(names) - len(rows)
    rows.sort(key=lambda row: row["vs_fused"]["median"] if "vs_fused" in row else float("inf"))
    return {
        "kind": "step",
        "set": set_name,
        "tensors": len(shapes),
        "parameters": count_elements(shapes),
        "engine": engine,
        "repeats": repeats,
        "budget_s": budget_s,
        "beside": beside,
        "cold": cold,
        "provenance": provenance(threads, device),
        "rows": rows,
        "left": left,
    }


def measured(
    todo: Sequence[tuple[str, Any]],
    measure: Callable[[Any], dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
    progress: Callable[[str], None] | None,
    told: Callable[[str], None] | None,
) -> list[dict[str, Any]]:
    """The rows of what is to be measured, each with what it is called; where that is interrupted, those so far."""
    rows: list[dict[str, Any]] = []
    try:
        for position, (name, what) in enumerate(todo, start=1):
            if progress is not None:
                progress(f"{name} ({position}/{len(todo)})")
            rows.append(row := measure(what))
            if told is not None:
                told(f"{name}: {row['error'] if 'error' in row else line(row)}")
    except KeyboardInterrupt:
        if not rows:
            raise
    return rows


def interrupted(result: dict[str, Any]) -> list[Text]:
    """What to say of a result that is not all that was asked for."""
    return [Text(f"interrupted: {result['left']} not measured", style="red")] if result.get("left") else []


def _all_names() -> list[str]:
    import thalweg

    return list(thalweg.list_optimizers())


def _factory_spec(factory: Factory) -> str:
    """``module:name`` for the child process to import; refuses what it could not."""
    module, qualname = factory.__module__, getattr(factory, "__qualname__", "<unnamed>")
    if "<" in qualname or module == "__main__":
        raise ValueError(f"the factory {module}:{qualname} cannot be imported by name in a fresh process")
    return f"{module}:{qualname}"


def in_fresh_process(request: dict[str, Any], cold: bool, timeout_s: float) -> dict[str, Any]:
    """The worker's answer, or ``name`` and ``error`` where it gave none."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": str(request["threads"]),
    }
    with ExitStack() as stack:
        if cold:
            cache = stack.enter_context(tempfile.TemporaryDirectory(prefix="thalweg-cold-", ignore_cleanup_errors=True))
            environment |= {name: os.path.join(cache, name) for name in CACHES}
            for name in CACHES:
                os.mkdir(environment[name])
        try:
            done = subprocess.run(
                [sys.executable, "-m", "thalweg.lab.bench_worker"],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                env=environment,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"name": request["name"], "error": f"no answer within {timeout_s:g} s"}
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"name": request["name"], "error": lines[-1] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def provenance(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Where a result comes from: enough to judge it, and to run it again."""
    from thalweg._version import __version__

    program, *arguments = sys.argv or [""]
    return {
        "thalweg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": threads,
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": device,
        "gpu": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([os.path.basename(program), *arguments]),
    }


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def render(result: dict[str, Any]) -> Group:
    """The result as a table, fastest first, with the provenance and the meaning of the columns under it."""
    has_loop = any("vs_loop" in row for row in result["rows"])
    beside = result.get("beside")
    headings = {"optimizer": "", "step": "ms", "÷ fused AdamW": "median (q1–q3)"}
    if beside is not None:
        headings |= {"÷ beside": "median (q1–q3)"}
    if has_loop:  # overhead, not memory traffic, decides on a set this small, so the bandwidth columns give way
        headings |= {"÷ foreach=False": "median (q1–q3)", "words": "/elem"}
    else:
        headings |= {"÷ words": "ratio", "words": "/elem", "moved": "GB/s"}
    if any("host_ms" in row for row in result["rows"]):
        headings |= {"÷ copy": "ratio", "host": "ms"}
    headings |= {"state": "B/par", "extra": "B/par", "first step": "s, cache", "graphs": "count"}
    table = plain_table(
        f"optimizer step on {result['set']}: {result['parameters']:,} parameters, {result['tensors']} tensors"
    )
    for heading, unit in headings.items():
        justify: Any = "right" if unit else "left"
        table.add_column(f"{heading}\n[dim]{unit}[/]", justify=justify, no_wrap=True)
    for row in result["rows"]:
        if "error" not in row:
            cells = _cells(row)
            table.add_row(*(cells[heading] for heading in headings))
    parts: list[Any] = [table]
    parts += [Text(f"{row['name']}: {row['error']}", style="red") for row in result["rows"] if "error" in row]
    multiplying = [row for row in result["rows"] if row.get("over_products") is not None]
    parts += [Text(f"{r['name']}: {r['over_products']:.2f} of its matrix products' time") for r in multiplying]
    parts += [_checks_table(result["rows"])] if any("checks" in row for row in result["rows"]) else []
    return Group(*parts, *interrupted(result), Text(_footnote(result, has_loop), style="dim"))


def plain_table(title: str) -> Table:
    """No frame, and gaps of the one space that the box draws: ten columns have to fit a hundred characters."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """The row's text by column heading."""

    def number(value: float | None, digits: int = 1) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    def ratio(value: float | None) -> str:
        return number(value, 2 if value is None or value < 10 else 1 if value < 100 else 0)

    def spread(values: dict[str, float] | None) -> str:
        return "–" if values is None else f"{ratio(values['median'])} ({ratio(values['q1'])}–{ratio(values['q3'])})"

    step, relative, rate = row["step_ms"]["median"], row["relative_to_words"], row["bytes_per_s"]
    return {
        "optimizer": row["name"] if row["finite"] else f"{row['name']} [red](not finite)[/]",
        "step": number(step, 3 if step < 10 else 1 if step < 1000 else 0),
        "÷ fused AdamW": spread(row["vs_fused"]),
        "÷ foreach=False": spread(row.get("vs_loop")),
        "÷ beside": spread(row.get("vs_beside")),
        "÷ words": ratio(None if relative is None else relative["median"]),
        "words": number(row["words_per_element"]),
        "moved": number(None if rate is None else rate / 1e9),
        "÷ copy": ratio(None if rate is None or "host_ms" not in row else rate / row["copy_bytes_per_s"]),
        "host": number(row.get("host_ms"), 2),
        "state": number(row["state_bytes_per_parameter"]),
        "extra": number(row["extra_bytes_per_parameter"]),
        "first step": f"{row['first_step_s']:.2f} {row['cache']}",
        "graphs": str(row["graphs"]),
    }


def _checks_table(rows: list[dict[str, Any]]) -> Table:
    table = plain_table("\ngraphs compiled")
    table.add_column("optimizer", no_wrap=True)
    table.add_column("after step 5 of 50, all changing", justify="right")
    table.add_column("in all, for so many tensors", justify="right")
    for row in (row for row in rows if "checks" in row):
        checks = row["checks"]
        if "error" in checks:
            table.add_row(row["name"], checks["error"], "–")
            continue
        scaling = checks["graphs_under_scaling"]
        counts = zip(scaling["graphs"], scaling["tensors"], strict=True)
        cells = ", ".join(f"{graphs} for {tensors}" for graphs, tensors in counts)
        table.add_row(row["name"], str(checks["graphs_after_fifth_step_of_churn"]), cells)
    return table


def _footnote(result: dict[str, Any], has_loop: bool) -> str:
    """Column meanings and provenance in a few lines."""
    source = result["provenance"]
    baseline = "AdamW(fused=True)" + (" and AdamW(foreach=False)" if has_loop else "")
    words = "" if has_loop else "÷ words: ÷ fused AdamW over words/7, 1 is the same memory bandwidth. "
    beside = result.get("beside")
    other = "" if beside is None else f"÷ beside: paired in the same way with {beside}. "
    if any("host_ms" in row for row in result["rows"]):
        other += "÷ copy: bytes moved a second over those that copying moves. host: how long a step keeps the host. "
    where = source["gpu"] or f"{source['cpu']}, {source['threads']} threads of {source['cores']} cores"
    return (
        f"\n÷: paired step by step with torch.optim.{baseline} on the same gradients. {words}{other}"
        "words: float32 words read and written per element, as declared. "
        "extra: peak memory of a step beyond parameters, gradients and state.\n"
        f"{where}; torch {source['torch']}, thalweg {source['thalweg']}, engine {result['engine']}, {source['date']}\n"
        f"{source['command']}"
    )
