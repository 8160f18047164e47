"""The state of a run in this process: whose run it is, and how its owner is reached.

In the process that called wandb.init() a run has an :class:`OwnerState`; in any other a
:class:`WorkerState`. Patched methods ask it, and nothing else of ours is kept on a run.
"""

from __future__ import annotations

import enum
import importlib
import os
import uuid
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple, Union

from .._process import is_this_process, require_free_descriptors
from ..errors import FINISHED, RunUnreachableError
from .metadata import STATE_ENTRY
from .transport import Transport

if TYPE_CHECKING:
    from typing import Literal

    from .payload_format import Address, Metadata, Payload, Share

    RunState = Union["OwnerState", "WorkerState"]


class Phase(enum.Enum):
    """How far a worker has got with a run."""

    DETACHED = "not connected yet"
    CONNECTING = "being connected by a thread, which calls it meanwhile"
    CONNECTED = "connected"
    LEFT = "left by finish()"
    # Calls go to wandb, whose error says that the run is finished.
    FINISHED = "finished already when a fork inherited it"


class OwnerState:
    """The state of a run in the process that called wandb.init().

    Attributes:
        key: What identifies the run in its payloads.
        service: WANDB_SERVICE at its start.
        published: Whether workers of this machine may have it.
        fingerprint: What identifies this process, see _process.py; None until it is published.
        owner_file: The file that says whether the run is finished, for workers.
        local_address: Where workers have their calls made, for releases that need it.
        share: What workers on other machines need; None where it is not shared with them.
        finished: Whether workers can use it no more.
        exit_code: What it will be finished with, if a worker of spawn() has failed.
        metadata: For a copy of another process's disabled run, what that run knew of itself.
    """

    is_worker: Literal[False] = False

    def __init__(self, key: str, metadata: Optional[Metadata] = None) -> None:
        self.key, self.metadata = key, metadata
        self.service = os.environ.get("WANDB_SERVICE")
        self.published = self.finished = False
        self.fingerprint: Optional[str] = None
        self.owner_file: Optional[str] = None
        self.local_address: Optional[Address] = None
        self.share: Optional[Share] = None
        self.exit_code: Optional[int] = None


