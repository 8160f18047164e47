"""A fork makes of each run that it inherits what it would be, had it been pickled."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any, Callable

from ..runs import state
from ..runs.metadata import get_field
from ..transports import selection
from . import fork_locks, payload

_PACKAGE = __package__.rpartition(".")[0]

# Which have something of the parent's to let go of.
_ROOMS = (
    "handover.fork_locks",
    "runs.execute",
    "runs.flush",
    "runs.liveness",
    "runs.owner_file",
    "transports.local",
    "transports.local_server",
    "transports.remote.shared_runs",
    "transports.selection",
    "transports.service",
    "transports.service_connection",
    "transports.tunnel",
)

# How long a fork waits for another thread that attaches a run: that takes parts of a
# second, but where a service is busy.
_CONNECTING_SECONDS = 5


def _has_started(run: Any) -> bool:
    own = run.__dict__
    if own.get("_attach_id") or isinstance(state.get_state(run), state.WorkerState):
        return True
    return own.get("_backend") is not None and not get_field(run, "disabled")


def inherit(run: Any) -> None:
    """Make a run that this process got by a fork one that it borrows."""
    tied = state.get_state(run)
    if isinstance(tied, state.WorkerState):  # a worker's worker: it connects anew
        data, phase = tied.payload, tied.phase
    else:
        data, phase = payload.describe(run), state.Phase.DETACHED
        if data["finished"] and data["attach_id"]:
            phase = state.Phase.FINISHED
    if phase is not state.Phase.FINISHED:
        phase = state.Phase.DETACHED
    way = None
    with contextlib.suppress(Exception):  # there may be no descriptor left to read it
        way = selection.select(data)
    state.bind(run, state.WorkerState(data, way, phase))


def _before() -> None:
    # A child would inherit the locks that another thread holds while it
    # connects, and wait for ever.
    state.connecting.acquire(timeout=_CONNECTING_SECONDS)
    runs = state.live_runs()
    if runs:
        _try(_wait_for_imports)
    for run in runs:
        _try(_share, run)
    if runs:
        _try(fork_locks.find)  # last: sharing imports, and what was imported is looked through


def _wait_for_imports() -> None:
    """Wait for modules that another thread is reading: a child would wait for ever."""
    for name in _ROOMS:
        module = f"{_PACKAGE}.{name}"
        if module in sys.modules:
            importlib.import_module(module)


def _share(run: Any) -> None:
    tied = state.get_state(run)
    if isinstance(tied, state.OwnerState) and _has_started(run):
        is_first = not tied.shared
        selection.publish(run)
        if is_first:  # read what the child needs: it may have no descriptor left for that
            selection.transport_class(payload.describe(run))


def _after_in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # it was not to be had
        state.connecting.release()


def _after_in_child() -> None:
    state.after_fork_in_child()
    for name in _ROOMS:
        # What is not loaded has nothing to let go of.
        module: Any = sys.modules.get(f"{_PACKAGE}.{name}")
        if module is not None:
            _try(module.after_fork_in_child)
    for run in state.live_runs():
        _try(_inherit_if_started, run)


def _inherit_if_started(run: Any) -> None:
    if _has_started(run):
        inherit(run)


def _try(function: Callable[..., None], *args: Any) -> None:
    # A fault in one must keep neither the fork nor the rest from going on.
    with contextlib.suppress(Exception):
        function(*args)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
