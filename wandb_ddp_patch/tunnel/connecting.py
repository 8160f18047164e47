"""Connects sockets within the event loop, whose own functions need a thread to look up a name."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from typing import Any, List, Optional, Tuple, Union

from . import event_loop

Address = Tuple[str, int]


async def connect(
    family: int, kind: int, number: int, address: Union[str, Tuple[Any, ...]]
) -> socket.socket:
    """Return a socket that is connected to an address.

    Args:
        family: As the rest, what a socket is made of and connected to: see socket.getaddrinfo().

    Raises:
        OSError: It can't be connected.
    """
    connecting = socket.socket(family, kind, number)
    try:
        connecting.setblocking(False)
        await event_loop.get().sock_connect(connecting, address)
        # Raises ENOTCONN where as many wait at a Unix socket to be accepted as may: asyncio takes
        # the kernel's EAGAIN for a connection under way, and then for one that is there.
        connecting.getpeername()
    except BaseException:
        connecting.close()
        raise
    return connecting


async def connect_to_host(address: Address, limit: float) -> socket.socket:
    """Connect to the first of a host's addresses where somebody listens.

    Args:
        address: Host and port.
        limit: Seconds for each of these addresses.

    Raises:
        ConnectionRefusedError: Nobody listens at any of them.
        OSError: One can't be reached. Python's own words for several of them would not tell
            that from a refusal.
        asyncio.TimeoutError: One does not answer.
    """
    why: Optional[Exception] = None
    refused = ConnectionRefusedError()
    for family, kind, number, _, found in await asyncio.wait_for(_look_up(address), limit):
        try:
            return await asyncio.wait_for(connect(family, kind, number, found), limit)
        except ConnectionRefusedError as error:
            refused = error
        except (OSError, asyncio.TimeoutError) as error:
            why = error
    raise why or refused


async def _look_up(address: Address) -> List[Any]:
    """Return what sockets need to connect to each address of a host."""
    look_up = functools.partial(socket.getaddrinfo, *address, type=socket.SOCK_STREAM)
    with contextlib.suppress(socket.gaierror):
        return look_up(flags=socket.AI_NUMERICHOST)  # which asks nobody, and needs no thread
    try:
        return await event_loop.get().run_in_executor(None, look_up)
    except RuntimeError:
        # No thread can be started any more, as in exit hooks, where the last rows are sent. To
        # hold up this thread is better than to lose them.
        return look_up()
