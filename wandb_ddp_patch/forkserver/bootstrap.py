"""What a worker of spawn() receives, and does, before the user's function is called."""

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
    """The user's function, and what its worker needs before that is loaded."""

    def __init__(
        self, fn: Callable[..., object], method: str, run: Any, parent: ParentHandle
    ) -> None:
        self.fn, self.method, self.run, self.parent = fn, method, run, parent

    def __reduce__(self) -> Any:
        # pickle loads these in their order, and the worker's args after them: with the context
        # later, the import of the function's module, or an argument's __setstate__, would see the
        # forkserver's old environment; with the run later, no wandb.run.
        context = ProcessContext(self.method)
        return _load_target, (context, self.run, self.fn, self.method, self.parent)

    def __call__(self, rank: int, *args: object) -> object:
        finished = threading.Event()
        if os.name == "posix":
            # On Linux, torch itself has the system interrupt a worker whose parent dies; but the
            # parent of a forked one is the forkserver.
            interrupt = self.method == "forkserver" or sys.platform != "linux"
            exit_with_parent(self.parent, interrupt, finished)
        try:
            return self.fn(rank, *args)
        finally:
            finished.set()


def _load_target(
    context: None, run: Any, fn: Callable[..., object], method: str, parent: ParentHandle
) -> WorkerTarget:
    if run is not None:
        set_global_run(run)
    return WorkerTarget(fn, method, run, parent)


def reuse_process_number(worker: Any) -> None:
    """Let the next process that this one starts have a worker's number, and thus its name."""
    module: Any = process
    module._process_counter = itertools.chain(worker._identity[-1:], module._process_counter)


class ProcessContext:
    """This process's environment and streams: loading it in a forked worker applies them there."""

    def __init__(self, method: str) -> None:
        self.method = method

    def __reduce__(self) -> Any:
        if self.method == "forkserver":
            streams = {n: reduction.DupFd(n) for n in (1, 2) if _is_open(n)}
            return _apply_context, (dict(os.environ), streams)
        return type(None), ()  # a spawned worker has them


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _apply_context(environ: Dict[str, str], streams: Dict[int, Any]) -> None:
    # The parent may have redirected its streams since the forkserver was started: what workers
    # print would go where nobody reads it any more.
    for number, stream in streams.items():
        descriptor = stream.detach()
        os.dup2(descriptor, number)
        os.close(descriptor)
    threads_at_import = os.environ.get("OMP_NUM_THREADS")
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)
    threads = environ.get("OMP_NUM_THREADS", "")
    if threads != threads_at_import and threads.isdigit() and "torch" in sys.modules:
        preload.libraries.set_torch_threads(int(threads), threads_at_import)
    preload.libraries.restore_random_numbers()
