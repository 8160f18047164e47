"""What a worker of spawn() gets, and does, before the user's function is called."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection
from typing import Any, Callable, Dict

from ..borrowed.current import make_current
from . import preload


class Job:
    """The user's function, and what its worker needs before it is loaded."""

    def __init__(self, fn: Callable[..., object], method: str, run: Any) -> None:
        self.fn, self.method, self.run = fn, method, run

    def __reduce__(self) -> Any:
        # The parts are loaded in this order, and all of them before args.
        return _arrive, (_Surroundings(self.method), self.run, self.fn, self.method)

    def __call__(self, rank: int, *args: Any) -> object:
        if self.method == "forkserver":
            # torch has the system end a worker whose parent dies, but the
            # parent of this one is the forkserver.
            threading.Thread(target=_end_with_parent, name="wandb_ddp_patch", daemon=True).start()
        return self.fn(rank, *args)


def _arrive(surroundings: None, run: Any, fn: Callable[..., object], method: str) -> Job:
    if run is not None:
        make_current(run)
    return Job(fn, method, run)


class _Surroundings:
    def __init__(self, method: str) -> None:
        self.method = method

    def __reduce__(self) -> Any:
        if self.method == "forkserver":
            return _surround, (dict(os.environ),)
        return type(None), ()


def _surround(environ: Dict[str, str]) -> None:
    """Make a worker that a forkserver has forked what a spawned one is."""
    before = os.environ.get("OMP_NUM_THREADS")
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)
    threads = environ.get("OMP_NUM_THREADS", "")
    if threads != before and threads.isdigit() and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))  # it has read that already
    preload.set_random_state()


def _end_with_parent() -> None:
    parent = multiprocessing.process.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)
