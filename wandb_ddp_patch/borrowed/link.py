"""The one thing of ours that a run keeps: whose it is, and how it is reached.

In the process that called wandb.init() a run has an ``Owned`` link; in any other
a ``Borrowed`` one. Grafted methods ask the link of the run in this process, and
nothing else keeps state of ours on a run.
"""

from __future__ import annotations

import importlib
import os
import threading
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Optional, Tuple, Union

from ..errors import FINISHED, Unreachable
from .facts import ENTRY
from .processes import is_me

if TYPE_CHECKING:
    Link = Union["Owned", "Borrowed"]
    # As multiprocessing.connection takes them: a socket's or pipe's name, or host and port.
    Address = Union[str, Tuple[str, int]]

# States of a borrowed run: not connected yet, being connected by a thread that calls
# it meanwhile, connected, left by finish(), and finished already when it was inherited
# by a fork: then wandb itself says so.
APART, CONNECTING, CONNECTED = "apart", "connecting", "connected"
LEFT, FINISHED_BEFORE = "left", "finished before"

NO_WAY = "this release's runs work in one process, and no local socket could be made"

# One run attaches at a time: wandb knows of one only.
connecting = threading.RLock()


class Way:
    """How a borrowed run reaches the process that owns it: a transport.

    Attributes:
        attaches: Whether the run then has a connection of wandb's own, so that
            wandb's methods run in this process.
        unflushed: Whether a call was made since the last :meth:`flush`.
        attached: Whether it has a connection that another task can go on with.
        elsewhere: Whether the owner is on another machine: its process numbers say nothing.
        calling: The thread that is in a method of wandb's own; None also where several are.
        otherwise: Makes the way to be tried where this one can't be had.
    """

    attaches = unflushed = attached = elsewhere = False
    calling: Optional[int] = None
    otherwise: Optional[Callable[[], Way]] = None

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

    def leave(self, run: Any) -> None:
        """Let go of what is open: this process is done with the run, for now."""

    def is_over(self) -> bool:
        """Say whether the run is known to be over."""
        return False

    def resume(self, run: Any) -> bool:
        """Take up a run that was left; False where it has to be connected anew."""
        return False


class Owned:
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
        known: What it knows of itself, where it stands for a disabled run elsewhere.
    """

    borrowed = False

    def __init__(self, key: str, known: Optional[Dict[str, Any]] = None) -> None:
        self.key, self.known = key, known
        self.service = os.environ.get("WANDB_SERVICE")
        self.shared = self.over = False
        self.process: Optional[str] = None
        self.marker: Optional[str] = None
        self.relay: Optional[Address] = None
        self.share: Optional[Dict[str, Any]] = None
        self.exit_code: Optional[int] = None


class Borrowed:
    """The link of a run in a process that does not own it.

    Attributes:
        payload: What it came with.
        known: What it knows of itself, also while it is not connected.
        state: One of the states above.
        way: How it reaches its owner; None where there is no way.
    """

    borrowed = True

    def __init__(self, payload: Dict[str, Any], way: Optional[Way], state: str = APART) -> None:
        self.payload, self.way, self.state = payload, way, state
        self.key: str = payload["key"]
        self.known: Dict[str, Any] = payload["known"]

    def use(self, run: Any, name: str, upstream: Any, args: Any, kw: Any, bare: Any = None) -> Any:
        """Make a call on the run, by ``bare`` once it is connected; connect first, if need be.

        Raises:
            wandb.errors.UsageError: The run can't be reached; says at once why, and what to do.
        """
        try:
            if self.state is CONNECTED:
                self.way.check()  # type: ignore[union-attr]
            else:
                self._connect(run)
                # Where wandb attaches, it is what calls us; else a signal's handler may be.
                if self.state is not CONNECTED and (self.way is None or self.way.attaches):
                    return upstream(run, *args, **kw)
            way: Any = self.way
            return way.call(run, name, bare or upstream, args, kw)
        except Unreachable as why:
            raise usage_error(
                f"Run {self.known['id']} can't be written from this process, because {why}."
                " Log in the process that called wandb.init(), while its run is active, or"
                " start a run of your own here with wandb.init(); to add to the same run"
                f" online, use wandb.init(id={self.known['id']!r}, resume='allow')."
            ) from why.__cause__

    def _connect(self, run: Any) -> None:
        if self.state is FINISHED_BEFORE:
            return
        if self.state is LEFT:
            raise Unreachable("this worker has called finish(), or wandb.teardown()")
        with connecting if self.way is None else self.way.connecting():
            if self.state is not APART:
                return  # another thread has done it, or it is what calls us
            if self.payload["finished"]:
                raise Unreachable("it was finished before it was sent here")
            elsewhere = self.way is not None and self.way.elsewhere
            if is_me(self.payload["owner"], self.payload.get("process")) and not elsewhere:
                raise Unreachable("it has ended: nothing in this process holds it any more")
            from . import descriptors  # late: importing wandb must stay quick

            descriptors.check()
            if self.way is None:
                raise Unreachable(NO_WAY)
            self.state = CONNECTING
            try:
                self._connect_nearest(run)
            except BaseException:
                self.state = APART
                raise
            self.state = CONNECTED

    def _connect_nearest(self, run: Any) -> None:
        way: Any = self.way
        try:
            way.connect(run)
        except Unreachable as why:
            if way.otherwise is None or str(why) == FINISHED:
                raise
            self.way = way.otherwise()
            self.way.connect(run)

    @property
    def is_attached(self) -> bool:
        """Whether wandb's own methods work on it here, or are making it so."""
        attaches = self.way is not None and self.way.attaches
        return attaches and self.state in (CONNECTED, CONNECTING)

    def leave(self, run: Any) -> None:
        """End this process's use of the run; its owner and other workers go on."""
        from .current import make_nobodys  # late: only workers need it

        try:
            if self.state is CONNECTED and self.way is not None:
                self.way.flush(run)
                self.way.leave(run)
        finally:
            self.state = LEFT
            make_nobodys(run)


def usage_error(message: str) -> Exception:
    """Make the error that wandb raises where it is used wrongly."""
    error: Exception = importlib.import_module("wandb.errors").UsageError(message)
    return error


# --- which run of this process a key stands for -----------------------------

# So that a run that comes back is the same object. Plain weak references: upstream had
# fork deadlocks from finalizers.
_runs: Dict[str, weakref.ref[Any]] = {}


def of(run: Any) -> Optional[Link]:
    """Get a run's link, or None where it has none (yet)."""
    link: Optional[Link] = run.__dict__.get(ENTRY)
    return link


def tie(run: Any, link: Link) -> None:
    """Give a run its link, and make it findable by its key."""
    run.__dict__[ENTRY] = link
    for dead in [name for name, ref in list(_runs.items()) if ref() is None]:
        _runs.pop(dead, None)
    _runs[link.key] = weakref.ref(run)


def own(run: Any) -> Owned:
    """Get the link of a run that this process owns; make it if there is none."""
    link = of(run)
    if not isinstance(link, Owned):
        link = Owned(uuid.uuid4().hex)
        tie(run, link)
    return link


def find(key: str) -> Any:
    """Find the run of this process that a key stands for, or None."""
    known = _runs.get(key)
    return known() if known else None


def runs() -> Tuple[Any, ...]:
    """Give all runs of this process that are still there."""
    found = [ref() for ref in list(_runs.values())]
    return tuple(run for run in found if run is not None)


def after_fork_in_child() -> None:
    """Make anew what another thread of the parent may have held."""
    global connecting
    connecting = threading.RLock()
