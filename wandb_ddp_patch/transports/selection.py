"""Which transport reaches a run's owner: chosen here, and nowhere else."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

from .._process import is_same_host, process_fingerprint
from ..runs import owner_file, state
from ..runs.state import Transport

_sharing = threading.RLock()


def select(payload: Dict[str, Any]) -> Optional[Transport]:
    """Return the transport by which a run that came with a payload reaches its owner.

    Returns:
        The transport, which is not connected yet; None where there is none.
    """
    transport_type = transport_class(payload)
    if transport_type is None:
        return None
    transport = transport_type(payload)
    if payload.get("share") and payload["attach_id"] and not transport.is_remote_host:
        # The service's socket may be another user's, or in another container's folder.
        transport.fallback = functools.partial(_tunnel, payload)
    return transport


def _tunnel(payload: Dict[str, Any]) -> Transport:
    from .tunnel import TunnelTransport  # late: only runs that are shared need it

    return TunnelTransport(payload)


def transport_class(payload: Dict[str, Any]) -> Optional[Callable[[Dict[str, Any]], Transport]]:
    """Return the class of that transport. Its module has been imported then."""
    shared = payload.get("share")  # not in payloads of runs that are not shared
    if shared and not is_same_host(shared["machine"]):
        from .tunnel import TunnelTransport  # late: only runs that are shared need it

        return TunnelTransport
    if payload["attach_id"]:
        from .service import ServiceTransport  # late, as the others: only one is needed

        return ServiceTransport if payload["service"] else None
    if payload["local_address"]:
        from .local import LocalTransport

        return LocalTransport
    return None


def publish(run: Any) -> None:
    """Make a run of this process reachable for workers."""
    with _sharing:
        _share(run, state.owner_state(run))


def _share(run: Any, owned: state.OwnerState) -> None:
    own = run.__dict__
    if own.get("_is_finished") or owned.over:
        return
    if own.get("_attach_id"):
        # Each time: a cleaner may have removed it since the last worker was handed the run.
        owned.owner_file = owner_file.ensure_owner_file()
    elif owned.shared:
        return
    elif own.get("_backend") is not None:
        from . import local_server  # late: only releases up to 0.12 need it

        owned.local_address = local_server.listen_local(owned)
    else:
        return
    if not owned.shared:
        owned.shared, owned.process = True, process_fingerprint()
        _hook(os.environ.get("WANDB_SERVICE"))
    if os.environ.get("WANDB_DDP_PATCH_SHARE", "0") not in ("", "0"):
        _share_from_environment(run, owned)


def _share_from_environment(run: Any, owned: state.OwnerState) -> None:
    why = sharing_problem(run)
    if why is None:
        from .remote import shared_runs  # late: only runs that are shared need it

        shared_runs.share_from_environment(owned)
    else:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(f"WANDB_DDP_PATCH_SHARE does nothing here: {why}.", repeat=False)


def sharing_problem(run: Any) -> Optional[str]:
    """Return why a run of this process can't be shared with other machines; None where it can."""
    if run.__dict__.get("_attach_id"):
        return None
    return (
        f"runs of wandb {sys.modules['wandb'].__version__} can't be shared with other machines:"
        " upgrade to wandb 0.13 or later, with W&B's service, in which they can"
    )


def close(run: Any, owned: state.OwnerState) -> None:
    """Tell workers that a run of this process is finished, just before it is."""
    if owned.over:
        return
    if owned.share is not None:
        # Before the file tells workers on this machine, and before wandb finishes the run: rows
        # from elsewhere can come only as long as the service knows it.
        from .remote import shared_runs  # late, as above

        shared_runs.close(owned)
    if owned.local_address is not None:
        from . import local_server  # late, as above

        local_server.close_run(owned)
    if run.__dict__.get("_attach_id"):
        if owner_file.mark_finished(owned.key) and owned.service:
            from . import service_queue  # late, as above

            now = time.monotonic()
            with contextlib.suppress(Exception):  # the run is finished all the same
                if service_queue.wait_until_read(owned.service):
                    owner_file.mark_read(owned.key, now)
    else:
        owned.over = True


# The process at whose exit the runs are closed to workers, and its service.
_hooked: Tuple[int, Optional[str]] = (0, None)


def _hook(service: Optional[str]) -> None:
    from multiprocessing import util  # late: importing wandb must stay quick

    global _hooked
    before, _hooked = _hooked, (os.getpid(), service)
    if before == _hooked:
        return
    # Hooks run in reverse order, and this one has to come before the one with which wandb ends
    # its service: so it is registered anew for each service. Not for each run: up to Python
    # 3.12, what atexit has unregistered keeps its place in the list, which would grow.
    atexit.unregister(_close_at_exit)
    atexit.register(_close_at_exit, os.getpid())
    if before[0] != os.getpid():
        util.Finalize(None, _close_at_exit, (os.getpid(),), exitpriority=100)


def _close_at_exit(pid: int) -> None:
    if pid == os.getpid():  # not a fork, which has inherited the hook
        for run in state.live_runs():
            owned = state.get_state(run)
            if isinstance(owned, state.OwnerState) and owned.shared:
                close(run, owned)
        for name in ("remote.shared_runs", "local_server"):
            module: Any = sys.modules.get(f"{__package__}.{name}")
            if module is not None:
                module.close_all()
        owner_file.mark_all_finished()


def after_fork_in_child() -> None:
    """Replace a lock that another thread of the parent may have held: nobody would release it."""
    global _sharing
    _sharing = threading.RLock()
