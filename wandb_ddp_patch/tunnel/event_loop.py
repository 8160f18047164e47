"""The thread that moves the bytes of all tunnels of a process, by an event loop of asyncio's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, List, Optional, Set

_loop: Optional[asyncio.AbstractEventLoop] = None
_starting = threading.Lock()
# Loops of the processes that this one was forked from: see after_fork_in_child().
_inherited: List[asyncio.AbstractEventLoop] = []
# Descriptors of sockets that belong to the loop.
_descriptors: Set[int] = set()


def get() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; start it, if it does not run."""
    global _loop
    with _starting:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            # A daemon: it must not keep the interpreter from ending, and still runs in its
            # exit hooks, where workers' last bytes are waited for.
            threading.Thread(
                target=_loop.run_forever, name="wandb_ddp_patch tunnel", daemon=True
            ).start()
        return _loop


_is_pausing = False


def pause(seconds: float) -> bool:
    """Let what comes next come together before it is read; for the loop's thread.

    Each time the thread wakes, the process's other threads wait for it.

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
    time.sleep(seconds)  # not asyncio's: all that the loop does is to wait


def keep_out_of_forks(socket: Any) -> int:
    """Have forks of this process let go of a socket; return its descriptor.

    Else the other end would not see that it is closed while a fork lives.
    """
    descriptor: int = socket.fileno()
    _descriptors.add(descriptor)
    return descriptor


def forget(descriptor: int) -> None:
    """Note that a socket is closed, and its descriptor may be another file's."""
    _descriptors.discard(descriptor)


def after_fork_in_child() -> None:
    """Let go of the parent's loop and sockets."""
    global _loop, _starting, _is_pausing
    _starting, _is_pausing = threading.Lock(), False
    if _loop is not None:
        # Kept: a loop that is collected takes its sockets off the kernel's list of what is
        # waited for, which is the parent's as well.
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
