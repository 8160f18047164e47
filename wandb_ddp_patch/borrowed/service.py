"""A way home through wandb's service, which a run of a worker attaches to.

For releases whose runs attach: 0.13 and later, 0.12.12 on with
``wandb.require("service")``. For the others there is relay.py.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import socket
import sys
from typing import Any, Callable, Dict, List

from ..errors import FINISHED, Unreachable
from .alive import Watch
from .link import Way

# WANDB_SERVICE: version, process id, transport, address. Compiled when it is asked for:
# importing wandb must stay quick.
_SERVICE = r"\d+-\d+-(?:(unix)-(.+)|\w+-(.+)-(\d+))"
# How long a worker waits at its end until the service has read all that it sent.
_FLUSH_SECONDS = 30


class Service(Way):
    """A connection of a run to its service.

    Args:
        payload: What the run came with.
    """

    attaches = True

    def __init__(self, payload: Dict[str, Any]) -> None:
        self.payload = payload
        self.watch = Watch(payload["marker"], payload["key"])
        self.attached = False

    def connect(self, run: Any) -> None:
        if not _answers(self.payload["service"]):
            raise Unreachable(
                "its service is gone: the process that called wandb.init()"
                f" (process id {self.payload['owner']}) has ended, or it is on another machine"
            )
        self.check()
        for used, way in list(_used):
            if used is not run and way.watch.says_over():
                way.leave(used)
        while _routers:
            _routers.pop().join()
        _attach(run, self.payload["service"])
        self.attached = True
        _flush_at_the_end(run, self)

    def check(self) -> None:
        if self.watch.says_over():
            raise Unreachable(FINISHED)

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        try:
            return upstream(run, *args, **kwargs)
        except Exception:
            # It may have ended meanwhile: say so, not "Broken pipe".
            self.watch.doubt()
            self.check()
            raise

    def flush(self, run: Any) -> None:
        """Wait until the service has read all that this worker has sent.

        One round trip does it: the service answers in order. Without it, wandb
        drops what a worker has not sent when it ends (0.21.2 to 0.22.0), and the
        owner's finish() what the service has not read. Warns where that can't be
        had within ``_FLUSH_SECONDS``.
        """
        done = False
        with contextlib.suppress(Exception):
            self.watch.doubt()
            if not self.watch.says_over():
                own = run.__dict__
                interface = own.get("_interface") or own["_backend"].interface
                handle = interface.deliver_get_summary()
                wait = getattr(handle, "wait_or", None) or handle.wait
                done = wait(timeout=_FLUSH_SECONDS) is not None
        if not done:
            wandb: Any = sys.modules["wandb"]
            wandb.termwarn(
                "The last rows that this worker logged to run"
                f" {self.payload['known']['id']} may be lost: {FINISHED}, or did not answer."
            )

    def leave(self, run: Any) -> None:
        _used[:] = [pair for pair in _used if pair[0] is not run]
        # From 0.13 to 0.17 a thread reads the service's answers, and would go on to
        # take those for the next run.
        interface = getattr(run.__dict__.get("_backend"), "interface", None)
        router: Any = getattr(interface, "_router", None)
        if hasattr(router, "_join_event"):
            router._join_event.set()  # it ends within a second; waited for when need be
            _routers.append(router)
            self.attached = False

    def resume(self, run: Any) -> bool:
        if self.attached:
            _flush_at_the_end(run, self)
        return self.attached


def _attach(run: Any, service: str) -> None:
    # The environment may be older than wandb.init(): that of a forkserver or a
    # pool that was started before.
    before, own_service = dict(run.__dict__), os.environ.get("WANDB_SERVICE")
    os.environ["WANDB_SERVICE"] = service
    try:
        sys.modules["wandb"]._attach(run=run)
    except BaseException:
        run.__dict__.clear()
        run.__dict__.update(before)
        # Not to send the runs of this process's own elsewhere.
        os.environ.pop("WANDB_SERVICE")
        if own_service is not None:
            os.environ["WANDB_SERVICE"] = own_service
        raise


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


# --- at a worker's end ------------------------------------------------------

# Runs that this process has attached, with their ways; and threads of former ones that end.
_used: List[Any] = []
_routers: List[Any] = []
_hooked = 0  # the process whose end flushes them


def _flush_at_the_end(run: Any, way: Service) -> None:
    from multiprocessing import util

    global _hooked
    if all(used is not run for used, _ in _used):
        _used.append((run, way))
    if _hooked != os.getpid():
        _hooked = os.getpid()
        # Worker processes of multiprocessing run its finalizers at their end,
        # others what atexit has.
        util.Finalize(None, _flush_all, exitpriority=100)
        atexit.unregister(_flush_all)  # a fork has inherited it
        atexit.register(_flush_all)


def _flush_all() -> None:
    for run, way in list(_used):
        way.flush(run)


def after_fork_in_child() -> None:
    """Let go of what the parent has attached: each process attaches by itself."""
    _used.clear()
    _routers.clear()
