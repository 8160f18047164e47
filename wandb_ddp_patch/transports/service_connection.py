"""wandb's connection to a service, of which a process has one: which run uses it.

A worker may have a run of its own, or be handed runs of several owners. Then a run
that attaches gets a separate connection, and the process keeps its own, with its
environment and with what wandb.run, wandb.log and the like refer to.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import selectors
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .. import _lifecycle
from ..runs import state

_SERVICE = "WANDB_SERVICE"

# wandb's objects for connections to other services than this process's own.
_others: Dict[str, Any] = {}
# Connections that no run uses at the moment, for the next run of that service.
_parked: Dict[str, Any] = {}
# wandb's object that has become this process's own because a run has attached by it, its service,
# and WANDB_SERVICE before that.
_adopted: Optional[Tuple[Any, str, Optional[str]]] = None
# What a fork has of its parent's, see after_fork_in_child.
_inherited: List[Any] = []


def _slot() -> Tuple[Any, str]:
    """Return where wandb keeps the process's one object for its connection: holder and name."""
    module = importlib.import_module("wandb.sdk.wandb_setup")
    kept = getattr(module, "_WandbSetup", None)
    return (kept, "_instance") if hasattr(kept, "_instance") else (module, "_singleton")


def _connects(setup: Any) -> bool:
    """Return True if wandb's object is this process's, and connected."""
    if getattr(setup, "_pid", None) != os.getpid():
        return False
    return bool(getattr(setup, "_connection", None) or getattr(setup, "_manager", None))


def _is_separate(name: str, connected: bool, service: str, always: bool) -> bool:
    """Return True if a run attaches by an object that is not the process's one afterwards."""
    if name != "_singleton":
        # Up to 0.18 a run looks up the one object for each message, so it can't be replaced
        # only while a run attaches.
        return always
    return connected and os.environ.get(_SERVICE) != service


@contextlib.contextmanager
def use_service(service: str, always_separate: bool = False) -> Iterator[None]:
    """Make wandb's one connection lead to a service, while a run attaches.

    Where the process had none, it keeps that one. After an exception all is as before.

    Args:
        service: A value of WANDB_SERVICE.
        always_separate: Whether to leave the process's one connection alone up to 0.18 as well.
    """
    global _adopted
    owner, name = _slot()
    before, service_before = getattr(owner, name, None), os.environ.get(_SERVICE)
    connected = _connects(before)
    is_separate = _is_separate(name, connected, service, always_separate)
    if is_separate:
        setattr(owner, name, _others.get(service))
    elif service in _parked and getattr(before, "_pid", None) == os.getpid():
        vars(before)["_connection"] = _parked.pop(service)
    # The environment may be older than wandb.init(): that of a forkserver or a pool that was
    # started before. wandb looks for its service there.
    os.environ[_SERVICE] = service
    done = False
    try:
        _keep_settings(owner, before)
        with _globals_kept():
            yield
        done = True
        setup = getattr(owner, name, None)
        if is_separate:
            _others[service] = setup
        elif not connected:
            _adopted = (setup, service, service_before)
    finally:
        if is_separate or not done:
            _set_environment(service_before)
            if getattr(owner, name, None) is not before:
                setattr(owner, name, before)
            elif not connected:
                _disconnect(owner, name)


def _keep_settings(module: Any, before: Any) -> None:
    """Let a fork use the settings that its parent has loaded, where they would be the same.

    To load them is half of what attaching takes a fork: wandb starts git, for one.
    """
    settings = getattr(before, "_settings", None)
    if settings is None or before._pid == os.getpid():
        return
    with contextlib.suppress(Exception):  # of a release that keeps them otherwise
        if before.did_environment_change() or settings.root_dir != os.getcwd():
            return
        setup = module.singleton()
        if setup.settings_if_loaded is None:
            settings.x_stats_pid = os.getpid()
            sys.modules["wandb"].termsetup(settings, None)
            setup._settings_environ, setup._settings = before._settings_environ, settings


