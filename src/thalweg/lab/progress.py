"""What the user sees while a race runs: a live board on a terminal, one plain line per run anywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from thalweg.lab import wording
from thalweg.lab.contenders import Contender
from thalweg.lab.planning import Record


class Board(Protocol):
    """Told of every run; shows it or does not."""

    def begin(self, done: Sequence[Record], total: int) -> None:
        """The race starts, or goes on after these runs."""
        ...

    def ran(self, record: Record, total: int) -> None:
        """A run has ended; the total may have grown."""
        ...

    def note(self, message: str) -> None:
        """Something the user should know, such as a worker that died."""
        ...


class SilentBoard:
    """For programs."""

    def begin(self, done: Sequence[Record], total: int) -> None:
        """Show nothing."""

    def ran(self, record: Record, total: int) -> None:
        """Show nothing."""

    def note(self, message: str) -> None:
        """Show nothing."""


def outcome(record: Record) -> str:
    """A run's result in a few words."""
    if record["status"] == "finished":
        return "  ".join(f"{name} {value:.4g}" for name, value in record["validation"].items())
    return f"{record['status']}: {record['reason']}"


class PlainBoard:
    """One line per run, for logs."""

    def __init__(self, console: Console) -> None:
        self._console, self._done = console, 0

    def begin(self, done: Sequence[Record], total: int) -> None:
        """Say how much there is to do."""
        self._done = len(done)
        self._print(f"about {total} runs" + (f", {len(done)} done already" if done else ""))

    def ran(self, record: Record, total: int) -> None:
        """Say what the run gave."""
        self._done += 1
        duration = f"  {record['seconds']:.1f} s" if "seconds" in record else ""
        self._print(f"[{self._done}/{total}] {record['key']}  {outcome(record)}{duration}")

    def note(self, message: str) -> None:
        """Say it."""
        self._print(message)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class LiveBoard:
    """A table that is redrawn in place, with a bar under it; erased at the end, when the ranking follows."""

    def __init__(self, contenders: Sequence[Contender], console: Console) -> None:
        self._console = console
        self._labels = [contender.label for contender in contenders]
        self._records: dict[str, list[Record]] = {}
        self._task = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=600,
        )
        self._row = self._bar.add_task("runs", total=None)
        self._drawn = 0.0
        self._live = Live(self._picture(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveBoard:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, done: Sequence[Record], total: int) -> None:
        """Start the bar where the race stands."""
        for record in done:
            self._records.setdefault(record["task"], []).append(record)
        self._bar.update(self._row, completed=len(done), total=total)

    def ran(self, record: Record, total: int) -> None:
        """Count the run and redraw, though not more often than the eye can follow."""
        self._records.setdefault(record["task"], []).append(record)
        self._task = record["task"]
        self._bar.update(self._row, advance=1, total=total)
        if time.monotonic() - self._drawn > 0.25:
            self._drawn = time.monotonic()
            self._live.update(self._picture())

    def note(self, message: str) -> None:
        """Print above the board."""
        self._console.print(message, markup=False, highlight=False)

    def _picture(self) -> Group:
        """The task of the last run: for every contender how far it is, and its last result."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for heading in (self._task or "optimizer", "tuning", "report", "diverged", "last on validation"):
            table.add_column(heading, justify="right" if heading in ("tuning", "report", "diverged") else "left")
        for label in self._labels:
            records = [record for record in self._records.get(self._task, []) if record["label"] == label]
            phases = [sum(record["phase"] == phase for record in records) for phase in ("tune", "report")]
            diverged = sum(record["status"] == "diverged" for record in records)
            last = records[-1] if records else None
            said = f"{outcome(last)} at lr {wording.rate(last['lr'])}" if last else "–"
            table.add_row(label, *(str(n) for n in (*phases, diverged)), said)
        return Group(table, self._bar)
