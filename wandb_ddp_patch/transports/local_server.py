"""Executes workers' calls on runs of this process, for releases whose runs work in no other.

Each worker has a thread here, so that a call that takes long, or a stranger that says nothing,
delays nobody else. Nothing is unpickled before multiprocessing's challenge is passed.

multiprocessing.managers does much the same, but its server has no limit for those who have not
proven anything yet, its proxies wait for ever for an owner that is stopped or gone, and nothing
tells them that a run is finished.
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
from typing import TYPE_CHECKING, Dict, Optional, Set

from .. import _lifecycle
from .._process import raise_fd_limit
from ..runs import state
from ..runs.execute import execute, picklable_error
from ..runs.payload_format import Address
from .local import FINISHED_REPLY, PICKLE_PROTOCOL, tree_token

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

# So many may be about to prove that they are no strangers, and so long may each be silent:
# else anybody of this user could take all threads and descriptors of the owner.
_UNAUTHENTICATED, _AUTHENTICATION_SECONDS = 256, 5
_BACKLOG, _KEY_BYTES = 1024, 64
# How long a run that ends waits for calls that are under way.
_CALLS_SECONDS = 30.0
# How long until there may be descriptors, or threads, again.
_RETRY_SECONDS = 0.05


class LocalServer:
    """Accepts the workers of this process's tree.

    Attributes:
        address: Where they find it.

    Raises:
        OSError: There can be no local socket.
        RuntimeError: There can be no thread.
    """

    def __init__(self) -> None:
        self._connections: Set[Connection] = set()
        self._unauthenticated = threading.BoundedSemaphore(_UNAUTHENTICATED)
        # The connections of each run that is open; and those on which a call is under way.
        self._runs: Dict[str, Set[Connection]] = {}
        self._calling: Set[Connection] = set()
        self._changed = threading.Condition()
        self._listener = listen()
        address = self._listener.address
        self.address: Address = address.decode() if isinstance(address, bytes) else address
        try:
            threading.Thread(target=self._accept, name="wandb_ddp_patch", daemon=True).start()
        except BaseException:
            self._listener.close()
            raise

    def open(self, key: str) -> None:
        """Let workers call a run."""
        with self._changed:
            self._runs.setdefault(key, set())

    def close_run(self, key: str) -> None:
        """Tell workers that a run is finished, once the calls that are under way have returned."""
        with self._changed:
            workers = self._runs.pop(key, set())
            self._changed.wait_for(lambda: not workers & self._calling, _CALLS_SECONDS)
            for connection in workers - self._calling:
                with contextlib.suppress(OSError):  # it has gone
                    connection.send_bytes(FINISHED_REPLY)

    def close_all(self) -> None:
        """Tell them that all are finished."""
        for key in list(self._runs):
            self.close_run(key)

    def close(self) -> None:
        """Close all sockets, without a word: they are the parent process's."""
        self._listener.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # else the others stay open
                connection.close()

    # --- the thread that accepts ----------------------------------------------

    def _accept(self) -> None:
        while True:
            self._unauthenticated.acquire()
            try:
                connection: Connection = self._listener.accept()
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

    def _serve(self, connection: Connection) -> None:
        try:
            with contextlib.suppress(Exception):  # it has gone, or is a stranger
                try:
                    key = _authenticated(connection)
                finally:
                    self._unauthenticated.release()
                self._execute_calls(key, connection)
        finally:
            # Under the lock: else close_run() may write to a descriptor that is another file's.
            with self._changed:
                # Before it is closed: a fork in between would close that other file.
                self._connections.discard(connection)
                for workers in self._runs.values():
                    workers.discard(connection)
                connection.close()

    def _execute_calls(self, key: str, connection: Connection) -> None:
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
                # Not before the reply is sent: this process may end once no call is under way,
                # and the worker would take a row for lost that is in the run.
                with self._changed:
                    self._calling.discard(connection)
                    self._changed.notify_all()
        connection.send_bytes(FINISHED_REPLY)


def _authenticated(connection: Connection) -> str:
    """Return the key of the run that a worker asks for, once it has proven that it is one."""
    opened = socket.socket(fileno=connection.fileno())
    try:
        # A program may have called socket.setdefaulttimeout(); multiprocessing reads by the
        # descriptor, which then is a non-blocking one.
        opened.setblocking(True)
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
    """Execute a call on a run; return what it has returned or raised, as bytes for the worker."""
    try:
        name, args, kwargs = pickle.loads(call)
        run = state.lookup(key)
        if run is None or state.ensure_owner_state(run).finished:
            return FINISHED_REPLY
        done, result = True, execute(run, name, args, kwargs)
    except BaseException as error:  # also SystemExit, of a module that it imports
        done, result = False, picklable_error(error)
    try:
        return pickle.dumps((done, result), PICKLE_PROTOCOL)
    except Exception:
        return pickle.dumps((done, None), PICKLE_PROTOCOL)  # nothing that a worker could use


def listen() -> Listener:
    """Listen where only processes of this machine can connect."""
    name = uuid.uuid4().hex
    if sys.platform == "linux":
        # Without a file: workers may have another temporary folder, and cleaners remove it.
        return Listener(f"\0wandb_ddp_patch-{name}", "AF_UNIX", _BACKLOG)
    with contextlib.suppress(OSError, ValueError):
        # Windows has none; or the folder is missing or full, or its name too long.
        return Listener(os.path.join(util.get_temp_dir(), name), "AF_UNIX", _BACKLOG)
    return Listener(("127.0.0.1", 0), "AF_INET", _BACKLOG)


_server: Optional[LocalServer] = None
_starting = threading.RLock()


def listen_local(owned: state.OwnerState) -> Optional[Address]:
    """Let workers of this process's tree, on this machine, connect to a run of this process.

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


def close_run(owned: state.OwnerState) -> None:
    """Close a run of this process to its workers."""
    if _server is not None:
        _server.close_run(owned.key)


def close_all() -> None:
    """Close all runs of this process to workers: it ends."""
    if _server is not None:
        _server.close_all()


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of what belongs to the parent."""
    global _server, _starting
    _starting = threading.RLock()
    if _server is not None:
        _server.close()
        _server = None
