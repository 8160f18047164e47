"""The process that has called spawn(), as its workers hold it: they end after it.

torch has the system signal a worker whose parent dies, but the parent of a
forkserver's worker is the forkserver. The pipe that multiprocessing closes at a
process's end stays open while a fork of that process lives, which has inherited it.
So the process itself is watched.
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

# What a worker has, after SIGINT, to end the user's function: then SIGTERM comes.
# And after that: as long as torch gives to a worker that it terminates.
INTERRUPTED_SECONDS, TERMINATED_SECONDS = 10.0, 30.0
_POLL_SECONDS = 1


class ParentHandle:
    """This process, as a context in which its workers are started."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._begun = _begun(self.pid)
        self._descriptor = _open(self.pid)

    def __enter__(self) -> ParentHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def __reduce__(self) -> Any:
        handed = None if self._descriptor is None else reduction.DupFd(self._descriptor)
        return _arrive, (self.pid, self._begun, handed)

    def wait_for_end(self) -> None:
        """Wait, in a worker, until this process has ended, however it does."""
        if self._descriptor is not None:
            connection.wait([self._descriptor])
            return
        pipe: List[Any] = []
        with contextlib.suppress(AttributeError):
            pipe = [process.parent_process().sentinel]  # type: ignore[union-attr]
        while self._is_there() and not connection.wait(pipe, _POLL_SECONDS):
            pass

    def _is_there(self) -> bool:
        if self._begun is not None:
            return _begun(self.pid) == self._begun  # else the number is another's by now
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it is another user's
        return True


def _arrive(pid: int, begun: Optional[bytes], handed: Any) -> ParentHandle:
    parent = ParentHandle.__new__(ParentHandle)
    parent.pid, parent._begun = pid, begun
    parent._descriptor = None if handed is None else handed.detach()
    return parent


def _open(pid: int) -> Optional[int]:
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):  # from Python 3.9 on
        with contextlib.suppress(OSError):  # Linux has it since 5.3; sandboxes may not
            return os.pidfd_open(pid)
    return None


def _begun(pid: int) -> Optional[bytes]:
    """Say when a process began, as Linux counts it; None if it has ended, or elsewhere."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19]


def exit_with_parent(
    parent: ParentHandle, interrupt: bool, over: threading.Event, insist: bool = True
) -> None:
    """Start to wait for the parent's end, and end this worker then.

    Args:
        interrupt: Whether SIGINT is to be sent first, which nobody else does.
        over: Is set when the user's function has ended. What Python does at the
            end of a process, such as uploading a run, has all the time it takes.
        insist: Whether another signal follows one that is not obeyed. torch sends SIGINT alone.
    """
    args = parent, interrupt, over, insist
    # What waits does not keep the worker alive.
    thread = threading.Thread(target=_end_with, args=args, name="wandb_ddp_patch", daemon=True)
    # It takes no signals: those that the worker blocks later are not for it, either.
    mask = getattr(signal, "pthread_sigmask", None)  # which Windows has not
    before = mask(signal.SIG_BLOCK, signal.valid_signals()) if mask else None
    try:
        thread.start()
    finally:
        if mask:
            mask(signal.SIG_SETMASK, before)


def _end_with(parent: ParentHandle, interrupt: bool, over: threading.Event, insist: bool) -> None:
    parent.wait_for_end()
    if not insist:
        os.kill(os.getpid(), signal.SIGINT)
        return
    for number, seconds, is_ours in (
        (signal.SIGINT, INTERRUPTED_SECONDS, interrupt),
        (signal.SIGTERM, TERMINATED_SECONDS, True),
    ):
        if signal.getsignal(number) is not signal.SIG_IGN:
            if is_ours:
                os.kill(os.getpid(), number)
            if over.wait(seconds):
                return
    os.kill(os.getpid(), signal.SIGKILL)
