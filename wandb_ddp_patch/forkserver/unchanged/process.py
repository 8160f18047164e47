"""A process that is spawned for all who see it, and comes from the forkserver.

torch gets it from multiprocessing, by a start method of its own. What a spawned process
is and a forked one is not, it becomes: at its start in _arrive(), at its end in _bootstrap().
"""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import weakref
from multiprocessing import context, process, util
from typing import Any

from .. import bootstrap, open_files, preload
from ..parent_watch import ParentHandle, exit_with_parent

METHOD = "spawn, from the forkserver of wandb_ddp_patch"


class SpawnProcess(context.SpawnProcess):
    """Named as it is because a process has the name of its class, and a number."""

    _held: ParentHandle

    @staticmethod
    def _Popen(worker: Any) -> Any:
        from multiprocessing import popen_forkserver  # which not every platform has

        with ParentHandle() as worker._held:
            try:
                return popen_forkserver.Popen(worker)
            except ValueError:
                bootstrap.reuse_process_number(
                    worker
                )  # too many fds: torch will be asked for another
                raise
            finally:
                del worker._held

    def __reduce__(self) -> Any:
        state = dict(vars(self))
        # Loaded before the state, in which the user's function is.
        return _arrive, (bootstrap.ProcessContext("forkserver"), state.pop("_held")), state

    def _bootstrap(self, *args: Any, **kwargs: Any) -> int:
        exitcode: int = super()._bootstrap(*args, **kwargs)  # type: ignore[misc]
        with contextlib.suppress(Exception):  # which they have said
            atexit._run_exitfuncs()
        open_files.close()
        util._flush_std_streams()  # type: ignore[attr-defined]
        open_files.flush_c()
        return exitcode


class _Context(context.SpawnContext):
    Process = SpawnProcess


def register_start_method() -> None:
    """Let multiprocessing know the start method."""
    context._concrete_contexts.setdefault(METHOD, _Context())  # type: ignore[attr-defined]


def unregister_start_method() -> None:
    """Let multiprocessing forget it."""
    context._concrete_contexts.pop(METHOD, None)  # type: ignore[attr-defined]


# --- in the worker --------------------------------------------------------------


def _arrive(surroundings: None, parent: ParentHandle) -> SpawnProcess:
    after_fork = getattr(process.BaseProcess, "_after_fork", None)  # from Python 3.9 on
    if after_fork is not None:
        after_fork()
    # What the forkserver has made, it removes at its own end.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    if preload.path is not None:
        sys.path[:] = preload.path  # many scripts add to it
    open_files.mark_start()
    exit_with_parent(parent, True, threading.Event(), insist=False)
    return SpawnProcess.__new__(SpawnProcess)
