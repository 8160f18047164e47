"""Whether the process that owns a run still has it: the file that says so, written and read.

The service does not say that a run is finished: attaching waits, logging goes
nowhere. And it may end, with its owner, without a word (0.21.2 to 0.22.0). So a
process that hands out runs keeps one file, locked, that lists those of its runs
that are finished; a first byte that is set says that all are. The system unlocks it when
the process ends, however that happens.

Only what is in the file, a lock that is free, or an owner that can be seen to have
ended, says that a run is finished. That the file is not there, or can't be read, says
nothing: cleaners remove it, containers have a temporary folder of their own. Then the
service has to tell, and the owner puts its file back when it hands out a run again.
Workers only ever read.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import sys
import tempfile
import threading
import time
import uuid
from typing import Dict, List, Optional

from .. import _lifecycle
from .._process import has_exited
from .payload_format import Address

# How long a worker relies on what it has seen. Asking lets another thread of
# the worker in: at each row, that cost 3 to 5 % of its time. An owner that finishes a run
# waits a little longer.
CACHE_SECONDS = 0.02

# So that no worker goes on without having seen that its run is finished. Up to Python 3.12, the
# clocks of Windows step by 15.6 ms: a worker's may be a step late, and ours wake a step early.
_STEP_SECONDS = time.get_clock_info("monotonic").resolution
_GRACE_SECONDS = 1.25 * CACHE_SECONDS + 2 * _STEP_SECONDS

# --- the file -------------------------------------------------------------------

# A byte, whether all runs are finished; then a line for each that is, its key; and once W&B's
# service has read what workers had sent to it, another: its key, "=", and until when.
_OPEN, _ALL_FINISHED = b"\0", b"\1"
_READ_UNTIL = rb"%b=(\d+\.\d+)\n"

_NAME = r"wandb_ddp_patch-[0-9a-f]{32}(\.new)?"
# Room for names of runs, so that a disk which fills up later does not matter.
_PREALLOCATED = bytes(4096)

_BINARY = getattr(os, "O_BINARY", 0)  # on Windows, text would get other line ends


def _open(path: str) -> int:
    """Open an owner's file for reading.

    Raises:
        OSError: It is not there, or is not one that a process of this user has made.
    """
    # The folder is everybody's: a link could lead to any file, and a pipe would block us.
    no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, os.O_RDONLY | _BINARY | no_link)
    found = os.fstat(descriptor)
    user = getattr(os, "geteuid", lambda: found.st_uid)()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != user:
        os.close(descriptor)
        raise OSError(f"{path} is not ours")
    return descriptor


def _read(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if hasattr(os, "pread"):  # forks share the position
        return os.pread(descriptor, size, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, size)


def _write(descriptor: int, at: int, content: bytes) -> None:
    os.lseek(descriptor, at, os.SEEK_SET)
    os.write(descriptor, content)


# Its lock: the system takes it away when the process that holds it ends, however it ends. A
# worker, which has the file open for reading alone, can tell whether it is locked.

if sys.platform == "win32":
    import msvcrt

    # Far behind all that is ever in the file: what is locked, nobody else can read there.
    _LOCKED_BYTE = 1 << 30

    def _lock(descriptor: int) -> None:
        _lock_byte(descriptor, msvcrt.LK_NBLCK)

    def _is_locked(descriptor: int) -> bool:
        try:
            _lock_byte(descriptor, msvcrt.LK_NBLCK)
        except OSError:
            return True  # or another worker is asking just now
        _lock_byte(descriptor, msvcrt.LK_UNLCK)
        return False

    def _lock_byte(descriptor: int, mode: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, mode, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_locked(descriptor: int) -> bool:
        try:
            # Shared: two workers that ask at once must not take each other for the owner.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False


# --- reading it, in a worker ----------------------------------------------------


class _FileReader:
    """An owner's file, as this process sees it."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Not a Lock: a signal's handler that comes in between may log, which asks again.
        self.lock = threading.RLock()
        # Kept open: the owner writes into files that are no longer at the path.
        self.descriptor: Optional[int] = None
        self.content = b""  # what was read last, also for after the file is closed
        self.owner_ended = False

    def is_finished(self, key: str) -> Optional[bool]:
        """Return whether a run is finished; None where the file can't tell."""
        with self.lock:
            try:
                return self.owner_ended or self._look(key)
            except (OSError, ValueError):
                return None

    def _look(self, key: str) -> bool:
        if self.descriptor is None:
            self.descriptor = _open(self.path)
        content = self.content = _read(self.descriptor)
        if key.encode() in content:
            return True
        # The byte first: the lock lives on with any process that the owner has forked without
        # Python.
        if content[:1] == _ALL_FINISHED or not _is_locked(self.descriptor):
            self.owner_ended = True
            self.close()
        return self.owner_ended

    def read_until(self, key: str) -> float:
        """See :meth:`OwnerWatch.read_until`."""
        with self.lock, contextlib.suppress(OSError):
            if self.descriptor is not None:
                self.content = _read(self.descriptor)
        found = re.search(_READ_UNTIL % key.encode(), self.content)
        return float(found[1]) if found else 0.0

    def close(self) -> None:
        """Close the file."""
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = None


