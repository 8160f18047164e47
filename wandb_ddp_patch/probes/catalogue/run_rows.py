"""Rows that workers log: they arrive, and whoever finishes first ends nobody else."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any, List

from ..multiprocess import (
    AT_ONCE_SECONDS,
    HANG_SECONDS,
    UNUSABLE,
    Job,
    fork,
    in_worker,
    in_workers,
    really_started,
    start_methods,
)
from ..offline_run import check_rows, log_rows, offline_run, run_path
from ..registry import check, probe


@probe(fails=f"rows that arrived|{UNUSABLE}")
def run_spawn() -> None:
    """A spawned worker uses a run that it was passed, and its row arrives."""
    with offline_run() as run, really_started():
        for method in start_methods():
            in_worker(log_rows, run, method, 1, method=method)
        path = run_path(run)
        run.finish()
        for method in start_methods():
            check_rows(path, {method: 1})


@probe(fails=f"rows that arrived|{UNUSABLE}|^hangs")
def run_rows() -> None:
    """All rows of four workers are in the run's file, with each start method."""
    with offline_run() as run:
        methods = [*start_methods(), "spawn", fork()]
        jobs = [(m, log_rows, (run, f"worker {n}", 50)) for n, m in enumerate(methods)]
        in_workers(jobs)
        path = run_path(run)
        run.finish()
        check_rows(path, {f"worker {n}": 50 for n in range(len(jobs))})


@probe(fails=f"^(hangs|died)|finish hang|rows that arrived|{UNUSABLE}", waits=True)
def run_finish() -> None:
    """A worker that calls finish() ends its own use of the run, and nobody else's."""
    with offline_run() as run:
        finished = multiprocessing.get_context("spawn").Semaphore(0)
        jobs: List[Job] = [
            ("spawn", _log_and_finish, (run, "run.finish", finished)),
            (fork(), _log_and_finish, (run, "wandb.finish", finished)),
            ("spawn", _log_after, (run, "spawn", finished)),
            (fork(), _log_after, (run, "fork", finished)),
        ]
        in_workers(jobs)
        run.log({"owner": 1})
        path = run_path(run)
        run.finish()
        check_rows(path, {"run.finish": 20, "wandb.finish": 20, "spawn": 20, "fork": 20})
        check_rows(path, {"owner": 1})


def _log_and_finish(run: Any, how: str, finished: Any) -> None:
    import wandb

    log_rows(run, how, 20)
    if how == "run.finish":
        run.finish()
    else:
        wandb.finish()
    for _ in range(2):
        finished.release()


def _log_after(run: Any, name: str, finished: Any) -> None:
    log_rows(run, name, 10)
    for _ in range(2):
        check(finished.acquire(timeout=HANG_SECONDS), "the workers that finish hang")
    log_rows(run, name, 10)


@probe(fails="log said nothing|it took seconds|^hangs", waits=True)
def run_owner_finished() -> None:
    """Workers that use a run after its owner has finished it get an error immediately."""
    with offline_run() as run:
        context = multiprocessing.get_context("spawn")
        ready, finished = context.Semaphore(0), context.Event()
        jobs = [
            (method, _log_late, (run, attached, ready, finished))
            for method in ("spawn", fork())
            for attached in (True, False)
        ]

        def finish() -> None:
            for _ in jobs:
                ready.acquire(timeout=HANG_SECONDS)
            run.finish()
            finished.set()

        for told in in_workers(jobs, meanwhile=finish):
            check(run.id in told, f"the error does not name the run: {told}")


def _log_late(run: Any, attached: bool, ready: Any, finished: Any) -> str:
    if attached:
        run.log({"x": 1})
    ready.release()
    finished.wait()
    begun = time.monotonic()
    try:
        run.log({"x": 2})
    except Exception as error:
        check(time.monotonic() - begun < AT_ONCE_SECONDS, f"{error}: it took seconds")
        return str(error)
    raise AssertionError("log said nothing")
