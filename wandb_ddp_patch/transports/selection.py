"""Chooses the transport by which a run is reached; publishes runs to workers, and closes them.

Only a run that has attached by its id gets its transport elsewhere: ``adopt_attached_run()`` in
handover/payload.py. Each is imported where a run needs it: most processes need one, or none.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
import time
from typing import Any, Callable, Optional, Tuple

from .. import _lifecycle
from .._process import is_same_host, process_fingerprint
from ..runs import liveness, state
from ..runs.payload_format import Payload
from ..runs.transport import Transport, UnreachableTransport

_publishing = threading.RLock()


NO_TRANSPORT = (
    "runs of this wandb work in one process only, and no local socket could be created for workers"
)


def select(payload: Payload) -> Transport:
    """Return the transport, not connected yet, by which a run reaches its owner."""
    kind = transport_class(payload)
    if kind is None:
        return UnreachableTransport(NO_TRANSPORT)
    transport = kind(payload)
    if payload["share"] and payload["attach_id"] and not transport.is_remote_host:
        # This process may be another user's, or in a container: then the service is not reached.
        transport.fallback = functools.partial(_tunnel, payload)
    return transport


def _tunnel(payload: Payload) -> Transport:
    from .tunnel import TunnelTransport

    return TunnelTransport(payload)


def transport_class(payload: Payload) -> Optional[Callable[[Payload], Transport]]:
    """Return the class of a payload's transport, and import its module; None if there is none."""
    share = payload["share"]
    if share and not is_same_host(share["host_fingerprint"]):
        from .tunnel import TunnelTransport

        return TunnelTransport
    if payload["attach_id"]:
        from .service import ServiceTransport

        return ServiceTransport if payload["service"] else None
    if payload["local_address"]:
        from .local import LocalTransport

        return LocalTransport
    return None


def publish(run: Any) -> None:
    """Make a run of this process reachable for workers."""
    with _publishing:
        _publish(run, state.ensure_owner_state(run))


def _publish(run: Any, owned: state.OwnerState) -> None:
    own = run.__dict__
    if own.get("_is_finished") or owned.finished:
        return
    if own.get("_attach_id"):
        # Each time: a cleaner may have removed it since the last worker was handed the run.
        owned.owner_file = liveness.ensure_owner_file()
    elif owned.published:
        return
    elif own.get("_backend") is not None:
        from . import local_server

        owned.local_address = local_server.listen_local(owned)
    else:
        return
    if not owned.published:
        owned.published, owned.fingerprint = True, process_fingerprint()
        _hook(os.environ.get("WANDB_SERVICE"))
    if os.environ.get("WANDB_DDP_PATCH_SHARE", "0") not in ("", "0"):
        _share_from_environment(run, owned)


def _share_from_environment(run: Any, owned: state.OwnerState) -> None:
    why = sharing_problem(run)
    if why is None:
        from .remote import shared_runs

        shared_runs.share_from_environment(owned)
    else:
        _lifecycle.termwarn(f"WANDB_DDP_PATCH_SHARE does nothing here: {why}.", repeat=False)


def sharing_problem(run: Any) -> Optional[str]:
    """Return why a run of this process can't be shared with other machines; None where it can."""
    if run.__dict__.get("_attach_id"):
        return None
    return (
        f"runs of wandb {sys.modules['wandb'].__version__} can't be shared with other machines:"
        " upgrade to wandb 0.13 or later"
    )


def close(run: Any, owned: state.OwnerState) -> None:
    """Tell workers that a run of this process is finished, just before it is."""
    if owned.finished:
        return
    if owned.share is not None:
        # Before the file tells workers on this machine, and before wandb finishes the run: rows
        # from elsewhere can come only as long as the service knows it.
        from .remote import shared_runs

        shared_runs.close(owned)
    if owned.local_address is not None:
        from . import local_server

        local_server.close_run(owned)
    if run.__dict__.get("_attach_id"):
        if liveness.mark_finished(owned.key) and owned.service:
            from . import service_unread

            now = time.monotonic()
            with contextlib.suppress(Exception):  # the run is finished all the same
                if service_unread.wait_until_read(owned.service):
                    liveness.mark_read(owned.key, now)
    else:
        owned.finished = True


# The process at whose exit the runs are closed to workers, and its service.
_hooked: Tuple[int, Optional[str]] = (0, None)


def _hook(service: Optional[str]) -> None:
    # First, else its own hook would come before ours, and wait for workers that have not been
    # told that this process ends. Late: importing wandb must stay quick.
    importlib.import_module("multiprocessing.util")

    global _hooked
    before, _hooked = _hooked, (os.getpid(), service)
    if before != _hooked:
        # Anew for each service: to come before the hook with which wandb ends that.
        _lifecycle.at_exit(_close_all, _lifecycle.CLOSE_PUBLISHED_RUNS, anew=True)


def _close_all() -> None:
    for run in state.live_runs():
        owned = state.get_state(run)
        if isinstance(owned, state.OwnerState) and owned.published:
            close(run, owned)
    for name in ("remote.shared_runs", "local_server"):
        module: Any = sys.modules.get(f"{__package__}.{name}")
        if module is not None:
            module.close_all()
    liveness.mark_all_finished()


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Replace a lock that another thread of the parent may have held: nobody would release it."""
    global _publishing
    _publishing = threading.RLock()
