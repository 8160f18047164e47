"""Whether W&B's service has read what workers have sent it, as the kernel tells on Linux.

A worker that has logged may have been killed, and its rows wait in its socket: those that the
service has not read when the owner finishes the run are dropped. No worker can be asked, because
none listens; but the kernel knows how much each socket of the service's holds. For Unix sockets
(of newer releases of wandb) only sock_diag tells it, for TCP a file in /proc does.
https://man7.org/linux/man-pages/man7/sock_diag.7.html
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from typing import Iterator, Tuple

from ..runs.liveness import service_address

# How long to wait in all, and for a service that reads nothing: its disk may be full.
_WAIT_SECONDS, _STUCK_SECONDS = 30, 5
_PAUSE_SECONDS = 0.005
# The service still has to add to the run what it has read last: up to 280 rows of 80 bytes from
# each connection, which is what a Unix socket holds, and one read takes. Without this, up to 173
# rows of 64 workers came behind the owner's finish() in the run's file; with it none, in 10 runs.
_READ_SECONDS = 0.03

# nlmsghdr, nlattr; unix_diag_req, unix_diag_msg.
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_REQUEST, _SOCKET = struct.Struct("=BBHIIIII"), struct.Struct("=BBBBIII")

# The kernel's names: of linux/netlink.h, sock_diag.h, unix_diag.h and net/tcp_states.h.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_UDIAG_SHOW_NAME, _UDIAG_SHOW_RQLEN = 0x01, 0x10
_UNIX_DIAG_NAME, _UNIX_DIAG_RQLEN = 0, 4
_TCP_ESTABLISHED, _TCP_LISTEN = 1, 10


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
    deadline, stuck = now + _WAIT_SECONDS, now + _STUCK_SECONDS
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
    address = service_address(service)
    if address is None:
        raise ValueError(service)
    if isinstance(address, str):
        return _unread_of_unix(address.encode())
    return _unread_of_tcp(address[1])


def _unread_of_tcp(port: int) -> Iterator[Tuple[object, int]]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/net/{name}") as file:
            next(file)
            for line in file:
                _, local, remote, state, queues = line.split()[:5]
                ports = [int(each.rpartition(":")[2], 16) for each in (local, remote)]
                # What the service has not read, and what its workers could not send yet.
                unsent, unread = (int(each, 16) for each in queues.split(":"))
                if port in ports and int(state, 16) != _TCP_LISTEN:
                    size = unread if ports[0] == port else unsent
                    # A worker's end of the connection counts as one byte more.
                    yield (local, remote), size - (size > 0 and int(state, 16) != _TCP_ESTABLISHED)


def _unread_of_unix(path: bytes) -> Iterator[Tuple[object, int]]:
    states, shown = 1 << _TCP_ESTABLISHED, _UDIAG_SHOW_NAME | _UDIAG_SHOW_RQLEN
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, states, 0, shown, 0, 0)
    length, flags = _HEADER.size + len(request), _NLM_F_REQUEST | _NLM_F_DUMP
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(1)
        asking.send(_HEADER.pack(length, _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request)
        while True:
            data = asking.recv(1 << 18)
            at = 0
            while at < len(data):
                length, kind = _HEADER.unpack_from(data, at)[:2]
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel does not tell of Unix sockets")
                if kind == _NLMSG_DONE:
                    return
                inode = _SOCKET.unpack_from(data, at + _HEADER.size)[4]
                parts = dict(_attributes(data, at + _HEADER.size + _SOCKET.size, at + length))
                name, queue = (parts.get(kind, b"") for kind in (_UNIX_DIAG_NAME, _UNIX_DIAG_RQLEN))
                if name.rstrip(b"\0") == path and len(queue) == 8:
                    yield inode, struct.unpack_from("=I", queue)[0]
                at += length + 3 & ~3


def _attributes(data: bytes, at: int, end: int) -> Iterator[Tuple[int, bytes]]:
    while at + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += max(length, _ATTRIBUTE.size) + 3 & ~3