class WorkerState:
    """The state of a run in a process that does not own it.

    Attributes:
        payload: What the run came with.
        metadata: What it knows of itself, also while it is not connected.
        phase: How far this process has got with it.
        transport: How it reaches its owner.
    """

    is_worker: Literal[True] = True

    def __init__(
        self, payload: Payload, transport: Transport, phase: Phase = Phase.DETACHED
    ) -> None:
        self.payload, self.transport, self.phase = payload, transport, phase
        self.key, self.metadata = payload["key"], payload["metadata"]

    def call(
        self,
        run: Any,
        name: str,
        upstream: Callable[..., Any],
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
        connected: Optional[Callable[..., Any]] = None,
    ) -> Any:
        """Make a call on the run; connect first, if need be.

        Args:
            upstream: wandb's own method.
            connected: The same for a connected run, without what the state has checked.

        Raises:
            wandb.errors.UsageError: The run can't be reached; says at once why, and what to do.
        """
        try:
            if self.phase is Phase.CONNECTED:
                self.transport.check()
            else:
                self._connect(run)
                # It may not be connected after all. Either the run is finished, or this is a call
                # of wandb's own while it attaches: both are wandb's to answer. A transport that
                # connects without wandb gets here by a signal's handler, and makes its call.
                phase: Phase = self.phase  # else mypy takes it for what it was above
                if phase is not Phase.CONNECTED and self.transport.uses_upstream:
                    return upstream(run, *args, **kwargs)
            return self.transport.call(run, name, connected or upstream, args, kwargs)
        except RunUnreachableError as why:
            run_id = self.metadata["id"]
            raise usage_error(
                f"Run {run_id} can't be written from this process, because {why}."
                f" {why.remedy or _usual_remedy(str(why), run_id)}"
            ) from why.__cause__

    def _connect(self, run: Any) -> None:
        if self.phase is Phase.FINISHED:
            return
        if self.phase is Phase.LEFT:
            raise RunUnreachableError("this worker has called finish(), or wandb.teardown()")
        with self.transport.connecting():
            if self.phase is not Phase.DETACHED:
                return  # another thread has done it, or it is what calls us
            if self.payload["finished"]:
                raise RunUnreachableError("it was finished before it was sent here")
            # The numbers of another machine's processes are no reason to refuse.
            if not self.transport.is_remote_host and is_this_process(
                self.payload["owner_pid"], self.payload["owner_fingerprint"]
            ):
                raise RunUnreachableError("it was started by this process, which no longer has it")
            require_free_descriptors()
            self.phase = Phase.CONNECTING
            try:
                self._connect_or_fall_back(run)
            except BaseException:
                self.phase = Phase.DETACHED
                raise
            self.phase = Phase.CONNECTED

    def _connect_or_fall_back(self, run: Any) -> None:
        try:
            self.transport.connect(run)
        except RunUnreachableError as why:
            # A run that is finished is so by any transport: to try would only take time.
            if self.transport.fallback is None or str(why) == FINISHED:
                raise
            self.transport = self.transport.fallback()
            self.transport.connect(run)

    @property
    def is_attached(self) -> bool:
        """True if wandb's own methods work on it here, or are making it so."""
        return self.transport.uses_upstream and self.phase in (Phase.CONNECTED, Phase.CONNECTING)

    def detach(self, run: Any) -> None:
        """End this process's use of the run; its owner and other workers go on."""
        from .globals import clear_global_run  # late: only workers need it

        try:
            if self.phase is Phase.CONNECTED:
                self.transport.leave(run)
        finally:
            self.phase = Phase.LEFT
            clear_global_run(run)


def _usual_remedy(why: str, run_id: Optional[str]) -> str:
    # Most often, the owner has not waited for its workers.
    here = (
        "Make that process wait for its workers, for example with join(), before it calls finish()"
        " or ends. Or"
        if why == FINISHED
        else "Log in the process that called wandb.init(), while its run is active, or"
    )
    return (
        f"{here} start a run of your own here with wandb.init(); to add to the same run online, use"
        f" wandb.init(id={run_id!r}, resume='allow')."
    )


def usage_error(message: str) -> Exception:
    """Return the error that wandb raises where it is used wrongly."""
    error: Exception = importlib.import_module("wandb.errors").UsageError(message)
    return error


# --- which run of this process a key stands for -----------------------------

# So that a run that comes back is the same object. Plain weak references: wandb had
# deadlocks in forks from finalizers.
_runs: Dict[str, weakref.ref[Any]] = {}


def get_state(run: Any) -> Optional[RunState]:
    """Return a run's state, or None where it has none (yet)."""
    state: Optional[RunState] = run.__dict__.get(STATE_ENTRY)
    return state


def bind(run: Any, state: RunState) -> None:
    """Give a run its state, and make it findable by its key."""
    run.__dict__[STATE_ENTRY] = state
    # By a copy: other threads may bind runs. What they have removed meanwhile is no error.
    for dead in [key for key, ref in list(_runs.items()) if ref() is None]:
        _runs.pop(dead, None)
    _runs[state.key] = weakref.ref(run)


def ensure_owner_state(run: Any) -> OwnerState:
    """Return the state of a run that this process owns; make it if there is none."""
    state = get_state(run)
    if not isinstance(state, OwnerState):
        state = OwnerState(uuid.uuid4().hex)
        bind(run, state)
    return state


def lookup(key: str) -> Any:
    """Return the run of this process that a key stands for, or None."""
    ref = _runs.get(key)
    return ref() if ref else None


def live_runs() -> Tuple[Any, ...]:
    """Return all runs of this process that are still there."""
    found = [ref() for ref in list(_runs.values())]
    return tuple(run for run in found if run is not None)
