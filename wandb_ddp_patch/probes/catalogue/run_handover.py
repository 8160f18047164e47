"""Runs that reach a worker otherwise than as its argument."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import pickle
from typing import Any, Callable

import wandb_ddp_patch

from ..multiprocess import HANG_SECONDS, UNUSABLE, in_worker, really_started, start_methods
from ..offline_run import (
    ITEMS,
    check_rows,
    config_items,
    log_and_read,
    log_rows,
    offline_run,
    read_run,
    run_facts,
    run_path,
)
from ..registry import CannotRun, check, probe


@probe(fails=f"rows that arrived|No response|{UNUSABLE}", first=True, waits=True)
def run_early_server() -> None:
    """A pool and a forkserver that were started before wandb.init() can use the run."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(really_started())
        context: Any = multiprocessing.get_context(start_methods()[-1])
        pool = stack.enter_context(context.Pool(1))
        pool.apply(_import_wandb)  # it is up now
        run = stack.enter_context(offline_run())
        pool.apply_async(log_rows, (run, "pool", 5)).get(HANG_SECONDS)
        in_worker(log_rows, run, "server", 5, method=context.get_start_method())
        path = run_path(run)
        pool.close()
        pool.join()
        run.finish()
        check_rows(path, {"pool": 5, "server": 5})


def _import_wandb() -> None:
    importlib.import_module("wandb")


@probe(4990, fails=r"AssertionError: wandb\.run is |^hangs", waits=True)
def run_global() -> None:
    """In a worker of spawn(), wandb.run, wandb.config and wandb.log use the parent's run."""
    try:
        import torch  # noqa: F401
    except ImportError:
        raise CannotRun("torch is not installed") from None
    with offline_run() as run:
        wandb_ddp_patch.spawn(_use_globals, (run.id,), nprocs=2)
        path = run_path(run)
        run.finish()
        check_rows(path, {"rank 0": 1, "rank 1": 1})


def _use_globals(rank: int, run_id: str) -> None:
    import wandb

    check(wandb.run is not None and wandb.run.id == run_id, f"wandb.run is {wandb.run}")
    check(config_items(wandb.config) == ITEMS, "wandb.config differs")
    wandb.log({f"rank {rank}": 1})


@probe(4990, fails=r"must call wandb\.init|is not subscriptable|has no attribute 'lr'")
def run_not_passed() -> None:
    """In a worker that was passed nothing, wandb.log() and wandb.config use the parent's run."""
    with offline_run() as run:
        for method in start_methods():
            in_worker(_use_what_was_not_passed, method, method=method)
        path = run_path(run)
        run.finish()
        check_rows(path, dict.fromkeys(start_methods(), 1))


def _use_what_was_not_passed(row: str) -> None:
    import wandb

    check(wandb.run is None, f"wandb.run is {wandb.run}")
    wandb.log({row: 1})
    check(config_items(wandb.config) == ITEMS, "wandb.config differs")


@probe(8619, fails=UNUSABLE)
def run_forward() -> None:
    """A worker can pass the run on to its own worker before using it."""
    with offline_run() as run:
        got = in_worker(_forward, read_run, run)
        check(got == run_facts(run.id), f"got {got}")
        got = in_worker(_forward, log_and_read, run)
        check(got == (7, ITEMS, ITEMS), f"after logging: got {got}")


def _forward(function: Callable[..., Any], run: Any) -> Any:
    return in_worker(function, pickle.loads(pickle.dumps(run)))
