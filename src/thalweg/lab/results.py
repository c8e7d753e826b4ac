"""A race's directory: what is in it, how it is written so that a crash loses nothing, how a race is resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thalweg.lab.errors import LabError

CONFIG, RESULTS, SUMMARY, REPORT = "config.json", "results.jsonl", "summary.json", "report.html"


class RaceDirectory:
    """``config.json``, ``results.jsonl``, ``summary.json`` and ``report.html`` under one name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open_new(self, config: dict[str, Any]) -> None:
        """Begin a race where there is nothing yet."""
        if self.path.exists() and not self.path.is_dir():
            raise LabError(f"{self.path} is a file; choose another --name or --out")
        if self.path.is_dir() and any(self.path.iterdir()):
            raise LabError(
                f"{self.path} exists already; --resume goes on with it, --fresh starts over, --name names another"
            )
        self._begin(config)

    def open_fresh(self, config: dict[str, Any]) -> None:
        """Begin again, removing what an earlier race wrote and nothing else."""
        for name in (CONFIG, RESULTS, SUMMARY, REPORT):
            (self.path / name).unlink(missing_ok=True)
        self._begin(config)

    def open_resumed(self, config: dict[str, Any]) -> list[dict[str, Any]]:
        """Go on with a race of exactly this configuration; returns the records of the runs that need no repeat."""
        try:
            before = json.loads((self.path / CONFIG).read_text())
        except FileNotFoundError:
            raise LabError(f"there is no race to resume in {self.path}; leave --resume out to start one") from None
        changes = list(_differences(before, json.loads(json.dumps(config))))
        if changes:
            raise LabError(
                f"the race in {self.path} was started with another configuration ({'; '.join(changes)}); "
                "resume it with the original one, or start over with --fresh"
            )
        return [record for record in self.load() if record["status"] != "failed"]

    def _begin(self, config: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / CONFIG, json.dumps(config, indent=2) + "\n")
        (self.path / RESULTS).touch()

    def append(self, record: dict[str, Any]) -> None:
        """Add one run's line, on disk before the next run is looked at."""
        line = json.dumps(record, allow_nan=False)
        with (self.path / RESULTS).open("r+b" if (self.path / RESULTS).exists() else "w+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # what a crash left of an unfinished line must not swallow this one
                    file.write(b"\n")
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def load(self) -> list[dict[str, Any]]:
        """Every run's record, the latest where a run was repeated; unfinished lines are passed over."""
        records: dict[str, dict[str, Any]] = {}
        path = self.path / RESULTS
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            records[record["key"]] = record
        return list(records.values())

    def previous_seconds(self) -> float:
        """Wall-clock seconds that earlier sessions of this race took."""
        try:
            return float(json.loads((self.path / SUMMARY).read_text())["wall_seconds"])
        except (FileNotFoundError, KeyError, ValueError):
            return 0.0

    def write_summary(self, summary: dict[str, Any]) -> None:
        """For programs."""
        write_atomically(self.path / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def write_report(self, html: str) -> None:
        """For people."""
        write_atomically(self.path / REPORT, html)


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
