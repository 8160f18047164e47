"""The one thing of ours that a run keeps: whose it is, and how it is reached.

In the process that called wandb.init() a run has an ``Owned`` link; in any other
a ``Borrowed`` one. Grafted methods ask the link of the run in this process, and
nothing else keeps state of ours on a run.
"""

from __future__ import annotations

import enum
import importlib
import os
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Optional, Tuple, Union

from .. import _lifecycle
from .._lifecycle import ForkStage
from .._process import is_this_process
from ..errors import FINISHED, RunUnreachableError
from .metadata import ENTRY

if TYPE_CHECKING:
    RunState = Union["OwnerState", "WorkerState"]
    # As multiprocessing.connection takes them: a socket's or pipe's name, or host and port.
    Address = Union[str, Tuple[str, int]]


class Phase(enum.Enum):
    """How far a worker has got with a run."""

    DETACHED = "not connected yet"
    CONNECTING = "being connected by a thread, which calls it meanwhile"
    CONNECTED = "connected"
    LEFT = "left by finish()"
    # Then wandb itself says so.
    FINISHED = "finished already when a fork inherited it"


NO_TRANSPORT = "this release's runs work in one process, and no local socket could be made"

# One run attaches at a time: wandb knows of one only.
connecting = threading.RLock()


class Transport:
    """How a borrowed run reaches the process that owns it: a transport.

    Attributes:
        attaches: Whether the run then has a connection of wandb's own, so that
            wandb's methods run in this process.
        dirty: Whether a call was made since the last :meth:`flush`.
        attached: Whether it has a connection that another task can go on with.
        elsewhere: Whether the owner is on another machine: its process numbers say nothing.
        calling: The thread that is in a method of wandb's own; None also where several are.
        otherwise: Makes the transport to be tried where this one can't be had.
    """

    is_native = dirty = attached = is_remote_host = False
    calling_thread: Optional[int] = None
    fallback: Optional[Callable[[], Transport]] = None

    def connecting(self) -> ContextManager[Any]:
        """Give the lock that is held meanwhile, and that the same thread may take again."""
        return connecting

    def connect(self, run: Any) -> None:
        """Connect; raises Unreachable, at once, where that can't be."""
        raise NotImplementedError

    def check(self) -> None:
        """Look whether the owner still has the run, for each call; raises Unreachable."""

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Make a call on the connected run; ``upstream`` is wandb's own method."""
        raise NotImplementedError

    def flush(self, run: Any) -> None:
        """Wait, within a limit, until all that was logged has arrived."""

    def detach(self, run: Any) -> None:
        """Let go of what is open: this process is done with the run, for now."""

    def is_closed(self) -> bool:
        """Say whether the run is metadata to be over."""
        return False

    def resume(self, run: Any) -> bool:
        """Take up a run that was left; False where it has to be connected anew."""
        return False


class OwnerState:
    """The link of a run in the process that called wandb.init().

    Attributes:
        key: What identifies the run in its payloads.
        service: WANDB_SERVICE at its start.
        shared: Whether workers may have it.
        process: What identifies this process, see processes.py; None until it is shared.
        marker: The file that says whether it is over, for workers.
        relay: Where workers have their calls made, for releases that need it.
        share: What workers on other machines need; None where the run is not shared.
        over: Whether it is over for workers.
        exit_code: What it will be finished with, if a worker of spawn() has failed.
        metadata: What it knows of itself, where it stands for a disabled run elsewhere.
    """

    is_worker = False

    def __init__(self, key: str, metadata: Optional[Dict[str, Any]] = None) -> None:
        self.key, self.metadata = key, metadata
        self.service = os.environ.get("WANDB_SERVICE")
        self.shared = self.over = False
        self.process: Optional[str] = None
        self.owner_file: Optional[str] = None
        self.local_address: Optional[Address] = None
        self.share: Optional[Dict[str, Any]] = None
        self.exit_code: Optional[int] = None


