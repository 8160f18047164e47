"""The process that has called spawn(), as its workers hold it: they end after it.

torch has the system signal a worker whose parent dies, but the parent of a
forkserver's worker is the forkserver. The pipe that multiprocessing closes at a
process's end stays open while a fork of that process lives, which has inherited it.
A process number may be another process's by the time it is looked at. A pidfd is
this very process, however it ends.
https://man7.org/linux/man-pages/man2/pidfd_open.2.html
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from multiprocessing import connection, process, reduction
from typing import Any, List, Optional

from .. import _process

# How long the user's function has to end after SIGINT, before SIGTERM is sent; and after that,
# before SIGKILL is: as long as torch gives a worker that it terminates.
INTERRUPTED_SECONDS, TERMINATED_SECONDS = 10.0, 30.0
_POLL_SECONDS = 1


class ParentHandle:
    """This process, as its workers get it: a context in which they are started."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._pidfd = _open_pidfd(self.pid)
        # What tells the process from another one of its number, where there is no pidfd. Not on
        # Windows, where workers don't end with their parent, and this takes its time.
        needed = self._pidfd is None and os.name == "posix"
        self._fingerprint = _process.process_fingerprint(self.pid) if needed else None

    def __enter__(self) -> ParentHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)

    def __reduce__(self) -> Any:
        duplicate = None if self._pidfd is None else reduction.DupFd(self._pidfd)
        return _load, (self.pid, self._fingerprint, duplicate)

    def wait(self) -> None:
        """Wait, in a worker, until the parent has ended."""
        if self._pidfd is not None:
            connection.wait([self._pidfd])
            return
        # The pipe wakes this at once in most cases. Where a fork of the parent holds it open,
        # or the worker has none, polling notices the end.
        pipe: List[Any] = []
        with contextlib.suppress(AttributeError):
            pipe = [process.parent_process().sentinel]  # type: ignore[union-attr]
        while self._is_alive() and not connection.wait(pipe, _POLL_SECONDS):
            pass

    def _is_alive(self) -> bool:
        if self._fingerprint is not None:
            return not _process.has_exited(self._fingerprint)
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it is another user's
        return True


def _load(pid: int, fingerprint: Optional[str], duplicate: Any) -> ParentHandle:
    # Not by __init__(), which would make a handle of the worker itself.
    parent = ParentHandle.__new__(ParentHandle)
    parent.pid, parent._fingerprint = pid, fingerprint
    parent._pidfd = None if duplicate is None else duplicate.detach()
    return parent


def _open_pidfd(pid: int) -> Optional[int]:
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):  # from Python 3.9 on
        with contextlib.suppress(OSError):  # Linux has it since 5.3; sandboxes may not
            return os.pidfd_open(pid)
    return None


def exit_with_parent(
    parent: ParentHandle, interrupt: bool, finished: threading.Event, escalate: bool = True
) -> None:
    """Start a thread that waits for the parent's end, and ends this worker then.

    Args:
        interrupt: Whether to send SIGINT first; False where the system does that.
        finished: Is set when the user's function has ended. What Python does at the
            end of a process, such as uploading a run, has all the time it takes.
        escalate: Whether SIGTERM and SIGKILL follow where SIGINT is not obeyed. torch sends
            SIGINT alone.
    """
    args = parent, interrupt, finished, escalate
    # A daemon, so that waiting for the parent does not keep a finished worker alive.
    thread = threading.Thread(target=_exit_later, args=args, name="wandb_ddp_patch", daemon=True)
    # A thread starts with the signal mask of its creator. Signals that the worker blocks later,
    # to take them by sigwait(), would be delivered to this thread instead, which blocks none.
    set_mask = getattr(signal, "pthread_sigmask", None)  # which Windows has not
    before = set_mask(signal.SIG_BLOCK, signal.valid_signals()) if set_mask else None
    try:
        thread.start()
    finally:
        if set_mask:
            set_mask(signal.SIG_SETMASK, before)


def _exit_later(
    parent: ParentHandle, interrupt: bool, finished: threading.Event, escalate: bool
) -> None:
    parent.wait()
    if not escalate:
        os.kill(os.getpid(), signal.SIGINT)
        return
    for number, seconds, send in (
        (signal.SIGINT, INTERRUPTED_SECONDS, interrupt),
        (signal.SIGTERM, TERMINATED_SECONDS, True),
    ):
        if signal.getsignal(number) is not signal.SIG_IGN:
            if send:
                os.kill(os.getpid(), number)
            if finished.wait(seconds):
                return
    os.kill(os.getpid(), signal.SIGKILL)
