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
        from .remote.near import Near

        return Near
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
        from .remote import opening  # late: only releases up to 0.12 need it

        owned.relay = opening.open_to_workers(owned)
    else:
        return
    if not owned.shared:
        owned.shared, owned.process = True, identity()
        _hook(os.environ.get("WANDB_SERVICE"))
    if os.environ.get("WANDB_DDP_PATCH_SHARE"):
        from .remote import opening  # late: only runs that are shared need it

        opening.by_environment(owned)


def end(run: Any, owned: link.Owned) -> None:
    """Tell workers that a run of this process is over; it is about to be finished."""
    if owned.over:
        return
    if owned.share is not None or owned.relay is not None:
        from .remote import opening  # late, as above

        opening.end(owned)
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
        opening = sys.modules.get(f"{__package__}.remote.opening")
        if opening is not None:
            opening.end_all()
        marker.end_all()


def after_fork_in_child() -> None:
    """Make anew what another thread of the parent may have held."""
    global _sharing
    _sharing = threading.RLock()
