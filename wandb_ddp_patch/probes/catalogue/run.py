"""Runs: what comes back from pickle and copy, and what a worker reads from one."""

from __future__ import annotations

import copy
import functools
import pickle

from ..multiprocess import UNUSABLE, in_worker, start_methods
from ..offline_run import ITEMS, log_and_read, offline_run, read_run, run_facts
from ..registry import check, probe


@probe(fails="attach in the same process|made another run")
def run_same_process() -> None:
    """A run that is copied or unpickled in its own process is the same object."""
    import wandb

    with offline_run() as run:
        check(pickle.loads(pickle.dumps(run)) is run, "pickle made another run")
        check(copy.copy(run) is run, "copy made another run")
        log = pickle.loads(pickle.dumps(wandb.log))
        check(log.__self__ is run, "wandb.log came back bound to another run")
        partial = pickle.loads(pickle.dumps(functools.partial(run.log, {"x": 1})))
        check(partial.func.__self__ is run, "a partial came back bound to another run")
        before = pickle.dumps(run)
        run.finish()
        check(pickle.loads(before) is run, "finished, pickle made another run")
        check(pickle.loads(pickle.dumps(run)) is run, "finished, pickle made another run")


@probe(fails=rf"got \(.*\{{\}}\)|an offline run has a URL|{UNUSABLE}")
def run_config() -> None:
    """A worker sees the run's config and names."""
    with offline_run() as run:
        expected = run_facts(run.id)
        for method in start_methods():
            got = in_worker(read_run, run, method=method)
            check(got == expected, f"{method}: got {got}")
            got = in_worker(log_and_read, run, method=method)
            check(got == (7, ITEMS, ITEMS), f"{method}, after logging: got {got}")
