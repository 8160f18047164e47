"""Makes the calls of workers, in the process that owns their run.

For releases whose runs work in one process only (up to 0.12). A worker sends a
call over a local socket and waits until it has been made: see relay.py. Both
sides know each other by the key that multiprocessing gives to all processes of one
tree, so nothing in a payload opens the socket.
https://docs.python.org/3/library/multiprocessing.html#authentication-keys
"""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import socket
import struct
import sys
import threading
import time
import uuid
from multiprocessing import AuthenticationError, connection, process
from typing import TYPE_CHECKING, Any, Counter, Iterator, Optional, Set

from ..errors import FINISHED, Unreachable
from . import link
from .making import make, portable

if TYPE_CHECKING:
    from .link import Address

# How long somebody may take to prove who they are: strangers must not stay.
_PROOF_SECONDS = 10
# How long a run that ends waits for calls under way; some ask the network.
_CALL_SECONDS = 30

# The calls under way, by run.
_under_way: Counter[str] = collections.Counter()
_changed = threading.Condition()


@contextlib.contextmanager
def _call(key: str) -> Iterator[None]:
    with _changed:
        _under_way[key] += 1
    try:
        yield
    finally:
        with _changed:
            _under_way[key] -= 1
            if not _under_way[key]:
                del _under_way[key]
            _changed.notify_all()


def _wait_for_calls(key: Optional[str] = None) -> None:
    with _changed:
        _changed.wait_for(
            lambda: not (key in _under_way if key else _under_way), timeout=_CALL_SECONDS
        )


class _Server:
    def __init__(self) -> None:
        self.ended = False
        self.connections: Set[Any] = set()
        self.authkey = bytes(process.current_process().authkey)
        self.listener = _listener()
        threading.Thread(target=self._accept, name="wandb_ddp_patch", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted = self.listener.accept()
            except Exception:  # one that has gone already; or too many at once
                time.sleep(0.01)
                continue
            self.connections.add(accepted)
            try:
                threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()
            except RuntimeError:  # there are too many: the worker will try again
                self._drop(accepted)
                time.sleep(0.01)

    def _serve(self, accepted: Any) -> None:
        # The worker has ended, only looks whether we live, or is a stranger.
        try:
            self._answer_all(accepted)
        finally:
            self._drop(accepted)

    def _answer_all(self, accepted: Any) -> None:
        with contextlib.suppress(EOFError, OSError, AuthenticationError):
            if _is_of_another_user(accepted):
                raise AuthenticationError
            # Not by the listener: who says nothing would keep the others waiting.
            _limit_reading(accepted, _PROOF_SECONDS)
            connection.deliver_challenge(accepted, self.authkey)
            connection.answer_challenge(accepted, self.authkey)
            _limit_reading(accepted, 0)
            while True:
                accepted.send_bytes(self._answer(accepted.recv_bytes()))

    def _drop(self, accepted: Any) -> None:
        self.connections.discard(accepted)
        with contextlib.suppress(OSError):
            accepted.close()

    def _answer(self, request: bytes) -> bytes:
        try:
            key, name, args, kwargs = pickle.loads(request)
            with _call(key):
                run = None if self.ended else link.find(key)
                if run is None or link.own(run).over:
                    raise Unreachable(FINISHED)
                result = make(run, name, args, kwargs)
        except BaseException as error:  # also SystemExit, of a module that it imports
            return pickle.dumps((False, portable(error)))
        try:
            return pickle.dumps((True, result))
        except Exception:
            return pickle.dumps((True, None))  # nothing that a worker could use

    def close(self) -> None:
        for opened in [self.listener, *self.connections]:
            with contextlib.suppress(OSError):
                opened.close()


def _listener() -> connection.Listener:
    if sys.platform == "linux":
        # Without a file: workers may have another temporary folder, and cleaners remove it.
        name = f"\0wandb_ddp_patch-{uuid.uuid4().hex}"
        return connection.Listener(name, "AF_UNIX", backlog=128)
    try:
        return connection.Listener(backlog=128)
    except OSError:  # the folder is missing or full, or its name too long for a socket's
        return connection.Listener(("127.0.0.1", 0), backlog=128)


def _is_of_another_user(accepted: Any) -> bool:
    if sys.platform != "linux":
        return False  # the socket's folder keeps them out; or the challenge does
    with socket.socket(fileno=os.dup(accepted.fileno())) as same:
        known = same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", known)[1] not in (os.geteuid(), 0)


def _limit_reading(accepted: Any, seconds: int) -> None:
    if hasattr(socket, "SO_RCVTIMEO") and os.name != "nt":
        with socket.socket(fileno=os.dup(accepted.fileno())) as same:
            limit = struct.pack("ll", seconds, 0)
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


_server: Optional[_Server] = None
_starting = threading.RLock()


def address() -> Optional[Address]:
    """Say where workers can call the runs of this process; start to listen there.

    Returns:
        None where there can be no local socket.
    """
    global _server
    with _starting:
        if _server is None:
            try:
                _server = _Server()
            except OSError:
                return None
        known = _server.listener.address
        return known.decode() if isinstance(known, bytes) else known


def end(run: Any) -> None:
    """Refuse all further calls on a run, after those under way."""
    owned = link.own(run)
    owned.over = True
    _wait_for_calls(owned.key)


def end_all() -> None:
    """Refuse all further calls: this process ends."""
    if _server is not None:
        _server.ended = True
        _wait_for_calls()


def after_fork_in_child() -> None:
    """Let go of what belongs to the parent: else it would seem to live when it does not."""
    global _server, _starting, _changed
    _starting = threading.RLock()
    _changed = threading.Condition()
    _under_way.clear()
    if _server is not None:
        _server.close()
        _server = None
