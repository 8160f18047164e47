"""What a transport does: how a worker's run reaches the process that owns it."""

from __future__ import annotations

import abc
import threading
from typing import Any, Callable, ContextManager, Dict, Optional, Tuple

from .. import _lifecycle
from ..errors import RunUnreachableError

# Held while a run attaches, one at a time: wandb knows of one only. The same thread may take it
# again, because a signal's handler that comes in between may log.
connecting = threading.RLock()


@_lifecycle.in_forked_child(_lifecycle.ForkStage.RENEW_LOCKS)
def after_fork_in_child() -> None:
    """Make a new lock: another thread of the parent may have held it."""
    global connecting
    connecting = threading.RLock()


class Transport(abc.ABC):
    """How a worker's run reaches the process that owns it.

    One that sends rows without waiting for an answer has :meth:`connect` call
    ``flush.register(run, self)`` and :meth:`call` set ``dirty``: else the last rows of a worker
    that ends are lost. One that uses upstream sets ``calling_thread`` while wandb's method runs:
    else each call that this makes in turn is checked again.

    Attributes:
        uses_upstream: Whether wandb's own methods work on the run in this process, once it is
            connected or finished.
        is_remote_host: Whether the owner is on another machine: its process numbers say nothing.
        attached: Whether it has a connection that another task can go on with.
        dirty: Whether a call was made since the last :meth:`flush`.
        calling_thread: The thread that is in a method of wandb's own; None also where several are.
        fallback: Makes the transport to be tried where this one can't connect; None for none.
    """

    uses_upstream = is_remote_host = False
    attached = dirty = False
    calling_thread: Optional[int] = None
    fallback: Optional[Callable[[], Transport]] = None

    def connecting(self) -> ContextManager[object]:
        """Return the lock that is held while this connects; the same thread may take it again."""
        return connecting

    @abc.abstractmethod
    def connect(self, run: Any) -> None:
        """Connect.

        Raises:
            RunUnreachableError: It can't; the message says why. An owner or a service that is
                silent or busy may be waited for first.
        """

    @abc.abstractmethod
    def call(
        self,
        run: Any,
        name: str,
        upstream: Callable[..., Any],
        args: Tuple[Any, ...],
        kwargs: Dict[str, Any],
    ) -> Any:
        """Make a call on the connected run; ``upstream`` is wandb's own method.

        Raises:
            RunUnreachableError: The owner has finished the run, or can't be reached any more.
        """

    # The rest has nothing to do where each call is answered before it returns.

    def check(self) -> None:  # noqa: B027
        """Check, before each call, that the owner still has the run.

        Raises:
            RunUnreachableError: It has not.
        """

    def flush(self, run: Any) -> None:  # noqa: B027
        """Wait, within a limit, until all that was logged has arrived; warn if it has not."""

    def detach(self, run: Any) -> None:  # noqa: B027
        """Close what is open: this process is done with the run, for now."""

    def leave(self, run: Any) -> None:
        """Flush and detach, for a caller to whom an error can be raised."""
        self.flush(run)
        self.detach(run)

    def is_closed(self) -> bool:
        """Return True if the run is known to be finished."""
        return False

    def resume(self, run: Any) -> bool:
        """Use a run again that was detached; return False if it has to connect anew."""
        return False


class UnreachableTransport(Transport):
    """Stands for a transport where there is none: a run that can only be read.

    Args:
        why: Why it can't be written, as a clause that follows "because".
    """

    uses_upstream = True  # on a finished run: they say that it is

    def __init__(self, why: str) -> None:
        self.why = why

    def connect(self, run: Any) -> None:
        raise RunUnreachableError(self.why)

    def call(self, run: Any, name: str, upstream: Any, args: Any, kwargs: Any) -> Any:
        raise RunUnreachableError(self.why)
