"""A transport through W&B's service on this machine, to which a worker's run attaches.

For releases whose runs attach: 0.13 and later, 0.12.12 on with
``wandb.require("service")``. For the others there is local.py.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from _thread import get_ident
from typing import Any, Callable, List, Optional, Protocol, Tuple

from .. import _lifecycle
from ..errors import FINISHED, RunUnreachableError
from ..runs import flush
from ..runs.liveness import OwnerWatch, is_service_gone
from ..runs.payload_format import Payload
from ..runs.transport import Transport
from . import service_connection

# How long a run is tried to be attached to a service that is busy: many workers at once.
_ATTACH_SECONDS = 60
# How long a worker waits until the service has read all that it has sent, and where
# wandb drops what is not sent yet (0.21.2 to 0.22.0): a backend that is away stops it.
_FLUSH_SECONDS, _LONG_FLUSH_SECONDS = 30, 300
# How long an owner is given to end after its service has.
_END_SECONDS = 2

# Why rows may be lost where something ends the wait for the service's answer.
_INTERRUPTED = "this worker was interrupted while it waited until they had arrived"

# Threads of former runs that end, with what wakes them: see _end_routers.
_routers: List[Tuple[Any, Callable[[], None]]] = []


class Watch(Protocol):
    """Whether a run's owner still has it: as its file tells, or as the tunnel does.

    Attributes:
        sees_owner: Whether the last look has shown that it has the run.
        cached_until: When the next look is due, by the monotonic clock.
    """

    sees_owner: bool
    cached_until: float

    def is_finished(self) -> bool:
        """Return True if the run is finished; False where nothing can be told."""

    def read_until(self) -> float:
        """Return until when, by the monotonic clock, all that was sent is in the run; else 0."""

    def invalidate(self) -> None:
        """Drop what is cached: something is wrong, so the next question must look again."""


class ServiceBarrier:
    """A round trip to the service: once it answers, it has read all that was sent before.

    In a thread, because even to send the question may have to wait: for a service that reads
    nothing more, behind what was sent before.

    Args:
        interface: What the run sends its messages by.
        seconds: How long the answer is waited for.

    Attributes:
        error: Why the service could not be asked, or None.
    """

    def __init__(self, interface: Any, seconds: float) -> None:
        self._interface, self._seconds = interface, seconds
        self._is_answered = False
        self.error: Optional[Exception] = None

    def wait(self, is_over: Callable[[], bool]) -> bool:
        """Return True once the service has answered; False if not, or if the run is over."""
        deadline = time.monotonic() + self._seconds
        thread = threading.Thread(target=self._ask, name="wandb_ddp_patch", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no thread can be started any more: the interpreter ends
            self._ask()
            return self._is_answered
        while thread.is_alive() and time.monotonic() < deadline:
            thread.join(1)
            if thread.is_alive() and is_over():
                thread.join(1)  # the answer may be on its way
                break
        return self._is_answered

    def _ask(self) -> None:
        try:
            handle = self._interface.deliver_get_summary()
            wait = getattr(handle, "wait_or", None) or handle.wait
            self._is_answered = wait(timeout=self._seconds) is not None
        except TimeoutError:
            pass  # not answered
        except Exception as error:
            self.error = error


class ServiceTransport(Transport):
    """A connection of a run to its service.

    Args:
        payload: What the run came with.

    Attributes:
        service: The value of WANDB_SERVICE by which it attaches.
    """

    uses_upstream = True

    def __init__(self, payload: Payload) -> None:
        self.payload = payload
        self.service: str = payload["service"] or ""  # never None: see selection.py
        self.watch: Watch = OwnerWatch(
            payload["owner_file"], payload["key"], payload["owner_fingerprint"]
        )
        self.attached = False
        self.called_at = 0.0  # when the last call was made, by the monotonic clock

    def connect(self, run: Any) -> None:
        self.check()
        flush.detach_finished(run)
        _end_routers()
        self._attach(run)
        self.has_attached(run)

    def has_attached(self, run: Any) -> None:
        """Set up what an attached run needs."""
        self.attached = True
        flush.register(run, self)
        _send_at_once(interface_of(run))
        root = self.root_dir()
        if root:
            put_files_below(run, root)

    def root_dir(self) -> Optional[str]:
        """Return the folder below which this process puts the run's files."""
        return self.payload["root_dir"]

    def _attach(self, run: Any) -> None:
        deadline, pause = time.monotonic() + _ATTACH_SECONDS, 0.05
        while True:
            # What counts is when an attempt began: this process may be stopped during one.
            tried = time.monotonic()
            # Not where its owner is seen: to ask is to connect, and would take a place in the
            # service's backlog, which a thousand workers that attach at once fill.
            if not self.watch.sees_owner:
                self._refuse_if_gone()
            before = dict(run.__dict__)
            try:
                with service_connection.use_service(self.service, self.is_remote_host):
                    sys.modules["wandb"]._attach(run=run)
                    service_connection.hide_from_init(run)
                return
            except BaseException as error:
                run.__dict__.clear()
                run.__dict__.update(before)
                if not isinstance(error, Exception):
                    raise
                self.watch.invalidate()
                self.check()
                self._refuse_if_gone()
                if not self.watch.sees_owner or tried > deadline:
                    raise RunUnreachableError(
                        "wandb could not connect to its service, which may be on another machine or"
                        f" network: {type(error).__name__}: {error}"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 1)

    def _refuse_if_gone(self) -> None:
        if is_service_gone(self.service):
            raise RunUnreachableError(
                "its service can't be reached from here: the process that called wandb.init()"
                f" (process id {self.payload['owner_pid']}) has ended, or it is on another machine"
                " and the run is not shared",
                "If it is on another machine, call wandb_ddp_patch.share(run) there before you"
                " pass the run on. If it has ended, start a run of your own here with"
                " wandb.init().",
            )

    def is_closed(self) -> bool:
        return self.watch.is_finished()

    def check(self) -> None:
        # The cache is looked at here as well: a call of is_finished() for each row costs more.
        if time.monotonic() >= self.watch.cached_until and self.watch.is_finished():
            raise RunUnreachableError(FINISHED)

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self.calling_thread = get_ident()
        try:
            return upstream(run, *args, **kwargs)
        except Exception as error:
            # It may have ended meanwhile: say so, not "Broken pipe".
            self.watch.invalidate()
            self.check()
            if _is_of_connection(error):
                self._refuse_if_ended(error)
            raise
        finally:
            # Where another thread is in a call as well, its own calls within that are checked
            # once more, and no harm is done.
            self.calling_thread = None
            # Not before the call: a flush by another thread might come between, and clear it
            # before the row is there.
            self.dirty, self.called_at = True, time.monotonic()

    def _refuse_if_ended(self, error: Exception) -> None:
        """Raise an error that says so where the service has ended, or the run is finished.

        Of an owner that is killed the service may know a moment before its file tells, and
        the sockets of a process that is killed are closed one after the other.
        """
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.02)
            self.watch.invalidate()
            self.check()
        if is_service_gone(self.service):
            raise RunUnreachableError("W&B's service has ended, and can't be restarted") from error

    def flush(self, run: Any) -> None:
        """Wait until the service has read all that this worker has sent.

        One round trip does it: the service answers in order. Without it, wandb
        drops what a worker has not sent when it ends (0.21.2 to 0.22.0), and the
        owner's finish() what the service has not read. Warns where that can't be
        had within ``_FLUSH_SECONDS``, unless the owner has seen that the service
        had read it all when it finished the run.
        """
        self.dirty = False
        try:
            why = self._why_unconfirmed(run)
        except BaseException:  # Ctrl-C, or what a signal's handler raises
            self._warn_of_loss(_INTERRUPTED)
            raise
        if why is not None:
            self._warn_of_loss(why)

    def _why_unconfirmed(self, run: Any) -> Optional[str]:
        """Wait until the service has read all that was sent; return why it is not known to have."""
        self.watch.invalidate()
        interface = interface_of(run)
        late = queues_before_sending(interface)
        seconds = _LONG_FLUSH_SECONDS if late else _FLUSH_SECONDS
        barrier = ServiceBarrier(interface, seconds)
        if not self.watch.is_finished() and barrier.wait(self.watch.is_finished):
            return None
        if self.watch.is_finished():
            return None if not late and self._was_read() else FINISHED
        if barrier.error is not None:
            return (
                f"W&B's service can't be asked whether it has them ({type(barrier.error).__name__})"
            )
        return (
            f"W&B's service has not confirmed within {seconds} s that it has them. They will"
            " still arrive if it continues before the run is finished"
        )

    def _warn_of_loss(self, why: str) -> None:
        _lifecycle.termwarn(
            f"The last rows that this worker logged to run {self.payload['metadata']['id']} may be"
            f" lost: {why}."
        )

    def _was_read(self) -> bool:
        """Return True if all that was sent is in the run, which is finished, as its owner says."""
        deadline = time.monotonic() + _END_SECONDS
        while self.called_at > self.watch.read_until():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)  # its owner may be about to
        return True

    def detach(self, run: Any) -> None:
        self.calling_thread = None
        flush.unregister(run)
        # wandb keeps a run that it attaches in hooks on imports, until it is finished.
        unhook = getattr(run, "_unregister_telemetry_import_hooks", None)
        if unhook is not None:
            unhook(self.payload["metadata"]["id"])
        used = [getattr(transport, "service", None) for _, transport in flush.registered()]
        if self.service not in used:
            service_connection.release(self.service)
        # From 0.13 to 0.17 a thread reads the service's answers, and would go on to
        # take those for the next run.
        interface = getattr(run.__dict__.get("_backend"), "interface", None)
        router: Any = getattr(interface, "_router", None)
        if hasattr(router, "_join_event"):
            router._join_event.set()  # it ends within a second; waited for when need be
            _routers.append((router, lambda: self._wake(interface)))
            self.attached = False

    def _wake(self, interface: Any) -> None:
        self.watch.invalidate()
        if not self.watch.is_finished():  # else the service knows the run no more
            interface.deliver_get_summary()

    def resume(self, run: Any) -> bool:
        if self.attached:
            flush.register(run, self)
        return self.attached


