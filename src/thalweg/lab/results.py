"""A race's directory: what is in it, and how it is written so that readers never see half a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from thalweg.lab.errors import LabError

CONFIG, STUDY, RESULTS, SUMMARY, REPORT = "config.json", "study.db", "results.jsonl", "summary.json", "report.html"


class RaceDirectory:
    """``config.json``, ``study.db``, ``results.jsonl``, ``summary.json``, ``report.html`` and ``charts``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def study(self) -> Path:
        """The storage of a race that names no other."""
        return self.path / STUDY

    def check_new(self) -> None:
        """Refuse to begin where there is something already."""
        if self.path.exists() and not self.path.is_dir():
            raise LabError(f"{self.path} is a file; choose another --name or --out")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise LabError(
                f"{self.path} exists already; --resume goes on with it, --fresh starts over, --name names another"
            )

    def clear(self) -> None:
        """Remove what an earlier race wrote, and nothing else."""
        for name in (CONFIG, STUDY, f"{STUDY}-wal", f"{STUDY}-shm", RESULTS, SUMMARY, REPORT):
            (self.path / name).unlink(missing_ok=True)
        for chart in (self.path / "charts").glob("*.png"):
            chart.unlink()

    def begin(self, configuration: dict[str, Any]) -> None:
        """Make the directory, and say in it what is raced."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / CONFIG, json.dumps(configuration, indent=2) + "\n")

    def write_records(self, records: Iterable[dict[str, Any]]) -> None:
        """One line per run."""
        write_atomically(self.path / RESULTS, "".join(json.dumps(one, allow_nan=False) + "\n" for one in records))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """What the report is made of."""
        write_atomically(self.path / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")


def check_same(before: dict[str, Any], now: dict[str, Any], where: object) -> None:
    """Refuse to mix the runs of two configurations."""
    changes = list(_differences(before, json.loads(json.dumps(now))))
    if changes:
        raise LabError(
            f"the race in {where} was started with another configuration ({'; '.join(changes)}); "
            "resume it with the original one, or start over with --fresh"
        )


def write_atomically(path: Path, text: str) -> None:
    """Readers see the old file or the new one, never half of it."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{at}.{key}" if at else key)
    elif before != now:
        yield f"{at}: {_brief(before)} then, {_brief(now)} now"


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item.get("label", item)) if isinstance(item, dict) else str(item) for item in value)
    return json.dumps(value)
