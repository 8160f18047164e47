"""Whether W&B's service has read what workers have sent it, as the kernel tells on Linux.

A worker that has logged may have been killed, and its rows wait in its socket: those that the
service has not read when the owner finishes the run are dropped. No worker can be asked, because
none listens; but the kernel knows how much each socket of the service's holds. For Unix sockets
(of newer releases of wandb) only sock_diag tells it, for TCP a file in /proc does.
https://man7.org/linux/man-pages/man7/sock_diag.7.html
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import sys
import time
from typing import Iterator, Tuple

# WANDB_SERVICE: version, process id, transport, address.
_UNIX, _TCP = r"\d+-\d+-unix-(.+)", r"\d+-\d+-\w+-.+-(\d+)"

# How long to wait in all, and for a service that reads nothing: its disk may be full.
_SECONDS, _STUCK_SECONDS = 30, 5
_PAUSE_SECONDS = 0.005
# The service still has to add to the run what it has read last: some 50 rows.
_READ_SECONDS = 0.03

_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST, _SOCKET = struct.Struct("=BBHIIIII"), struct.Struct("=BBBBIII")
_ESTABLISHED, _LISTENING = 1, 10  # states of a connection
_DONE, _ERROR = 3, 2  # kinds of an answer


def wait_until_read(service: str) -> bool:
    """Wait until the service has read all that has been sent to it by now.

    Args:
        service: A value of WANDB_SERVICE.

    Returns:
        False where it can't be told, or where the service reads no more.
    """
    if sys.platform != "linux":
        return False
    now = time.monotonic()
    deadline, stuck = now + _SECONDS, now + _STUCK_SECONDS
    try:
        seen = dict(_unread(service))
        if not seen:  # not even the owner's own: it can't be seen from here
            return False
        before = {socket: size for socket, size in seen.items() if size}
        while before and time.monotonic() < min(deadline, stuck):
            time.sleep(_PAUSE_SECONDS)
            sizes = dict(_unread(service))
            # One that was empty for a moment counts as read: its worker may log on.
            after = {socket: sizes.get(socket, 0) for socket in before if sizes.get(socket)}
            if after != before:
                stuck = time.monotonic() + _STUCK_SECONDS
            before = after
    except (OSError, struct.error, ValueError):
        return False
    time.sleep(_READ_SECONDS)
    return not before


def _unread(service: str) -> Iterator[Tuple[object, int]]:
    """Yield each connection, and how many bytes of it the service has not read."""
    unix, tcp = re.fullmatch(_UNIX, service), re.fullmatch(_TCP, service)
    if unix:
        return _unread_of_unix(unix[1].encode())
    if tcp:
        return _unread_of_tcp(int(tcp[1]))
    raise ValueError(service)


def _unread_of_tcp(port: int) -> Iterator[Tuple[object, int]]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}") as file:
            next(file)
            for line in file:
                _, local, remote, state, queues = line.split()[:5]
                ports = [int(each.rpartition(":")[2], 16) for each in (local, remote)]
                # What the service has not read, and what its workers could not send yet.
                unsent, unread = (int(each, 16) for each in queues.split(":"))
                if port in ports and int(state, 16) != _LISTENING:
                    size = unread if ports[0] == port else unsent
                    # A worker's end of the connection counts as one byte more.
                    yield (local, remote), size - (size > 0 and int(state, 16) != _ESTABLISHED)


def _unread_of_unix(path: bytes) -> Iterator[Tuple[object, int]]:
    names, queues = 0x01, 0x10  # of what is asked for; 0 and 4 where they are answered
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 1 << _ESTABLISHED, 0, names | queues, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as asking:
        asking.settimeout(1)
        asking.send(_HEADER.pack(_HEADER.size + len(request), 20, 0x301, 1, 0) + request)
        while True:
            data = asking.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind = _HEADER.unpack_from(data, at)[:2]
                if kind == _ERROR:
                    raise OSError("the kernel does not tell of Unix sockets")
                if kind == _DONE:
                    return
                inode = _SOCKET.unpack_from(data, at + _HEADER.size)[4]
                parts = dict(_attributes(data, at + _HEADER.size + _SOCKET.size, at + length))
                if parts.get(0, b"").rstrip(b"\0") == path and len(parts.get(4, b"")) == 8:
                    yield inode, struct.unpack_from("=I", parts[4])[0]
                at += length + 3 & ~3


def _attributes(data: bytes, at: int, end: int) -> Iterator[Tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
