"""In a fork, turns each inherited run into what it would be had it been pickled."""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from types import ModuleType
from typing import Any, Callable, Dict, Set, Tuple

from .. import _lifecycle
from .._lifecycle import ForkStage
from ..runs import state, transport
from ..runs.metadata import get_field
from ..runs.state import OwnerState, Phase, WorkerState
from ..runs.transport import Transport, UnreachableTransport
from ..transports import selection
from . import payload

_PACKAGE = __package__.partition(".")[0]

# How long a fork waits for another thread that attaches a run: that takes parts of a
# second, but where a service is busy.
_CONNECTING_SECONDS = 5


def inherit(run: Any) -> None:
    """Turn an inherited run into a worker's run."""
    run_state = state.get_state(run)
    if isinstance(run_state, WorkerState):  # a worker's worker: it connects anew
        data, phase = run_state.payload, run_state.phase
    else:
        data, phase = payload.describe(run), Phase.DETACHED
        if data["finished"] and data["attach_id"]:
            phase = Phase.FINISHED
    if phase is not Phase.FINISHED:
        phase = Phase.DETACHED
    selected: Transport = UnreachableTransport(selection.NO_TRANSPORT)
    with contextlib.suppress(Exception):  # there may be no descriptor left to read its module
        selected = selection.select(data)
    state.bind(run, WorkerState(data, selected, phase))


def _has_started(run: Any) -> bool:
    own = run.__dict__
    if own.get("_attach_id") or isinstance(state.get_state(run), WorkerState):
        return True
    return own.get("_backend") is not None and not get_field(run, "disabled")


# --- before a fork, in the parent -----------------------------------------------

# The runs, by their keys, for which the modules of their transport have been read.
_prepared: Set[str] = set()


def _before() -> None:
    # A child would inherit the lock that another thread holds while it connects, in the middle
    # of what that changes; and the child's copy of wandb would be half attached.
    transport.connecting.acquire(timeout=_CONNECTING_SECONDS)
    runs = state.live_runs()
    if runs:
        _wait_for_imports()
    for run in runs:
        _try(_publish, run)
    if runs:
        # Last: publishing imports, and what was imported is looked through.
        _try(_find_locks_of_wandb)


def _wait_for_imports() -> None:
    """Wait for modules of ours that another thread is reading.

    The child would inherit each half read, with its import lock held, and wait for ever when it
    needs it; nor has it registered yet what it does in a fork.
    """
    for name in list(sys.modules):
        if name.startswith(_PACKAGE) and _is_being_imported(sys.modules.get(name)):
            _try(importlib.import_module, name)


def _is_being_imported(module: Any) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _publish(run: Any) -> None:
    run_state = state.get_state(run)
    if isinstance(run_state, OwnerState) and _has_started(run):
        selection.publish(run)
        if run_state.key not in _prepared:
            # Read what the child needs: it may have no descriptor left for that, and what is read
            # only there has not let go of the parent's service, and would end that with the child.
            selection.transport_class(payload.describe(run))
            _prepared.add(run_state.key)


def _after_in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # the time was up before it was acquired
        transport.connecting.release()


def _try(function: Callable[..., object], *args: Any) -> None:
    # A fault in one must keep neither the fork nor the rest from going on.
    with contextlib.suppress(Exception):
        function(*args)


# --- after it, in the child -----------------------------------------------------


@_lifecycle.in_forked_child(ForkStage.INHERIT_RUNS)
def _inherit_all() -> None:
    for run in state.live_runs():
        _try(_inherit_if_started, run)


def _inherit_if_started(run: Any) -> None:
    if _has_started(run):
        inherit(run)


# --- wandb's own locks ----------------------------------------------------------

# A lock of wandb's that another thread of the parent held at that moment would stay locked for
# ever, and the worker would wait for it when it logs, prints or attaches.

_LOCK_TYPES = (type(threading.Lock()), type(threading.RLock()))

# The names of the locks of each module of wandb's that has some: few have, and a fork goes
# through these alone. Which modules have been looked through, and how many there were.
_locks: Dict[str, Tuple[str, ...]] = {}
_searched: Set[str] = set()
_module_count = 0


def _find_locks_of_wandb() -> None:
    """Find the locks in what was imported since the last fork: a look at all takes too long."""
    global _module_count
    if len(sys.modules) == _module_count:
        return
    names = list(sys.modules)
    _module_count = len(names)
    for name in names:
        if not name.startswith("wandb") or name in _searched:
            continue
        # What is blocked from being imported is None there.
        module = sys.modules.get(name)
        if isinstance(module, ModuleType) and name.partition(".")[0] == "wandb":
            if _is_being_imported(module):
                _module_count = 0  # it may make more of them: look again
                continue
            _searched.add(name)
            locks = tuple(key for key, value in list(vars(module).items()) if _is_lock(value))
            if locks:
                _locks[name] = locks


def _is_lock(value: Any) -> bool:
    # Not isinstance(), which asks for __class__: that has lazy modules imported.
    return type(value) in _LOCK_TYPES


@_lifecycle.in_forked_child(ForkStage.RENEW_LOCKS)
def _renew_locks_of_wandb() -> None:
    # New ones, instead of releasing these: a lock is also the business of the thread that held
    # it, and this may be that thread, which goes on in the child and releases its own.
    new: Dict[int, Any] = {}  # two modules may have one lock, by "from ... import"
    for name, keys in _locks.items():
        module = sys.modules.get(name)
        own = vars(module) if isinstance(module, ModuleType) else {}
        for key in keys:
            old = own.get(key)
            if _is_lock(old):
                make = threading.Lock if type(old) is _LOCK_TYPES[0] else threading.RLock
                own[key] = new.setdefault(id(old), make())


_lifecycle.around_forks(_before, _after_in_parent)
