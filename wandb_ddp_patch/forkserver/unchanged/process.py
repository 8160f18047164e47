"""A process that is spawned for all who see it, and comes from the forkserver.

torch gets it from multiprocessing, by a start method of its own. _load() does at its start, and
_bootstrap() at its end, what Python does for a spawned process and not for a forked one.
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
    """A process is named after its class: "SpawnProcess-1" as with spawn, by this name."""

    # Only while it is being started, for __reduce__().
    _parent: ParentHandle

    @staticmethod
    def _Popen(worker: Any) -> Any:
        from multiprocessing import popen_forkserver  # which not every platform has

        with ParentHandle() as worker._parent:
            try:
                return popen_forkserver.Popen(worker)
            except ValueError:
                # Too many descriptors: torch is asked to spawn these workers instead, and they
                # are to have the numbers that they would have had at first.
                bootstrap.reuse_process_number(worker)
                raise
            finally:
                del worker._parent

    def __reduce__(self) -> Any:
        state = dict(vars(self))
        # The context is loaded before the state, which contains the user's function and
        # arguments: they are to see the environment of now.
        return _load, (bootstrap.ProcessContext("forkserver"), state.pop("_parent")), state

    def _bootstrap(self, *args: object, **kwargs: object) -> int:
        exitcode: int = super()._bootstrap(*args, **kwargs)  # type: ignore[misc]
        # The forkserver ends this process by os._exit() next. A spawned process ends as an
        # interpreter does: exit functions first, which may still write; then files are closed,
        # then the standard streams are flushed, Python's before C's.
        with contextlib.suppress(Exception):  # whose traceback is printed by now
            atexit._run_exitfuncs()
        open_files.close_own()
        util._flush_std_streams()  # type: ignore[attr-defined]
        open_files.flush_c_streams()
        return exitcode


class _Context(context.SpawnContext):
    Process = SpawnProcess


def register_start_method() -> None:
    """Add the start method to those of multiprocessing."""
    context._concrete_contexts.setdefault(METHOD, _Context())  # type: ignore[attr-defined]


def unregister_start_method() -> None:
    """Remove it from them."""
    context._concrete_contexts.pop(METHOD, None)  # type: ignore[attr-defined]


# --- in the worker --------------------------------------------------------------


def _load(applied: None, parent: ParentHandle) -> SpawnProcess:
    # Python calls it in forked processes, of which this one is none to it. It resets what belongs
    # to one process in multiprocessing: finalizers, locks, and threads that a fork does not have.
    after_fork = getattr(process.BaseProcess, "_after_fork", None)  # from Python 3.9 on
    if after_fork is not None:
        after_fork()
    # weakref's finalizers run in any process. Without this, the first worker to end would remove
    # each TemporaryDirectory that the import of the script has created, for all of them; the
    # forkserver does so at its own end.
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    # multiprocessing has set sys.path to the parent's: many scripts add to it when imported.
    if preload.report.sys_path is not None:
        sys.path[:] = preload.report.sys_path
    open_files.mark_start()
    exit_with_parent(parent, True, threading.Event(), escalate=False)
    return SpawnProcess.__new__(SpawnProcess)
