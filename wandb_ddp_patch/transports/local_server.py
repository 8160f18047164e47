"""Makes workers' calls on runs of this process, for releases whose runs work in no other.

Each worker has a thread here, so that a call that takes long, or a stranger that says nothing,
holds up nobody else. Nothing is unpickled before multiprocessing's challenge is passed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import sys
import threading
import time
import uuid
from multiprocessing import util
from multiprocessing.connection import Listener, answer_challenge, deliver_challenge
from typing import Any, Dict, Optional, Set

from .. import _lifecycle
from ..runs import state
from ..runs.execute import execute, picklable_error
from ..runs.payload_format import Address
from .local import OVER, PICKLE_PROTOCOL, tree_token
from .remote.listeners import raise_fd_limit

# So many may be about to prove that they are no strangers, and so long may each be silent.
_UNAUTHENTICATED, _AUTHENTICATION_SECONDS = 256, 5
_BACKLOG, _KEY_BYTES = 1024, 64
# How long a run that ends waits for calls that are under way.
_CALLS_SECONDS = 30.0
# How long until there may be descriptors, or threads, again.
_RETRY_SECONDS = 0.05


class LocalServer:
    """Where workers of this process's tree connect.

    Attributes:
        address: Where they find it.

    Raises:
        OSError: There can be no local socket.
        RuntimeError: There can be no thread.
    """

    def __init__(self) -> None:
        self._connections: Set[Any] = set()
        self._unauthenticated = threading.BoundedSemaphore(_UNAUTHENTICATED)
        # The connections of each run that is open; and those on which a call is under way.
        self._runs: Dict[str, Set[Any]] = {}
        self._calling: Set[Any] = set()
        self._changed = threading.Condition()
        self._listener = listen()
        known: Any = self._listener.address
        self.address: Address = known.decode() if isinstance(known, bytes) else known
        try:
            threading.Thread(target=self._accept, name="wandb_ddp_patch", daemon=True).start()
        except BaseException:
            self._listener.close()
            raise

    def open(self, key: str) -> None:
        """Let workers use a run."""
        with self._changed:
            self._runs.setdefault(key, set())

    def end(self, key: str) -> None:
        """Tell workers that a run is over, once the calls that are under way are made."""
        with self._changed:
            workers = self._runs.pop(key, set())
            self._changed.wait_for(lambda: not workers & self._calling, _CALLS_SECONDS)
            for connection in workers - self._calling:
                with contextlib.suppress(OSError):  # it has gone
                    connection.send_bytes(OVER)

    def end_all(self) -> None:
        """Tell them that all are over."""
        for key in list(self._runs):
            self.end(key)

    def close(self) -> None:
        """Let go of all sockets, without a word: they are another process's."""
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # else the others stay open
                connection.close()

    # --- the thread that accepts ----------------------------------------------

    def _accept(self) -> None:
        while True:
            self._unauthenticated.acquire()
            try:
                connection: Any = self._listener.accept()
            except Exception:  # no descriptors are left, or who came has gone already
                self._unauthenticated.release()
                raise_fd_limit()
                time.sleep(_RETRY_SECONDS)
                continue
            self._connections.add(connection)
            while True:
                try:
                    threading.Thread(
                        target=self._serve, args=(connection,), name="wandb_ddp_patch", daemon=True
                    ).start()
                    break
                except RuntimeError:  # there are too many: the worker waits
                    time.sleep(_RETRY_SECONDS)

    # --- the thread of a worker -----------------------------------------------

    def _serve(self, connection: Any) -> None:
        try:
            with contextlib.suppress(Exception):  # it has gone, or is a stranger
                try:
                    key = _authenticated(connection)
                finally:
                    self._unauthenticated.release()
                self._make_calls(key, connection)
        finally:
            with self._changed:  # else end() may write to another one's descriptor
                # First: a fork that comes in between would close another one's.
                self._connections.discard(connection)
                for workers in self._runs.values():
                    workers.discard(connection)
                connection.close()

    def _make_calls(self, key: str, connection: Any) -> None:
        with self._changed:
            self._runs.get(key, set()).add(connection)
        while key in self._runs:
            call = connection.recv_bytes()
            with self._changed:
                if key not in self._runs:
                    break
                self._calling.add(connection)
            try:
                connection.send_bytes(_reply(key, call))
            finally:
                # Not before it is sent: this process may end once no call is under way.
                with self._changed:
                    self._calling.discard(connection)
                    self._changed.notify_all()
        connection.send_bytes(OVER)


