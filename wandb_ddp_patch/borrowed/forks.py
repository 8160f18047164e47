"""A fork makes of each run that it inherits what it would be, had it been pickled."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from typing import Any, Tuple

from . import link, locks
from .facts import fact

# Which have something of the parent's to let go of.
_ROOMS = (
    "alive",
    "connection",
    "ending",
    "locks",
    "making",
    "marker",
    "relay",
    "remote.opening",
    "remote.way",
    "service",
    "serving",
    "ways",
)


def _started_runs() -> Tuple[Any, ...]:
    return tuple(run for run in link.runs() if _has_started(run))


def _has_started(run: Any) -> bool:
    own = run.__dict__
    return bool(own.get("_attach_id")) or (
        own.get("_backend") is not None and not fact(run, "disabled")
    )


def inherit(run: Any) -> None:
    """Make a run that this process got by a fork one that it borrows."""
    from . import payload, ways  # late: only forks need them, and what is pickled

    tied = link.of(run)
    if isinstance(tied, link.Borrowed):  # a worker's worker: it connects anew
        data, state = tied.payload, tied.state
    else:
        data, state = payload.written(run), link.APART
        if data["finished"] and data["attach_id"]:
            state = link.FINISHED_BEFORE
    if state is not link.FINISHED_BEFORE:
        state = link.APART
    link.tie(run, link.Borrowed(data, ways.home(data), state))


def _before() -> None:
    # A child would inherit the locks that another thread holds while it
    # connects, and wait for ever.
    link.connecting.acquire(timeout=40)
    with contextlib.suppress(Exception):
        runs = _started_runs()
        if runs:
            _read_for_child()
            locks.find()
        for run in runs:
            _share(run, link.of(run))


def _read_for_child() -> None:
    """Read the modules that a child's runs need, and wait for those being read.

    The child may have no descriptor left to read them; and it would inherit the lock of
    a module that another thread is reading, and wait for ever.
    """
    for name in ("payload", *_ROOMS):
        module = f"{__package__}.{name}"
        if name == "payload" or module in sys.modules:
            importlib.import_module(module)


def _share(run: Any, tied: Any) -> None:
    from . import payload, ways  # late: see inherit

    if isinstance(tied, link.Owned):
        is_first = not tied.shared
        ways.share(run)
        if is_first:
            ways.kind(payload.written(run))


def _after_in_parent() -> None:
    with contextlib.suppress(RuntimeError):  # it was not to be had
        link.connecting.release()


def _after_in_child() -> None:
    link.after_fork_in_child()
    with contextlib.suppress(Exception):
        for name in _ROOMS:
            # What is not loaded has nothing to let go of.
            module: Any = sys.modules.get(f"{__package__}.{name}")
            if module is not None:
                module.after_fork_in_child()
        for run in _started_runs():
            inherit(run)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
