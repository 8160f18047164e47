"""How a worker's run reaches wandb's service, and how it ends there.

For releases whose runs attach: 0.13 and later, 0.12.12 on with
``wandb.require("service")``. For the others there is a relay.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import importlib
import os
import re
import socket
import sys
import tempfile
import time
from types import SimpleNamespace
from typing import Any, Dict, List

try:
    import fcntl
except ImportError:  # Windows: whether the file is there must do
    fcntl = None  # type: ignore[assignment]

# WANDB_SERVICE: version, process id, transport, address. Compiled when it is asked for:
# importing wandb must stay quick.
_SERVICE = r"\d+-\d+-(?:(unix)-(.+)|\w+-(.+)-(\d+))"
# How long a worker waits at its end until the service has read all that it sent.
_FLUSH_SECONDS = 30

FINISHED = "the process that called wandb.init() has finished it, or has ended"

# How long an owner's lock is taken for granted. Asking for it lets another thread of
# the worker in: at each row, that cost 3 to 5 % of its time.
_TRUST_SECONDS = 0.02
# What is in an owner's file.
_ACTIVE, _OVER = b"\0", b"\1"

# Files that say that a run is active: of this process's own runs, their descriptors;
# and those of runs that it uses as a worker.
_markers: Dict[str, int] = {}
_watched: Dict[str, _Watched] = {}
# Runs that this process has attached, and threads of former ones that end.
_used: List[Any] = []
_routers: List[Any] = []
_hooked = 0  # the process whose end flushes them


class Unreachable(Exception):
    """A run can't be written from this process; the message says why."""


# --- attaching --------------------------------------------------------------


def attach(run: Any, payload: Dict[str, Any]) -> None:
    """Have wandb attach a run of a worker to its service.

    Raises:
        Unreachable: At once, where the service or the run is gone.
    """
    if not _answers(payload["service"]):
        raise Unreachable(
            "its service is gone: the process that called wandb.init()"
            f" (process id {payload['owner']}) has ended, or it is on another machine"
        )
    check_active(payload)
    for used in list(_used):
        if used is not run and not _is_active(used.__dict__["_ddp_payload"]):
            retire(used)
    while _routers:
        _routers.pop().join()
    own = run.__dict__
    # The environment may be older than wandb.init(): that of a forkserver or a
    # pool that was started before.
    service = os.environ.get("WANDB_SERVICE")
    os.environ["WANDB_SERVICE"] = payload["service"]
    before = dict(own)
    own["_ddp_attaching"] = True
    try:
        sys.modules["wandb"]._attach(run=run)
    except BaseException:
        own.clear()
        own.update(before)
        # Not to send the runs of this process's own elsewhere.
        os.environ.pop("WANDB_SERVICE")
        if service is not None:
            os.environ["WANDB_SERVICE"] = service
        raise
    del own["_ddp_attaching"]
    _flush_at_the_end(run)


def _flush_at_the_end(run: Any) -> None:
    from multiprocessing import util

    global _hooked
    if run not in _used:
        _used.append(run)
    if _hooked != os.getpid():
        _hooked = os.getpid()
        # Worker processes of multiprocessing run its finalizers at their end,
        # others what atexit has.
        util.Finalize(None, _flush_all, exitpriority=100)
        atexit.unregister(_flush_all)  # a fork has inherited it
        atexit.register(_flush_all)


def resume(run: Any) -> None:
    """Take up a run again that this worker had left: a pool's next task."""
    if run.__dict__.get("_ddp_attached") == os.getpid():
        _flush_at_the_end(run)


def retire(run: Any) -> None:
    """Let go of what a run that is over, for this worker, has open."""
    if run in _used:
        _used.remove(run)
    own = run.__dict__
    watched = _watched.pop(own["_ddp_payload"]["marker"], None)
    if watched is not None:
        os.close(watched.descriptor)
    # From 0.13 to 0.17 a thread reads the service's answers, and would go on to
    # take those for the next run.
    router: Any = getattr(getattr(own.get("_backend"), "interface", None), "_router", None)
    if hasattr(router, "_join_event"):
        router._join_event.set()  # it ends within a second; waited for when need be
        _routers.append(router)
        own.pop("_ddp_attached", None)


def _flush_all() -> None:
    for run in list(_used):
        flush(run)


def _answers(service: str) -> bool:
    """Say whether something listens at a WANDB_SERVICE address (within 1 s)."""
    match = re.fullmatch(_SERVICE, service)
    if not match:
        return True  # a form that we don't know: let wandb try
    unix, path, host, port = match.groups()
    try:
        if unix:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(path)
        else:
            socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def flush(run: Any) -> bool:
    """Wait until the service has read all that this worker has sent.

    One round trip does it: the service answers in order. Without it, wandb
    drops what a worker has not sent when it ends (0.21.2 to 0.22.0), and the
    owner's finish() what the service has not read.

    Returns:
        Whether it has; False after ``_FLUSH_SECONDS``, with a warning.
    """
    own = run.__dict__
    payload = own["_ddp_payload"]
    if own.get("_ddp_attached") != os.getpid() or own.get("_ddp_left") == os.getpid():
        return True
    if not payload["attach_id"]:
        return True  # the relay has waited for each call
    done = False
    with contextlib.suppress(Exception):
        if _is_active(payload):
            interface = own.get("_interface") or own["_backend"].interface
            handle = interface.deliver_get_summary()
            wait = getattr(handle, "wait_or", None) or handle.wait
            done = wait(timeout=_FLUSH_SECONDS) is not None
    if not done:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(
            f"The last rows that this worker logged to run {own['_ddp_known']['id']} may be"
            f" lost: {FINISHED}, or did not answer."
        )
    return done