# By path: one for all runs of an owner.
_readers: Dict[str, _FileReader] = {}
_readers_lock = threading.RLock()


class OwnerWatch:
    """Whether a run's owner still has it, as far as its file tells.

    Args:
        path: The owner's file, or None where there is none.
        key: The run.
        owner: The fingerprint of its process, see _process.py; None where it is not known.

    Attributes:
        sees_owner: Whether the file has said, at the last look, that the owner has the run.
        cached_until: Until when what was seen is relied on, by the monotonic clock in seconds.
    """

    def __init__(self, path: Optional[str], key: str, owner: Optional[str] = None) -> None:
        self.path, self.key, self.owner = path, key, owner
        self.sees_owner = False
        self.cached_until = 0.0

    def is_finished(self) -> bool:
        """Return True if the run is finished; False also where nothing can be told."""
        now = time.monotonic()
        if now < self.cached_until or not self.path:
            return False
        with _readers_lock:
            reader = _readers.get(self.path)
            if reader is None:
                reader = _readers[self.path] = _FileReader(self.path)
        finished = reader.is_finished(self.key)
        if finished is None and has_exited(self.owner):
            return True
        self.sees_owner = finished is False
        if finished:
            return True
        self.cached_until = now + CACHE_SECONDS
        return False

    def read_until(self) -> float:
        """Return until when, by the monotonic clock, all that was sent is in the run; else 0."""
        reader = _readers.get(self.path or "")
        return reader.read_until(self.key) if reader else 0.0

    def invalidate(self) -> None:
        """Have the file read at the next question: something is wrong."""
        self.cached_until = 0.0


# --- writing it, in the owner ---------------------------------------------------

# Younger files are not swept: they may be about to be locked.
_SWEEP_SECONDS = 60


