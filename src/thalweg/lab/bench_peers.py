"""``thalweg bench peers``: this library's optimizers beside the same ones of the libraries that are installed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from thalweg.lab.bench import in_fresh_process, interrupted, measured, plain_table, provenance
from thalweg.lab.errors import LabError, unknown
from thalweg.lab.parameter_sets import count_elements, parameter_set
from thalweg.lab.peers import LIBRARIES, Pair, pairs


def run_peer_benchmark(
    optimizers: Sequence[str] | None,
    libraries: Sequence[str] | None,
    set_name: str,
    repeats: int = 10,
    threads: int = 2,
    engine: str = "auto",
    *,
    device: str = "cpu",
    budget_s: float = 20.0,
    cold: bool = False,
    timeout_s: float = 1200.0,
    progress: Callable[[str], None] | None = None,
    told: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures every pair in a fresh process and returns a JSON-able result.

    ``None`` means all optimizers that a library has too, and all libraries that are known; nothing is installed, and
    what cannot be imported is in ``missing`` with its reason. A pair that fails leaves a row with its ``error``.
    Interrupted, it returns what has been measured, and how many are ``left``. ``told`` is given a line about each pair.

    Raises:
        LabError: a library is not known, or none of those asked for has any of the optimizers.
    """
    chosen = list(LIBRARIES) if libraries is None else list(libraries)
    for library in chosen:
        if library not in LIBRARIES:
            raise unknown("library", library, LIBRARIES)
    if not pairs(optimizers, chosen):
        raise LabError(f"none of {', '.join(chosen)} has any of {', '.join(optimizers or [])}")
    request: dict[str, Any] = {
        "set": set_name,
        "repeats": repeats,
        "threads": threads,
        "engine": engine,
        "device": device,
        "budget_s": budget_s,
    }
    asked = request | {"kind": "libraries", "name": "libraries", "libraries": chosen}
    answered = in_fresh_process(asked, False, timeout_s)
    if "error" in answered:
        raise LabError(f"the libraries could not be looked for: {answered['error']}")
    found: dict[str, dict[str, str]] = answered["found"]
    present = [key for key in chosen if "version" in found[key]]
    todo = pairs(optimizers, present)

    def measure(pair: Pair) -> dict[str, Any]:
        identity = {"name": pair.name, "library": pair.library, "variant": pair.variant}
        return identity | in_fresh_process(request | identity | {"kind": "peer"}, cold, timeout_s)

    def line(row: dict[str, Any]) -> str:
        ratio = row["ratio"]
        return f"{ratio['median']:.2f} ({ratio['q1']:.2f} to {ratio['q3']:.2f}) times our time"

    rows = measured([(f"{p.name}, {p.library} {p.variant}", p) for p in todo], measure, line, progress, told)
    return {
        "kind": "peers",
        "set": set_name,
        "parameters": count_elements(parameter_set(set_name)),
        "engine": engine,
        "repeats": repeats,
        "cold": cold,
        "libraries": {key: found[key]["version"] for key in present},
        "missing": {key: found[key]["error"] for key in chosen if key not in present},
        "provenance": provenance(threads, device),
        "rows": rows,
        "left": len(todo) - len(rows),
        "means": means(rows),
    }


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By library and variant: the geometric mean of the median ratios, of how many, and which pairs have none."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["library"], row["variant"]), []).append(row)
    return [
        {
            "library": library,
            "variant": variant,
            "optimizers": len(measured := [row for row in members if "ratio" in row]),
            "ratio": statistics.geometric_mean([r["ratio"]["median"] for r in measured]) if measured else None,
            "failed": [row["name"] for row in members if "ratio" not in row],
        }
        for (library, variant), members in found.items()
    ]


def render(result: dict[str, Any]) -> Group:
    """The result as tables: the pairs, their geometric means, what failed and what is not installed."""
    table = plain_table(f"optimizer step on {result['set']}, beside other libraries")
    table.add_column("optimizer\n", no_wrap=True)
    table.add_column("peer\n", no_wrap=True)
    for heading, unit in (
        ("theirs ÷ ours", "median (q1–q3)"),
        ("ours", "ms"),
        ("first step", "s, ours|theirs"),
        ("state", "B/par"),
        ("extra", "B/par"),
    ):
        table.add_column(f"{heading}\n[dim]{unit}[/]", justify="right", no_wrap=True)
    failed = []
    for row in result["rows"]:
        peer = f"{row['library']}{'' if row['variant'] == 'default' else ' ' + row['variant']}"
        if "error" in row:
            failed.append(Text(f"{row['name']}, {peer}: {row['error']}", style="red"))
            continue
        ours, theirs, ratio = row["ours"], row["theirs"], row["ratio"]
        cells = [f"{ratio['median']:.2f} ({ratio['q1']:.2f}–{ratio['q3']:.2f})", f"{ours['step_ms']['median']:.2f}"]
        cells.append(f"{ours['first_step_s']:.1f}|{theirs['first_step_s']:.1f}")
        held = ("state_bytes_per_parameter", "extra_bytes_per_parameter")
        cells += [f"{ours[key]:.1f}|{theirs[key]:.1f}" for key in held]
        given = ", ".join(f"{k}={v}" for k, v in row["options"]["ours"].items())
        name = row["name"] + (f" ({given})" if given else "") + ("" if ours["finite"] else " [red](not finite)[/]")
        table.add_row(name, peer + ("" if theirs["finite"] else " [red](not finite)[/]"), *cells)
    summary = plain_table("\ngeometric means")
    for heading, justify in (("peer", "left"), ("optimizers", "right"), ("theirs ÷ ours", "right"), ("failed", "left")):
        summary.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for mean in result["means"]:
        ratio = "–" if mean["ratio"] is None else f"{mean['ratio']:.2f}"
        peer = f"{mean['library']} {mean['variant']}"
        summary.add_row(peer, str(mean["optimizers"]), ratio, ", ".join(mean["failed"]) or "–")
    missing = [Text(f"not measured, as it cannot be imported: {k} ({v})") for k, v in result["missing"].items()]
    source = result["provenance"]
    versions = ", ".join(f"{key} {version}" for key, version in result["libraries"].items())
    return Group(
        table,
        *failed,
        *interrupted(result),
        summary,
        *missing,
        Text(
            "\ntheirs ÷ ours: their time over ours, paired step by step; above 1 ours is faster. "
            "State and extra memory: ours|theirs.\n"
            f"{source['cpu']}, {source['threads']} threads of {source['cores']} cores; {versions}; "
            f"thalweg {source['thalweg']}, {source['date']}\n{source['command']}",
            style="dim",
        ),
    )
