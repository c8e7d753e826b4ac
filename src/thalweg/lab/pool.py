"""Worker processes that may die.

The standard pools give up (or hang) when a worker is killed; here each worker has its own pipe, so a death is
noticed at once, is known to belong to one job, and costs nothing but that job.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from thalweg.lab.trial import Job


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a record, or why there is none."""

    job: Job
    record: dict[str, Any] | None
    error: str | None = None
    died: bool = False


def serve(connection: Connection) -> None:
    """The worker's main loop; a worker is one process with one torch thread, so that workers do not compete."""
    import torch

    from thalweg.lab.loading import load_task
    from thalweg.lab.trial import run_trial

    torch.set_num_threads(1)
    load = cache(load_task)
    while True:
        try:
            job = connection.recv()
        except EOFError:  # the race is over, or its process is gone
            return
        try:
            answer: tuple[dict[str, Any] | None, str | None] = (run_trial(load(job.reference, job.steps), job), None)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            answer = (None, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")
        try:
            connection.send(answer)
        except OSError:  # nobody is left to take it
            return


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None


class Pool:
    """Keeps `count` workers alive; `submit` to an idle one, `collect` what has finished."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    @property
    def busy(self) -> int:
        """How many jobs are running."""
        return sum(worker.job is not None for worker in self._workers)

    @property
    def idle(self) -> int:
        """How many jobs could be submitted now."""
        return self._count - self.busy

    def submit(self, job: Job) -> None:
        """Start a job on an idle worker, starting the worker if there are fewer than allowed."""
        worker = next((worker for worker in self._workers if worker.job is None), None) or self._start()
        try:
            worker.connection.send(job)
        except OSError:  # it died while idle; the job has not begun, so this is not a failed attempt
            self._bury(worker)
            worker = self._start()
            worker.connection.send(job)
        worker.job = job

    def collect(self) -> list[Outcome]:
        """Wait until a job has ended, however it ended, though no longer than a second."""
        sources: dict[Any, _Worker] = {}
        for worker in self._workers:
            if worker.job is not None:
                sources |= {worker.connection: worker, worker.process.sentinel: worker}
        ready = {id(sources[source]): sources[source] for source in wait(list(sources), timeout=1.0)}
        return [self._outcome(worker) for worker in ready.values()]

    def _outcome(self, worker: _Worker) -> Outcome:
        job = worker.job
        assert job is not None
        try:
            if not worker.connection.poll():
                raise EOFError
            record, error = worker.connection.recv()
        except (EOFError, OSError):
            return Outcome(job, None, self._bury(worker), died=True)
        worker.job = None
        return Outcome(job, record, error)

    def _start(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=serve, args=(there,))
        with _interrupts_ignored():
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> str:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join(5)
        code = worker.process.exitcode
        if code is None:
            worker.process.kill()
        if code is not None and code < 0:
            return f"the worker process was killed by {signal.Signals(-code).name}"
        return f"the worker process ended with exit code {code}"


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """A process started in here ignores Ctrl-C from its first instruction on: stopping it is the parent's job."""
    try:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread, where no Ctrl-C arrives either
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
