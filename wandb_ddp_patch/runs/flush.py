"""Makes a worker's rows reach the service before it ends or returns a result.

A pool ends its workers with SIGTERM, which runs nothing of theirs, once it has the
results of their tasks. So rows must have arrived before a result is handed back: what a
worker sends by a connection of multiprocessing's (pools and executors use them) waits
for the rows that were logged before. Copies of multiprocessing count as it does.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Callable, List, Optional, Tuple, Union

from .. import _lifecycle, _multiprocessing
from . import state
from .state import OwnerState, WorkerState
from .transport import Transport

# Runs that this process uses, with their transports.
_used: List[Tuple[Any, Transport]] = []
_hooked = 0  # the process that flushes them at its end, and before it sends anything
_flushing = threading.local()
_MARK = "_flushes_runs"  # what we have put around a function


def register(run: Any, transport: Transport) -> None:
    """Flush a run when this process ends, and before it sends anything."""
    if all(used is not run for used, _ in _used):
        _used.append((run, transport))
    _hook()


def unregister(run: Any) -> None:
    """Stop flushing a run: this process is done with it."""
    _used[:] = [pair for pair in _used if pair[0] is not run]


def detach_finished(but: Any) -> None:
    """Detach the runs that their owner has finished, before another one is connected."""
    for run, transport in registered():
        if run is not but and transport.is_closed():
            _detach(run, transport)


def detach_all() -> bool:
    """Detach all runs, for wandb.teardown(); return False where there are none."""
    used = registered()
    for run, transport in used:
        run_state = state.get_state(run)
        if isinstance(run_state, WorkerState):
            _detach(run, run_state)
        transport.attached = False  # the connection does not stay for the next task
    return bool(used)


def _detach(run: Any, holder: Union[WorkerState, Transport]) -> None:
    try:
        holder.detach(run)
    except Exception as error:  # of an earlier call, and nobody has heard of it
        _lifecycle.termwarn(f"A call to an earlier run failed: {type(error).__name__}: {error}")


def registered() -> List[Tuple[Any, Transport]]:
    """Return the runs that are to be flushed, with their transports."""
    return list(_used)


def _hook() -> None:
    global _hooked
    if _hooked == os.getpid():
        return
    _hooked = os.getpid()
    _lifecycle.at_exit(flush_all, _lifecycle.FLUSH_ROWS)
    _lifecycle.before_os_exit(_before_os_exit)
    # Who has not loaded it has no connection of it.
    for module in _multiprocessing.modules("connection", "Connection"):
        for name in ("Connection", "PipeConnection"):
            kind = getattr(module, name, None)
            if kind is not None and not hasattr(kind._send_bytes, _MARK):
                kind._send_bytes = _flushing_first(kind._send_bytes)


def flush_all() -> None:
    """Flush what was logged since the last time."""
    for run, transport in registered():
        if transport.dirty:  # else all is there, though the run may be finished by now
            transport.flush(run)


def _before_os_exit(exit_code: Optional[int]) -> None:
    flush_all()
    # To finish a run may take long: not where it is not the end that the library of this
    # process has for it.
    if exit_code is not None:
        _finish_own(exit_code)


def _flushing_first(upstream: Callable[..., Any]) -> Callable[..., Any]:
    def _send_bytes(self: Any, *args: Any, **kwargs: Any) -> Any:
        for run, transport in _used:
            # Not while it is flushed: that may send something itself.
            if transport.dirty and not getattr(_flushing, "now", False):
                _flushing.now = True
                try:
                    transport.flush(run)
                finally:
                    _flushing.now = False
        return upstream(self, *args, **kwargs)

    setattr(_send_bytes, _MARK, True)
    return _send_bytes


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Forget the parent's runs, which it flushes itself."""
    _used.clear()


# --- runs of a worker's own ---------------------------------------------------

_finishing = 0  # the process whose end finishes its own runs


def finish_own_runs_at_exit() -> None:
    """Finish this process's own runs when it ends, where it is a worker.

    multiprocessing ends its forks without atexit, by which wandb finishes runs.
    """
    global _finishing
    if _finishing == os.getpid() or not _multiprocessing.is_worker():
        return
    _finishing = os.getpid()
    _lifecycle.at_worker_exit(_finish_own, _lifecycle.FINISH_OWN_RUNS)
    _lifecycle.before_os_exit(_before_os_exit)


def _finish_own(exit_code: Optional[int] = None) -> None:
    if _finishing != os.getpid():
        return
    if exit_code is None:
        kind, error, _ = sys.exc_info()
        exit_code = int(kind is not None and getattr(error, "code", 1) not in (None, 0))
    for run in state.live_runs():
        own = run.__dict__
        mine = own.get("_init_pid", own.get("_pid")) == os.getpid()
        if mine and isinstance(state.get_state(run), OwnerState) and not own.get("_is_finished"):
            run.finish(exit_code=exit_code)
