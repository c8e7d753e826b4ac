"""One race that is run once and looked at by many tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.racing import settings, write_task
from thalweg.lab.race import Result, race


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Result]:
    """One uninterrupted race that many tests look at: its directory, its task, its result."""
    folder = tmp_path_factory.mktemp("finished")
    reference = write_task(folder)
    result = race(settings(reference), folder / "race", workers=2, command="thalweg race line")
    return folder / "race", reference, result


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races without the pictures at their end, for tests of what comes before."""
    monkeypatch.setattr("thalweg.lab.report.write_report", lambda directory, summary: directory)
