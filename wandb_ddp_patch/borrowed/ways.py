"""Which way home there is for a run: asked here, and nowhere else."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import threading
import time
from typing import Any, Callable, Dict, Optional, Tuple

from . import link, marker
from .link import Way
from .processes import identity, is_here

_sharing = threading.RLock()


def home(payload: Dict[str, Any]) -> Optional[Way]:
    """Choose how a run that came with a payload reaches its owner.

    Returns:
        The way, which is not connected yet; None where there is none.
    """
    kind_of_way = kind(payload)
    if kind_of_way is None:
        return None
    way = kind_of_way(payload)
    if payload.get("share") and payload["attach_id"] and not way.elsewhere:
        way.otherwise = functools.partial(_elsewhere, payload)  # another user's, or container's
    return way


def _elsewhere(payload: Dict[str, Any]) -> Way:
    from .remote.tunnel import Tunnel  # late: only runs that are shared need it

    return Tunnel(payload)


def kind(payload: Dict[str, Any]) -> Optional[Callable[[Dict[str, Any]], Way]]:
    """Choose the class of that way; its module has been read then."""
    shared = payload.get("share")  # not in payloads of runs that are not shared
    if shared and not is_here(shared["machine"]):
        from .remote.tunnel import Tunnel  # late: only runs that are shared need it

        return Tunnel
    if payload["attach_id"]:
        from .service import Service  # late, as the others: only one is needed

        return Service if payload["service"] else None
    if payload["relay"]:
        from .local import LocalTransport

        return LocalTransport
    return None


def share(run: Any) -> None:
    """Make a run of this process reachable for workers."""
    with _sharing:
        _share(run, link.own(run))


def _share(run: Any, owned: link.Owned) -> None:
    own = run.__dict__
    if own.get("_is_finished") or owned.over:
        return
    if own.get("_attach_id"):
        owned.marker = marker.announce()  # each time: it may have to be put back
    elif owned.shared:
        return
    elif own.get("_backend") is not None:
        from . import local_server  # late: only releases up to 0.12 need it

        owned.relay = local_server.open_to_workers(owned)
    else:
        return
    if not owned.shared:
        owned.shared, owned.process = True, identity()
        _hook(os.environ.get("WANDB_SERVICE"))
    if os.environ.get("WANDB_DDP_PATCH_SHARE", "0") not in ("", "0"):
        _share_by_environment(run, owned)


def _share_by_environment(run: Any, owned: link.Owned) -> None:
    why = why_not_elsewhere(run)
    if why is None:
        from .remote import opening  # late: only runs that are shared need it

        opening.by_environment(owned)
    else:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(f"WANDB_DDP_PATCH_SHARE does nothing here: {why}.", repeat=False)


def why_not_elsewhere(run: Any) -> Optional[str]:
    """Return why a run of this process can't be shared with other machines; None where it can."""
    if run.__dict__.get("_attach_id"):
        return None
    return (
        f"runs of wandb {sys.modules['wandb'].__version__} can't be shared with other machines:"
        " upgrade to wandb 0.13 or later, with W&B's service, in which they can"
    )


def end(run: Any, owned: link.Owned) -> None:
    """Tell workers that a run of this process is over; it is about to be finished."""
    if owned.over:
        return
    if owned.share is not None:
        from .remote import opening  # late, as above

        opening.end(owned)
    if owned.relay is not None:
        from . import local_server  # late, as above

        local_server.end(owned)
    if run.__dict__.get("_attach_id"):
        if marker.end(owned.key) and owned.service:
            from . import service_queue  # late, as above

            now = time.monotonic()
            with contextlib.suppress(Exception):  # the run is finished all the same
                if service_queue.wait_until_read(owned.service):
                    marker.say_read(owned.key, now)
    else:
        owned.over = True


# The process at whose end they are over, and its service.
_hooked: Tuple[int, Optional[str]] = (0, None)


def _hook(service: Optional[str]) -> None:
    from multiprocessing import util  # late: importing wandb must stay quick

    global _hooked
    before, _hooked = _hooked, (os.getpid(), service)
    if before == _hooked:
        return
    # Anew for each service: to come before the hook with which wandb ends that. Not for
    # each run: up to Python 3.12, what atexit has forgotten keeps its place.
    atexit.unregister(_before_the_end)
    atexit.register(_before_the_end, os.getpid())
    if before[0] != os.getpid():
        util.Finalize(None, _before_the_end, (os.getpid(),), exitpriority=100)


def _before_the_end(pid: int) -> None:
    if pid == os.getpid():  # not a fork, which has inherited the hook
        for run in link.runs():
            owned = link.of(run)
            if isinstance(owned, link.Owned) and owned.shared:
                end(run, owned)
        for name in ("remote.opening", "local_server"):
            module: Any = sys.modules.get(f"{__package__}.{name}")
            if module is not None:
                module.end_all()
        marker.end_all()


def after_fork_in_child() -> None:
    """Make anew what another thread of the parent may have held."""
    global _sharing
    _sharing = threading.RLock()
