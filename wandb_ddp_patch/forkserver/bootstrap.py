"""What a worker of spawn() gets, and does, before the user's function is called."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from multiprocessing import process, reduction
from typing import Any, Callable, Dict

from ..runs.globals import set_global_run
from . import preload
from .parent_watch import ParentHandle, exit_with_parent


class WorkerTarget:
    """The user's function, and what its worker needs before it is loaded."""

    def __init__(
        self, fn: Callable[..., object], method: str, run: Any, parent: ParentHandle
    ) -> None:
        self.fn, self.method, self.run, self.parent = fn, method, run, parent

    def __reduce__(self) -> Any:
        # The parts are loaded in this order, and all of them before args.
        surroundings = ProcessContext(self.method)
        return _arrive, (surroundings, self.run, self.fn, self.method, self.parent)

    def __call__(self, rank: int, *args: Any) -> object:
        over = threading.Event()
        if os.name == "posix":
            # On Linux, torch has the system interrupt a worker whose parent dies.
            interrupt = self.method == "forkserver" or sys.platform != "linux"
            exit_with_parent(self.parent, interrupt, over)
        try:
            return self.fn(rank, *args)
        finally:
            over.set()


def _arrive(
    surroundings: None, run: Any, fn: Callable[..., object], method: str, parent: ParentHandle
) -> WorkerTarget:
    if run is not None:
        set_global_run(run)
    return WorkerTarget(fn, method, run, parent)


def reuse_process_number(worker: Any) -> None:
    """Let the next process of this one have that number, and the name with it."""
    module: Any = process
    module._process_counter = itertools.chain(worker._identity[-1:], module._process_counter)


class ProcessContext:
    """Makes a worker have this process's environment and streams, when it is loaded there."""

    def __init__(self, method: str) -> None:
        self.method = method

    def __reduce__(self) -> Any:
        if self.method == "forkserver":
            streams = {n: reduction.DupFd(n) for n in (1, 2) if _is_open(n)}
            return _surround, (dict(os.environ), streams)
        return type(None), ()


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _surround(environ: Dict[str, str], streams: Dict[int, Any]) -> None:
    """Make a worker that a forkserver has forked what a spawned one is."""
    # Where the forkserver's own lead to, nobody may read any more.
    for number, now in streams.items():
        descriptor = now.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)
    before = os.environ.get("OMP_NUM_THREADS")
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)
    threads = environ.get("OMP_NUM_THREADS", "")
    if threads != before and threads.isdigit() and "torch" in sys.modules:
        preload.set_torch_threads(int(threads), before)
    preload.set_random_state()