def _disconnect(owner: Any, name: str) -> None:
    """Have the process's one object connect again when it is used next."""
    setup = getattr(owner, name, None)
    if setup is not None and name == "_singleton":
        setup._connection = None
    else:  # up to 0.18 it connects when it is created
        setattr(owner, name, None)


def _set_environment(service: Optional[str]) -> None:
    os.environ.pop(_SERVICE, None)
    if service is not None:
        os.environ[_SERVICE] = service


@contextlib.contextmanager
def _globals_kept() -> Iterator[None]:
    """Keep wandb.run and the like, where they are a run's of this process's own."""
    wandb: Any = sys.modules["wandb"]
    run_state = state.get_state(wandb.run) if wandb.run is not None else None
    before = dict(vars(wandb))
    try:
        yield
    finally:
        if isinstance(run_state, state.OwnerState):
            vars(wandb).update({k: v for k, v in before.items() if vars(wandb).get(k) is not v})


def hide_from_init(run: Any) -> None:
    """Let wandb.init() start a run of this process's own, not return the one passed to it."""
    remove: Any = getattr(getattr(run, "_wl", None), "remove_active_run", None)
    if remove is not None:  # from 0.19.10 or so on
        remove(run)


def release(service: str) -> None:
    """Release the connection of runs that have all been left.

    A run of this process's own then gets a service of its own, or that of its
    environment: the other one may end at any time.
    """
    global _adopted
    if _adopted is None or _adopted[1] != service:
        return
    if any(
        isinstance(state.get_state(run), state.OwnerState) and _is_active(run)
        for run in state.live_runs()
    ):
        return  # it uses that connection
    owner, name = _slot()
    if name != "_singleton":
        return  # up to 0.18 runs that were left still look it up
    setup: Any = _adopted[0]
    if getattr(owner, name, None) is setup:
        _parked[service] = vars(setup)["_connection"]
        _disconnect(owner, name)
    if os.environ.get(_SERVICE) == service:
        _set_environment(_adopted[2])
    _adopted = None


def disown_service(setup: Any) -> None:
    """Keep wandb's setup object, which is torn down, from ending a service that others own."""
    global _adopted
    _adopted = None
    _parked.clear()  # they need the object's loop, which ends
    for name in ("_connection", "_manager"):  # from 0.18 on; up to 0.17
        kept = getattr(setup, name, None)
        if not getattr(kept, "_proc", None) and not getattr(kept, "_atexit_lambda", None):
            vars(setup)[name] = None


def _is_active(run: Any) -> bool:
    own = run.__dict__
    return bool(own.get("_attach_id")) and not own.get("_is_finished")


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Use nothing of the parent's, which does not work here; but keep it.

    From 0.21 on, it holds the loop that reads from the service, and the kernel has one epoll
    list for both processes' loops. A copy that is collected removes the parent's connection
    from that list, and the parent would wait for its next answer for ever.
    """
    global _adopted
    owner, name = _slot()
    setups = [getattr(owner, name, None), *_others.values(), *(_adopted or ())[:1]]
    _inherited.append((setups, list(_parked.values())))
    _others.clear()
    _parked.clear()
    _adopted = None
    for setup in setups:
        loop: Any = getattr(getattr(setup, "_asyncer", None), "_loop", None)
        # At the interpreter's end everything is collected, also what is kept here.
        if hasattr(loop, "_selector"):
            loop._selector = selectors.SelectSelector()
        _leave_service_running(setup)


def _leave_service_running(setup: Any) -> None:
    """Remove the hook by which the interpreter's end would end its parent's service."""
    hook = getattr(getattr(setup, "_manager", None), "_atexit_lambda", None)  # up to 0.18
    if hook is not None:
        atexit.unregister(hook)
    take_off = getattr(getattr(setup, "_connection", None), "_cleanup", None)
    if take_off is not None:
        take_off()