class WorkerState:
    """The link of a run in a process that does not own it.

    Attributes:
        payload: What it came with.
        metadata: What it knows of itself, also while it is not connected.
        state: One of the states above.
        transport: How it reaches its owner; None where there is no transport.
    """

    is_worker = True

    def __init__(
        self, payload: Dict[str, Any], transport: Optional[Transport], phase: Phase = Phase.DETACHED
    ) -> None:
        self.payload, self.transport, self.phase = payload, transport, phase
        self.key: str = payload["key"]
        self.metadata: Dict[str, Any] = payload["metadata"]

    def call(self, run: Any, name: str, upstream: Any, args: Any, kw: Any, bare: Any = None) -> Any:
        """Make a call on the run, by ``bare`` once it is connected; connect first, if need be.

        Raises:
            wandb.errors.UsageError: The run can't be reached; says at once why, and what to do.
        """
        try:
            if self.phase is Phase.CONNECTED:
                self.transport.check()  # type: ignore[union-attr]
            else:
                self._connect(run)
                # Where wandb attaches, it is what calls us; else a signal's handler may be.
                phase: Phase = self.phase  # which that has changed
                is_native = self.transport is None or self.transport.is_native
                if phase is not Phase.CONNECTED and is_native:
                    return upstream(run, *args, **kw)
            transport: Any = self.transport
            return transport.call(run, name, bare or upstream, args, kw)
        except RunUnreachableError as why:
            raise usage_error(
                f"Run {self.metadata['id']} can't be written from this process, because {why}."
                " Log in the process that called wandb.init(), while its run is active, or"
                " start a run of your own here with wandb.init(); to add to the same run"
                f" online, use wandb.init(id={self.metadata['id']!r}, resume='allow')."
            ) from why.__cause__

    def _connect(self, run: Any) -> None:
        if self.phase is Phase.FINISHED:
            return
        if self.phase is Phase.LEFT:
            raise RunUnreachableError("this worker has called finish(), or wandb.teardown()")
        with connecting if self.transport is None else self.transport.connecting():
            if self.phase is not Phase.DETACHED:
                return  # another thread has done it, or it is what calls us
            if self.payload["finished"]:
                raise RunUnreachableError("it was finished before it was sent here")
            elsewhere = self.transport is not None and self.transport.is_remote_host
            if (
                is_this_process(self.payload["owner"], self.payload.get("process"))
                and not elsewhere
            ):
                raise RunUnreachableError("it has ended: nothing in this process holds it any more")
            from . import descriptors  # late: importing wandb must stay quick

            descriptors.require_free_descriptors()
            if self.transport is None:
                raise RunUnreachableError(NO_TRANSPORT)
            self.phase = Phase.CONNECTING
            try:
                self._connect_nearest(run)
            except BaseException:
                self.phase = Phase.DETACHED
                raise
            self.phase = Phase.CONNECTED

    def _connect_nearest(self, run: Any) -> None:
        transport: Any = self.transport
        try:
            transport.connect(run)
        except RunUnreachableError as why:
            if transport.fallback is None or str(why) == FINISHED:
                raise
            self.transport = transport.fallback()
            self.transport.connect(run)

    @property
    def is_attached(self) -> bool:
        """Whether wandb's own methods work on it here, or are making it so."""
        attaches = self.transport is not None and self.transport.is_native
        return attaches and self.phase in (Phase.CONNECTED, Phase.CONNECTING)

    def detach(self, run: Any) -> None:
        """End this process's use of the run; its owner and other workers go on."""
        from .globals import clear_global_run  # late: only workers need it

        try:
            if self.phase is Phase.CONNECTED and self.transport is not None:
                self.transport.flush(run)
                self.transport.detach(run)
        finally:
            self.phase = Phase.LEFT
            clear_global_run(run)


def usage_error(message: str) -> Exception:
    """Make the error that wandb raises where it is used wrongly."""
    error: Exception = importlib.import_module("wandb.errors").UsageError(message)
    return error


# --- which run of this process a key stands for -----------------------------

# So that a run that comes back is the same object. Plain weak references: upstream had
# fork deadlocks from finalizers.
_runs: Dict[str, weakref.ref[Any]] = {}


def get_state(run: Any) -> Optional[RunState]:
    """Get a run's link, or None where it has none (yet)."""
    link: Optional[RunState] = run.__dict__.get(ENTRY)
    return link


def bind(run: Any, link: RunState) -> None:
    """Give a run its link, and make it findable by its key."""
    run.__dict__[ENTRY] = link
    for dead in [name for name, ref in list(_runs.items()) if ref() is None]:
        _runs.pop(dead, None)
    _runs[link.key] = weakref.ref(run)


def owner_state(run: Any) -> OwnerState:
    """Get the link of a run that this process owns; make it if there is none."""
    link = get_state(run)
    if not isinstance(link, OwnerState):
        link = OwnerState(uuid.uuid4().hex)
        bind(run, link)
    return link


def lookup(key: str) -> Any:
    """Find the run of this process that a key stands for, or None."""
    metadata = _runs.get(key)
    return metadata() if metadata else None


def live_runs() -> Tuple[Any, ...]:
    """Give all runs of this process that are still there."""
    found = [ref() for ref in list(_runs.values())]
    return tuple(run for run in found if run is not None)


@_lifecycle.in_forked_child(ForkStage.RENEW_LOCKS)
def after_fork_in_child() -> None:
    """Make anew what another thread of the parent may have held."""
    global connecting
    connecting = threading.RLock()
