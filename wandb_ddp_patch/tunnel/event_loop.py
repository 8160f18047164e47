"""The thread that moves the bytes of all tunnels of a process, by an event loop of asyncio's."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from typing import List, Optional, Set, cast

_loop: Optional[asyncio.AbstractEventLoop] = None
_starting = threading.Lock()
# Loops of the processes that this one was forked from: see drop_inherited_loop().
_inherited: List[asyncio.AbstractEventLoop] = []
# Descriptors of sockets that belong to the loop.
_descriptors: Set[int] = set()
_is_pausing = False


def get() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; start it, if it does not run.

    Raises:
        RuntimeError: No thread can be started: there are too many, or this process ends.
    """
    global _loop
    with _starting:
        if _loop is None:
            loop = asyncio.new_event_loop()
            try:
                # A daemon: it must not keep the interpreter from ending, and still runs in its
                # exit hooks, where workers' last bytes are waited for.
                threading.Thread(
                    target=loop.run_forever, name="wandb_ddp_patch tunnel", daemon=True
                ).start()
            except RuntimeError:
                loop.close()
                raise
            _loop = loop  # not before it runs: later calls would wait for it for ever
        return _loop


def pause(seconds: float) -> bool:
    """Let bytes accumulate for a while before they are read; for the loop's thread.

    Each time the thread wakes, it takes the GIL, and the process's other threads, a training
    step among them, wait for it: once for 50 rows costs much less than 50 times for one.

    Args:
        seconds: How long.

    Returns:
        False if it is about to pause already.
    """
    global _is_pausing
    if _is_pausing:
        return False
    _is_pausing = True
    get().call_soon(_pause, seconds)
    return True


def _pause(seconds: float) -> None:
    global _is_pausing
    _is_pausing = False
    # Not asyncio.sleep(): then the loop would go on to wake up for each socket, which is what
    # this avoids.
    time.sleep(seconds)


def keep_out_of_forks(opened: socket.socket) -> int:
    """Have forks of this process let go of a socket; return its descriptor.

    Else the other end would not see that it is closed while a fork lives.
    """
    descriptor = opened.fileno()
    _descriptors.add(descriptor)
    return descriptor


def forget(descriptor: int) -> None:
    """Note that a socket is closed, and its descriptor may be another file's."""
    _descriptors.discard(descriptor)


class SocketProtocol(asyncio.Protocol):
    """A connection of the loop's, whose socket forks of this process let go of.

    Attributes:
        transport: The socket, as asyncio has it; None before it is connected.
    """

    def __init__(self) -> None:
        self.transport: Optional[asyncio.Transport] = None
        self._descriptor = -1

    @property
    def is_open(self) -> bool:
        """Whether bytes can be sent."""
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._descriptor = keep_out_of_forks(transport.get_extra_info("socket"))

    def connection_lost(self, error: Optional[Exception]) -> None:
        forget(self._descriptor)


def drop_inherited_loop() -> None:
    """Let go of the parent's loop and sockets, in a fork.

    Called by those who have sockets there: this package knows nothing of the order of such calls.
    """
    global _loop, _starting, _is_pausing
    _starting, _is_pausing = threading.Lock(), False
    if _loop is not None:
        # Kept: a loop that is collected removes its sockets from the epoll list, which the
        # kernel shares between both processes, and the parent would hear nothing any more.
        _inherited.append(_loop)
        _loop = None
    if _descriptors:
        # Not closed: the numbers would be given to other files, which asyncio's objects would
        # close when they are collected.
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in _descriptors:
            os.dup2(null, descriptor, inheritable=False)
        os.close(null)
        _descriptors.clear()
