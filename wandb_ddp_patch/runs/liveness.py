"""Whether the process that owns a run still has it.

The service does not say that a run is finished: attaching waits, logging goes
nowhere. And it may end, with its owner, without a word (0.21.2 to 0.22.0). So a
process that hands out runs keeps one file, locked, that lists those of its runs
that are over; a first byte that is set says that all are. The system unlocks it when
the process ends, however that happens.

Only what is in the file, a lock that is free, or an owner that can be seen to have
ended, says that a run is over. That the file is not there, or can't be read, says
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
import threading
import time
from typing import Dict, Optional

from .. import _lifecycle
from .._process import has_exited
from . import filelock

# WANDB_SERVICE: version, process id, transport, address. Compiled when it is asked for:
# importing wandb must stay quick.
SERVICE = r"\d+-\d+-(?:(unix)-(.+)|\w+-(.+)-(\d+))"

# How long a worker takes what it has seen for granted. Asking lets another thread of
# the worker in: at each row, that cost 3 to 5 % of its time. An owner that ends a run
# waits a little longer.
TRUST_SECONDS = 0.02

# What a file says of a run that is over, once W&B's service has read what workers had sent.
READ_UNTIL = rb"%b=(\d+\.\d+)\n"

# How long to wait for a service to be there. Windows asks a port that is closed for 2 s.
_CONNECT_SECONDS = 1 if sys.platform != "win32" else 4

BINARY = getattr(os, "O_BINARY", 0)  # on Windows, text would get other line ends


def open_owner_file(path: str) -> int:
    """Open an owner's file for reading.

    Raises:
        OSError: It is not there, or is not one that a process of this user has made.
    """
    no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, os.O_RDONLY | BINARY | no_link)
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


class _Seen:
    """An owner's file, as this process sees it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = threading.RLock()  # a signal's handler may log, too
        self.descriptor: Optional[int] = None
        self.content = b""
        self.ended = False

    def is_over(self, key: str) -> Optional[bool]:
        with self.lock:
            try:
                return self.ended or self._look(key)
            except (OSError, ValueError):
                return None  # no way to tell

    def _look(self, key: str) -> bool:
        if self.descriptor is None:
            self.descriptor = open_owner_file(self.path)
        content = self.content = _read(self.descriptor)
        if key.encode() in content:
            return True
        if content[:1] == b"\1" or not filelock.is_locked(self.descriptor):
            self.ended = True
            self.close()
        return self.ended

    def read_until(self, key: str) -> float:
        with self.lock, contextlib.suppress(OSError):
            if self.descriptor is not None:
                self.content = _read(self.descriptor)
        found = re.search(READ_UNTIL % key.encode(), self.content)
        return float(found[1]) if found else 0.0

    def close(self) -> None:
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self.descriptor)
            self.descriptor = None


# By path: one for all runs of an owner.
_seen: Dict[str, _Seen] = {}
_seeing = threading.RLock()


class OwnerWatch:
    """Whether a run's owner still has it, as far as its file tells.

    Args:
        path: The owner's file, or None where there is none.
        key: The run.
        owner: The process, see processes.py; None where it is not known.

    Attributes:
        sees_owner: Whether the last look has told that it has the run.
        cached_until: When the next look is due, by the monotonic clock.
    """

    def __init__(self, path: Optional[str], key: str, owner: Optional[str] = None) -> None:
        self.path, self.key, self.owner = path, key, owner
        self.sees_owner = False
        self.cached_until = 0.0

    def is_over(self) -> bool:
        """Say whether the run is over; False where nothing can be told."""
        now = time.monotonic()
        if now < self.cached_until or not self.path:
            return False
        with _seeing:
            seen = _seen.get(self.path) or _seen.setdefault(self.path, _Seen(self.path))
        over = seen.is_over(self.key)
        if over is None and has_exited(self.owner):
            return True
        self.sees_owner = over is False
        if over:
            return True
        self.cached_until = now + TRUST_SECONDS
        return False

    def read_until(self) -> float:
        """Return until when, by the monotonic clock, all that was sent is in the run; else 0."""
        seen = _seen.get(self.path or "")
        return seen.read_until(self.key) if seen else 0.0

    def invalidate(self) -> None:
        """Have the next question asked anew: something is wrong."""
        self.cached_until = 0.0


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of what the parent has open: each process looks for itself."""
    global _seeing
    _seeing = threading.RLock()
    for seen in _seen.values():
        seen.close()
    _seen.clear()


def is_service_gone(service: str) -> bool:
    """Say whether nothing can be at a WANDB_SERVICE address any more.

    A line of others before the door, a lack of descriptors or rights, and a service that
    takes its time say nothing.
    """
    match = re.fullmatch(SERVICE, service)
    if not match:
        return False  # a form that we don't know: let wandb try
    unix, path, host, port = match.groups()
    try:
        if unix:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(_CONNECT_SECONDS)
                asking.connect(path)
        else:
            socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False
