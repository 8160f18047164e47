"""Sockets at which an owner listens for other machines."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import List

from .addresses import Place


def bind_tcp(at: List[Place], port: int) -> List[socket.socket]:
    """Bind sockets to addresses of this machine, all at the same port.

    Raises:
        OSError: It can't be had: another process has it, or may.
    """
    for left in reversed(range(10)):
        opened: List[socket.socket] = []
        try:
            for place in at:
                opened.append(_bound(place, opened[0].getsockname()[1] if opened else port))
            return opened
        except OSError as error:
            for door in opened:
                door.close()
            # The port that was free for the first one need not be so for the next one.
            if not (left and opened and port == 0 and error.errno == errno.EADDRINUSE):
                raise
    return opened


def _bound(place: Place, port: int) -> socket.socket:
    family, address = place
    door = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # "::" stands for both families
            with contextlib.suppress(OSError):
                door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        door.bind((address[0], port, *address[2:]))
    except OSError as error:
        door.close()
        raise OSError(error.errno, f"{address[0]}, port {port}: {error.strerror}") from None
    return door


def raise_fd_limit() -> None:
    """Let this process have as many descriptors as the system lets it: one a worker."""
    with contextlib.suppress(Exception):  # there is none on Windows, and no such limit
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(now, min(most, 1 << 16)), most))