# --- whether the owner still has the run ------------------------------------
#
# The service does not say that a run is finished: attaching waits, logging
# goes nowhere. And it may end, with its owner, without a word (0.21.2 to
# 0.22.0). So the owner keeps a file of one byte, locked, while it has the run. Workers
# see the byte change when it finishes the run, and the system unlocks the file when it
# ends, however that happens.


def mark_active(run: Any) -> None:
    """Keep a file while this process has the run, and name it in payloads."""
    own = run.__dict__
    path = os.path.join(tempfile.gettempdir(), f"wandb_ddp_patch-{own['_ddp_key']}")
    own["_ddp_marker"] = None  # no way to tell: workers are not told
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        _markers[path] = descriptor
        os.write(descriptor, _ACTIVE)
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        own["_ddp_marker"] = path


def unmark(run: Any) -> None:
    """Tell workers that the run is over."""
    _remove(run.__dict__.get("_ddp_marker") or "")


def unmark_all() -> None:
    """Tell workers that all runs of this process are over."""
    for path in list(_markers):
        _remove(path)


def _remove(path: str) -> None:
    descriptor = _markers.pop(path, None)
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, _OVER)
        with contextlib.suppress(OSError):
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(path)


def after_fork_in_child() -> None:
    """Let go of the parent's files: else they would stay locked when it ends."""
    for descriptor in _markers.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _markers.clear()
    _used.clear()
    _routers.clear()


class _Watched:
    """An owner's file, as a worker sees it."""

    def __init__(self, path: str) -> None:
        import mmap  # late: only workers need it

        self.trusted_until = 0.0
        self.descriptor = os.open(path, os.O_RDWR)
        try:
            self.over = mmap.mmap(self.descriptor, 1, access=mmap.ACCESS_READ)
        except BaseException:
            os.close(self.descriptor)
            raise


def check_active(payload: Dict[str, Any]) -> None:
    """Look whether the owner still has the run; for each use of it.

    Raises:
        Unreachable: It has not.
    """
    watched = _watched.get(payload["marker"])
    if watched and not watched.over[0] and time.monotonic() < watched.trusted_until:
        return
    if not _is_active(payload):
        raise Unreachable(FINISHED)


def doubt(payload: Dict[str, Any]) -> None:
    """Have the next :func:`check_active` ask for the owner's lock: something is wrong."""
    watched = _watched.get(payload["marker"])
    if watched:
        watched.trusted_until = 0.0


def _is_active(payload: Dict[str, Any]) -> bool:
    path = payload["marker"]
    if not path:
        return True
    if fcntl is None:
        return os.path.exists(path)
    try:
        watched = _watched.get(path) or _watched.setdefault(path, _Watched(path))
        if watched.over[0]:
            return False
        fcntl.flock(watched.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # the owner's lock
        watched.trusted_until = time.monotonic() + _TRUST_SECONDS
        return True
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # no way to tell
    with contextlib.suppress(OSError):
        os.unlink(path)  # an owner that was killed could not
    return False


# --- what single releases lack ----------------------------------------------


def settings_of(run: Any) -> Any:
    """Make settings for a run that attaches, where wandb forgets to (0.17.6 to 0.18.1)."""
    import wandb

    settings = copy.copy(wandb.setup().settings)
    settings.update({"run_id": run._attach_id, "_offline": run._ddp_known["offline"]})
    return settings


def offline_answer(run: Any) -> Any:
    """Answer the question that attaching asks, where the service drops it.

    It asks for the run's record. From 0.13.0 to 0.15.3 the service hands that
    to a part of it that gets nothing in offline mode, so that each worker's
    first call fails after 30 s, though all else works.

    Returns:
        What waiting for the service's answer would have returned, or None
        where the service does answer.
    """
    known = run._ddp_known
    if not known["offline"]:
        return None
    handler = importlib.import_module("wandb.sdk.internal.handler")
    if "_dispatch_record" not in handler.HandleManager.handle_request_attach.__code__.co_names:
        return None
    from wandb.proto import wandb_internal_pb2 as pb

    record = pb.RunRecord(
        run_id=known["id"],
        entity=known["entity"],
        project=known["project"],
        display_name=known["name"],
        run_group=known["group"],
    )
    return SimpleNamespace(response=SimpleNamespace(attach_response=pb.AttachResponse(run=record)))