def _authenticated(connection: Any) -> str:
    """Return the key of the run that a worker asks for, once it has proven that it is one."""
    opened = socket.socket(fileno=connection.fileno())
    try:
        opened.setblocking(True)  # socket.setdefaulttimeout() has made it another one
        if _is_of_another_user(opened):
            raise PermissionError
        _limit_reading(opened, _AUTHENTICATION_SECONDS)
        deliver_challenge(connection, tree_token())
        answer_challenge(connection, tree_token())
        key: bytes = connection.recv_bytes(_KEY_BYTES)
        _limit_reading(opened, 0)
        return key.decode()
    finally:
        opened.detach()


def _limit_reading(opened: socket.socket, seconds: int) -> None:
    """Limit how long a read may wait; 0 is for ever. The socket itself stays a blocking one."""
    is_windows = sys.platform == "win32"
    limit = struct.pack("L", 1000 * seconds) if is_windows else struct.pack("ll", seconds, 0)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


def _is_of_another_user(opened: socket.socket) -> bool:
    """Return True if who has connected is neither this user nor root, where that can be told."""
    if sys.platform != "linux" or opened.family != socket.AF_UNIX:
        return False
    size = struct.calcsize("3i")
    known = opened.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return struct.unpack("3i", known)[1] not in (os.geteuid(), 0)


def _reply(key: str, call: bytes) -> bytes:
    """Make a call on a run; return what it has returned or raised, for the worker."""
    try:
        name, args, kwargs = pickle.loads(call)
        run = state.lookup(key)
        if run is None or state.owner_state(run).finished:
            return OVER
        done, result = True, execute(run, name, args, kwargs)
    except BaseException as error:  # also SystemExit, of a module that it imports
        done, result = False, picklable_error(error)
    try:
        return pickle.dumps((done, result), PICKLE_PROTOCOL)
    except Exception:
        return pickle.dumps((done, None), PICKLE_PROTOCOL)  # nothing that a worker could use


def listen() -> Listener:
    """Listen where only processes of this machine connect."""
    name = uuid.uuid4().hex
    if sys.platform == "linux":
        # Without a file: workers may have another temporary folder, and cleaners remove it.
        return Listener(f"\0wandb_ddp_patch-{name}", "AF_UNIX", _BACKLOG)
    with contextlib.suppress(OSError, ValueError):
        # There is none on Windows; or the folder is missing or full, or its name too long.
        return Listener(os.path.join(util.get_temp_dir(), name), "AF_UNIX", _BACKLOG)
    return Listener(("127.0.0.1", 0), "AF_INET", _BACKLOG)


_server: Optional[LocalServer] = None
_starting = threading.RLock()


def listen_local(owned: state.OwnerState) -> Optional[Address]:
    """Let workers of this process's tree, and on this machine, connect to a run of its.

    Returns:
        The address for payloads; None where there can be no local socket.
    """
    global _server
    with _starting:
        try:
            _server = _server or LocalServer()
        except (OSError, RuntimeError):  # no descriptors, or threads, are left
            return None
        _server.open(owned.key)
        return _server.address


def end(owned: state.OwnerState) -> None:
    """End a run of this process for its workers."""
    if _server is not None:
        _server.end(owned.key)


def end_all() -> None:
    """End all runs of this process for workers: it ends."""
    if _server is not None:
        _server.end_all()


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of what belongs to the parent."""
    global _server, _starting
    _starting = threading.RLock()
    if _server is not None:
        _server.close()
        _server = None
