"""The runs of a race in an Optuna storage, shared by every process and machine that takes part.

A race has one study for its sessions (processes that take part), and one for each task, contender and phase, whose
trials are runs. A run is claimed by adding a trial of its key in the state RUNNING: where two processes add the same
key, the trial of the lowest number counts and the other is failed again. Numbers are given out inside the storage's
write transaction, so this holds on every backend; changing a trial from WAITING to RUNNING would not on SQLite, where
Optuna reads the state outside it. A run's result is the attribute ``record`` of its trial, written before anything
else happens.
"""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError

from thalweg.lab import machine
from thalweg.lab.errors import LabError

BEAT_SECONDS = 10.0
"""How often a process says that it is alive."""
GRACE_SECONDS = 60.0
"""For how long a process on another machine may say nothing before its runs are given to others."""
OPENING_ATTEMPTS = 10

STATES = {"finished": TrialState.COMPLETE, "diverged": TrialState.PRUNED, "refused": TrialState.PRUNED}
"""How Optuna's own tools see a run; one that failed, or whose process died, is a failed trial."""

Record = dict[str, Any]


class Ledger:
    """What has been run, and what is being run by whom."""

    def __init__(self, url: str, race: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._race = race
        self._backend = _open(url)
        self._storage = get_storage(self._backend)  # with Optuna's cache of finished trials
        self._ids: dict[str, int] = {}
        self._session = -1
        self._session_number = -1
        self._start = self._beaten = time.monotonic()
        self._heard: dict[int, tuple[float, float]] = {}

    def check_idle(self) -> None:
        """Refuse to go on while a process is at work on the race."""
        if self.configuration() is not None and any(self._alive(trial) for trial in self._sessions()):
            raise LabError(
                f"another process is racing in {self._race!r}; leave --fresh out to take part, or choose another --name"
            )

    def clear(self) -> None:
        """Forget the race, unless a process is at work on it."""
        self.check_idle()
        for study in self._storage.get_all_studies():
            if study.study_name == self._race or study.study_name.startswith(f"{self._race}/"):
                self._storage.delete_study(study._study_id)
        self._ids.clear()

    def configuration(self) -> dict[str, Any] | None:
        """What the race was begun with; None where there is none."""
        if not self._exists(self._race):
            return None
        return next((trial.user_attrs["configuration"] for trial in self._sessions()), None)

    def join(self, configuration: dict[str, Any]) -> None:
        """Take part from now on. Of sessions that begin together, the configuration of the first counts."""
        owner = {
            "host": machine.host(),
            "pid": machine.pid(),
            "begin": time.time(),
            "beat": 0.0,
            "configuration": configuration,
        }
        study = self._study(self._race)
        self._session = self._storage.create_new_trial(study, create_trial(state=TrialState.RUNNING, user_attrs=owner))
        self._session_number = self._storage.get_trial(self._session).number

    def leave(self) -> None:
        """Take part no longer."""
        self.beat(force=True)
        self._storage.set_trial_state_values(self._session, TrialState.COMPLETE)

    def close(self) -> None:
        """Give the connection up; the last process to do so leaves a SQLite file without its companions."""
        self._storage.remove_session()
        if isinstance(self._backend, RDBStorage):
            self._backend.engine.dispose()

    def beat(self, force: bool = False) -> bool:
        """Say that this process is alive, every `BEAT_SECONDS`; returns whether it was said now."""
        now = time.monotonic()
        if not force and now - self._beaten < BEAT_SECONDS:
            return False
        self._beaten = now
        self._storage.set_trial_user_attr(self._session, "beat", round(now - self._start, 3))
        return True

    def seconds(self) -> float:
        """For how long at least one process took part, over all sessions."""
        total, until = 0.0, float("-inf")
        for begin, lasted in sorted((one.user_attrs["begin"], one.user_attrs["beat"]) for one in self._sessions()):
            end = begin + lasted
            total += max(0.0, end - max(begin, until))
            until = max(until, end)
        return total

    def read(self, study: str) -> dict[str, Record | None]:
        """Every run of a study by its key: its record, or None while it is being made.

        Runs of processes that are gone are failed here, and so are free. Failures of earlier sessions do not count: a
        race that is resumed tries them again.
        """
        name = f"{self._race}/{study}"
        if name not in self._ids and not self._exists(name):
            return {}
        failed: dict[str, Record | None] = {}
        running: dict[str, Record | None] = {}
        made: dict[str, Record | None] = {}
        sessions: dict[int, bool] | None = None
        for trial in self._storage.get_all_trials(self._study(name), deepcopy=False):
            key, record = trial.user_attrs["key"], trial.user_attrs.get("record")
            if record is not None and record["status"] != "failed":
                made.setdefault(key, record)
            elif record is not None and trial._trial_id > self._session:
                failed[key] = record
            elif trial.state == TrialState.RUNNING:
                if sessions is None:
                    sessions = {one.number: self._alive(one) for one in self._sessions()}
                if sessions[trial.user_attrs["session"]]:
                    running[key] = None
                else:
                    self.release(trial._trial_id)
        return failed | running | made

    def claim(self, study: str, key: str) -> int | None:
        """The trial in which this process makes a run that `read` did not know; None where another was quicker."""
        number = self._study(f"{self._race}/{study}")
        attributes = {"key": key, "session": self._session_number}
        trial = self._storage.create_new_trial(number, create_trial(state=TrialState.RUNNING, user_attrs=attributes))
        for other in self._storage.get_all_trials(number, deepcopy=False):
            if other._trial_id == trial:
                return trial
            if other.user_attrs["key"] == key and other.state != TrialState.FAIL:
                break
        self.release(trial)
        return None

    def release(self, trial: int) -> None:
        """Give up a run that was not made to its end, for any process to make."""
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial, TrialState.FAIL)

    def finish(self, trial: int, record: Record, value: float | None = None) -> bool:
        """Keep a run's record, for good; False where the run had been taken from this process as from one that is dead.

        `value` is what Optuna's own tools show: the validation metric.
        """
        state = STATES.get(record["status"], TrialState.FAIL)
        values = [value] if state == TrialState.COMPLETE and value is not None else None
        try:
            self._storage.set_trial_user_attr(trial, "record", record)
            self._storage.set_trial_state_values(trial, state, values)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _study(self, name: str) -> int:
        if name not in self._ids:
            try:
                self._ids[name] = self._storage.get_study_id_from_name(name)
            except KeyError:
                try:
                    self._ids[name] = self._storage.create_new_study([StudyDirection.MINIMIZE], name)
                except optuna.exceptions.DuplicatedStudyError:  # another process was quicker
                    self._ids[name] = self._storage.get_study_id_from_name(name)
        return self._ids[name]

    def _exists(self, name: str) -> bool:
        try:
            self._storage.get_study_id_from_name(name)
        except KeyError:
            return False
        return True

    def _sessions(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study(self._race), deepcopy=False)

    def _alive(self, session: FrozenTrial) -> bool:
        """On this machine a process is looked up; on another one its beats must go on, by this machine's clock."""
        if session.state != TrialState.RUNNING:
            return False
        if session.user_attrs["host"] == machine.host():
            return machine.exists(session.user_attrs["pid"])
        beat, now = session.user_attrs["beat"], time.monotonic()
        if self._heard.get(session.number, (None, now))[0] != beat:
            self._heard[session.number] = (beat, now)
        return now - self._heard[session.number][1] < GRACE_SECONDS


def local_url(directory: Path) -> str:
    """The storage of a race that names no other: a file in its directory."""
    return f"sqlite:///{directory / 'study.db'}"


def _open(url: str) -> BaseStorage:
    """Optuna's storage of a URL; SQLite is set so that a commit costs a millisecond and survives a killed process.

    Processes that open an empty database together get into each other's way while its tables are made: tried again.
    """
    tuned = {"connect_args": {"timeout": 60}, "pool_events": [(_tune, "connect")]} if url.startswith("sqlite") else None
    for attempt in range(1, OPENING_ATTEMPTS + 1):
        try:
            return get_storage(url) if url.startswith("redis") else RDBStorage(url, engine_kwargs=tuned)
        except Exception as error:
            if attempt == OPENING_ATTEMPTS or not isinstance(error, DBAPIError):
                raise LabError(
                    f"the storage {url} cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]}); "
                    "give an Optuna storage URL such as sqlite:///race.db or postgresql://user@host/name"
                ) from error
            time.sleep(0.2 * attempt * random.random())
    raise AssertionError("the last attempt returns or raises")


def _tune(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