class _OwnerFile:
    """This process's file: one path, and each file that has lain there."""

    def __init__(self) -> None:
        self.path = os.path.join(tempfile.gettempdir(), f"wandb_ddp_patch-{uuid.uuid4().hex}")
        self.descriptors: List[int] = []
        self.finished: List[str] = []
        self.content = _OPEN

    def ensure(self) -> None:
        """Create the file, unless it is at its path: cleaners may have removed it."""
        if self._is_there():
            return
        # It is locked before it gets its path: a free lock says that its owner has ended.
        # Windows renames no open file, and removes none: there it is always the first, of
        # which nobody knows yet.
        new = self.path if sys.platform == "win32" else f"{self.path}.new"
        descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | _BINARY, 0o600)
        try:
            _lock(descriptor)
            _write(descriptor, 0, _PREALLOCATED)
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
        """Append a line."""
        # Also into files that are no longer at the path: workers have them open.
        added = line.encode() + b"\n"
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                _write(descriptor, len(self.content), added)
        self.content += added

    def mark_all_finished(self) -> None:
        """Tell workers that all runs are finished, and remove the file."""
        there = self._is_there()
        # Also by a byte: the lock lives on with any process that has been forked without
        # Python, and the system may take its time to free it.
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                _write(descriptor, 0, _ALL_FINISHED)
        self.close()
        time.sleep(_GRACE_SECONDS)
        # Windows removes no file that anybody has open: by now, most workers that still log
        # have closed it. Else a later owner sweeps it.
        if there:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def close(self) -> None:
        """Close all that has lain there, which unlocks it."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptors.clear()


_own: Optional[_OwnerFile] = None
_own_lock = threading.RLock()


def ensure_owner_file() -> Optional[str]:
    """Create this process's file, or put it back: it has runs which workers may use.

    Returns:
        The path for payloads, or None where there can be no file.
    """
    global _own
    with _own_lock:
        try:
            if _own is None:
                own = _OwnerFile()
                _sweep(os.path.dirname(own.path))
                own.ensure()
                _own = own
            else:
                _own.ensure()
        except OSError:
            # The folder is read-only, full or missing. Workers that have the former file open go
            # on being told by it; for others, its absence says nothing.
            return _own.path if _own else None
        return _own.path


def mark_finished(key: str) -> bool:
    """Tell workers that a run is finished; they all know when this returns.

    Returns:
        False if they have been told before.
    """
    with _own_lock:
        if _own is None or key in _own.finished:
            return False
        _own.finished.append(key)
        _own.add(key)
    time.sleep(_GRACE_SECONDS)
    return True


def mark_read(key: str, until: float) -> None:
    """Tell workers that what they sent to a run that is finished is in it.

    Args:
        key: The run.
        until: All that they sent before this is, by the monotonic clock in seconds.
    """
    with _own_lock:
        if _own is not None:
            _own.add(f"{key}={until:.6f}")


def mark_all_finished() -> None:
    """Tell workers that all runs of this process are finished: it ends."""
    global _own
    with _own_lock:
        own, _own = _own, None
    if own is not None:
        own.mark_all_finished()


def _sweep(folder: str) -> None:
    """Remove the files of owners that were killed: ours, and with a lock that is free."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not re.fullmatch(_NAME, entry.name):
                continue
            with contextlib.suppress(OSError):
                descriptor = _open(entry.path)
                try:
                    young = os.fstat(descriptor).st_mtime > time.time() - _SWEEP_SECONDS
                    in_use = young or _is_locked(descriptor)
                finally:
                    os.close(descriptor)
                if not in_use:  # where it is open, Windows does not remove it either
                    os.unlink(entry.path)


# --- in a fork ------------------------------------------------------------------


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Close what the parent has open: its own file would stay locked when the parent ends."""
    global _own, _own_lock, _readers_lock
    _own_lock, _readers_lock = threading.RLock(), threading.RLock()
    for reader in _readers.values():
        reader.close()
    _readers.clear()
    if _own is not None:
        _own.close()
        _own = None


# --- whether there is a service -------------------------------------------------

# WANDB_SERVICE: version, process id, transport, address.
_SERVICE = r"\d+-\d+-(?:unix-(.+)|\w+-(.+)-(\d+))"

# How long to wait for a service to be there. Windows asks a port that is closed for 2 s.
_CONNECT_SECONDS = 1 if sys.platform != "win32" else 4


def service_address(service: str) -> Optional[Address]:
    """Return where a service listens, by a value of WANDB_SERVICE; None for an unknown form."""
    match = re.fullmatch(_SERVICE, service)
    if match is None:
        return None
    path, host, port = match.groups()
    return path or (host, int(port))


def is_service_gone(service: str) -> bool:
    """Return True if nothing can be any more where WANDB_SERVICE says.

    A full backlog, a lack of descriptors or rights, and a service that takes its time say
    nothing.
    """
    address = service_address(service)
    if address is None:
        return False  # let wandb try
    try:
        if isinstance(address, str):
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(_CONNECT_SECONDS)
                asking.connect(address)
        else:
            socket.create_connection(address, _CONNECT_SECONDS).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False