def _end_routers() -> None:
    """Wait for the threads of former runs, which look every second whether they are to end.

    Or when something comes for them: a pool's task must not wait for a second.
    """
    while _routers:
        router, wake = _routers.pop()
        if router._thread.is_alive():
            with contextlib.suppress(Exception):
                wake()
        router.join()


def interface_of(run: Any) -> Any:
    """Return what an attached run sends its messages by."""
    own = run.__dict__
    return own.get("_interface") or own["_backend"].interface


def queues_before_sending(interface: Any) -> bool:
    """Return True if wandb sends rows later than log() returns (0.21.2 to 0.22.0)."""
    publish = getattr(type(getattr(interface, "_client", None)), "publish", None)
    return "run_soon" in getattr(getattr(publish, "__code__", None), "co_names", ())


def _send_at_once(interface: Any) -> None:
    """Have the kernel hold each row when log() returns, not a buffer that ends with the worker.

    asyncio keeps up to 64 KiB back where the service is behind (from 0.22.1 on): a worker that
    is killed would lose these rows, and the owner could not see that they are missing. A row
    takes no longer for it, unless the service is behind.
    """
    writer: Any = getattr(getattr(interface, "_client", None), "_writer", None)
    asyncer = getattr(interface, "_asyncer", None)

    async def limit() -> None:
        writer.transport.set_write_buffer_limits(high=0)

    if writer is not None and asyncer is not None:
        with contextlib.suppress(Exception):  # of a release that sends in another way
            asyncer.run(limit)


def put_files_below(run: Any, root: str) -> None:
    """Have wandb put media and the like where the service looks for them.

    A run that attaches takes this process's current folder for its own root: what is logged
    after os.chdir() would be in the rows, and its files nowhere in the run.
    """
    settings: Any = run.__dict__.get("_settings")
    update = getattr(settings, "update_from_dict", None) or getattr(settings, "update", None)
    if update is not None and getattr(settings, "root_dir", root) != root:
        update({"root_dir": root})


def _is_of_connection(error: Exception) -> bool:
    if isinstance(error, (ConnectionError, EOFError)):
        return True
    kind = type(error)
    named = "Closed" in kind.__name__ or "Abandoned" in kind.__name__
    return named and kind.__module__.startswith("wandb.sdk")


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of what the parent has: each process attaches by itself."""
    _routers.clear()
