"""The file by which a process says which of its runs are over: see alive.py, which reads it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
import time
import uuid
from typing import List, Optional

from .. import _lifecycle
from . import filelock
from .liveness import BINARY, TRUST_SECONDS, open_owner_file

# So that no worker goes on without having seen that its run is over. Up to Python 3.12, the
# clocks of Windows step by 15.6 ms: a worker's may be a step late, and ours wake a step early.
_STEP_SECONDS = time.get_clock_info("monotonic").resolution
_GRACE_SECONDS = 1.25 * TRUST_SECONDS + 2 * _STEP_SECONDS

_NAME = r"wandb_ddp_patch-[0-9a-f]{32}(\.new)?"
# Room for names of runs, so that a disk which fills up later does not matter.
_ROOM = bytes(4096)
# Younger files may be about to be locked.
_SWEEP_SECONDS = 60


class _OwnerFile:
    """This process's file: one path, and each file that has lain there."""

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.gettempdir(), f"wandb_ddp_patch-{uuid.uuid4().hex}")
        self.descriptors: List[int] = []
        self.over: List[str] = []
        self.content = b"\0"  # the first byte says whether all runs are over

    def put_back(self) -> None:
        """See to it that there is a file at the path, and that it is ours."""
        if self._is_there():
            return
        # Where it is locked, not before it is: a free lock says that its owner has ended.
        # Windows renames no open file, and removes none: there it is always the first, of
        # which nobody knows yet.
        new = self.path if sys.platform == "win32" else f"{self.path}.new"
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | BINARY, 0o600)
        try:
            filelock.lock(descriptor)
            _write(descriptor, 0, _ROOM)
            _write(descriptor, 0, self.content)
            if new != self.path:
                os.rename(new, self.path)
        except BaseException:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        self.descriptors.append(descriptor)

    def _is_there(self) -> bool:
        """Return True if the file at the path is ours."""
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(self.descriptors[-1]))
        except (OSError, IndexError):
            return False

    def add(self, line: str) -> None:
        # Also into files that are no longer at the path: workers have them open.
        added = line.encode() + b"\n"
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                _write(descriptor, len(self.content), added)
        self.content += added

    def end_all(self) -> None:
        """Tell workers that all runs are over, and remove the file."""
        there = self._is_there()
        # Also by a byte: the lock lives on with any process that has been forked without
        # Python, and the system may take its time to free it.
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                _write(descriptor, 0, b"\1")
        self.close()  # which unlocks
        time.sleep(_GRACE_SECONDS)
        # Windows removes no file that anybody has open: by now, most workers that still log
        # have closed it. Else a later owner sweeps it.
        if there:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptors.clear()


def _write(descriptor: int, at: int, content: bytes) -> None:
    os.lseek(descriptor, at, os.SEEK_SET)
    os.write(descriptor, content)


_own: Optional[_OwnerFile] = None
_lock = threading.RLock()


def ensure_owner_file() -> Optional[str]:
    """Say that this process has runs which workers may use.

    Returns:
        The path for payloads, or None where there is no way to tell workers.
    """
    global _own
    with _lock:
        try:
            if _own is None:
                own = _OwnerFile()
                _sweep(os.path.dirname(own.path))
                own.put_back()
                _own = own
            else:
                _own.put_back()
        except OSError:  # read-only, full or missing: an older file may still do
            return _own.path if _own else None
        return _own.path


def mark_finished(key: str) -> bool:
    """Tell workers that a run is over; they all know when this returns.

    Returns:
        False if they have been told before.
    """
    with _lock:
        if _own is None or key in _own.over:
            return False
        _own.over.append(key)
        _own.add(key)
    time.sleep(_GRACE_SECONDS)
    return True


def mark_read(key: str, until: float) -> None:
    """Tell workers that what they sent to a run that is over is in it.

    Args:
        key: The run.
        until: When, by the monotonic clock.
    """
    with _lock:
        if _own is not None:
            _own.add(f"{key}={until:.6f}")


def mark_all_finished() -> None:
    """Tell workers that all runs of this process are over: it ends."""
    global _own
    with _lock:
        own, _own = _own, None
    if own is not None:
        own.end_all()


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of the parent's file: else it would stay locked when the parent ends."""
    global _own, _lock
    _lock = threading.RLock()
    if _own is not None:
        _own.close()
        _own = None


def _sweep(folder: str) -> None:
    """Remove the files of owners that were killed: ours, and with a lock that is free."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not re.fullmatch(_NAME, entry.name):
                continue
            with contextlib.suppress(OSError):
                descriptor = open_owner_file(entry.path)
                try:
                    young = os.fstat(descriptor).st_mtime > time.time() - _SWEEP_SECONDS
                    in_use = young or filelock.is_locked(descriptor)
                finally:
                    os.close(descriptor)
                if not in_use:  # where it is open, Windows does not remove it either
                    os.unlink(entry.path)
