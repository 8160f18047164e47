"""A transport to an owner on this machine, for releases whose runs work in one process: to 0.12.

The owner executes each call and then answers: see local_server.py. So nothing is under way when
a worker ends, or tells anybody anything.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import pickle
import sys
import threading
import time
from multiprocessing import AuthenticationError, process
from multiprocessing.connection import Client, answer_challenge, deliver_challenge
from typing import Any, Callable, ContextManager, Dict, Optional, Tuple

from .. import _lifecycle
from .._process import has_exited, process_fingerprint
from ..errors import FINISHED, NotSerializableError, RunUnreachableError
from ..runs.globals import set_global_run
from ..runs.payload_format import Payload
from ..runs.state import usage_error
from ..runs.transport import Transport

# What a worker may call, besides what the run calls itself. The rest would have to return the
# run's internals, or a folder of the owner's.
CALLS = ("log", "define_metric", "_define_metric", "save", "alert", "mark_preempting")
_OWN_CALL_NAMES = """
    __getattribute__ __setattr__ _config_callback _config_artifact_callback _history_callback
    _partial_history_callback _log _metric_callback _summary_get_current_summary_callback
    _summary_update_callback _tensorboard_callback pin_config_keys
"""
_OWN_CALLS = frozenset(_OWN_CALL_NAMES.split())
_WORKS = ", ".join(name for name in CALLS if name[0] != "_")

# Every Python that this package runs on has it; the owner's may be older than ours.
PICKLE_PROTOCOL = 5
# What an owner sends, unasked or instead of a reply, where the run is finished.
FINISHED_REPLY = b""

# How long an owner may be silent where it can't be told whether its process lives. Where that
# can be told, it is waited for as long as it lives: it may be stopped, or in a long call.
_TIMEOUT_SECONDS = 300.0
# How long an owner that lives may refuse to speak with us before it counts as not ours.
_REFUSED_SECONDS = 3.0
# How long a process may take from the end of its sockets to its own.
_END_SECONDS = 1
_STRANGE = "this process was not started with multiprocessing by the one that called wandb.init()"


class LocalTransport(Transport):
    """Calls on a run that its owner, another process of this machine, executes.

    Args:
        payload: What the run came with.
    """

    def __init__(self, payload: Payload) -> None:
        self.payload = payload

    def connecting(self) -> ContextManager[Any]:
        return _connecting

    def connect(self, run: Any) -> None:
        _connection(self.payload)
        set_global_run(run)

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Have the owner execute a call.

        Returns:
            What the call returned, or None where that can't be sent.

        Raises:
            RunUnreachableError: The owner has finished the run, has ended or does not answer.
            TypeError: The arguments can't be pickled.
            wandb.errors.UsageError: It is one that only the owner itself can make.
            Exception: What the call itself raised.
        """
        if name not in CALLS and name not in _OWN_CALLS:
            raise _one_process_only(f"run.{name}()")
        # The owner may have another current folder.
        if name == "save":
            args, kwargs = _absolute(*args, **kwargs)
        elif name == "_tensorboard_callback":
            args = (os.path.abspath(args[0]), *args[1:])
        try:
            body = pickle.dumps((name, args, kwargs), PICKLE_PROTOCOL)
        except Exception as error:
            raise TypeError(
                f"The arguments of run.{name}() can't be sent from this worker to the process"
                f" that called wandb.init(), because they can't be pickled: {error}"
            ) from error
        done, result = self._request(body)
        if done:
            return result
        if isinstance(result, NotSerializableError):
            raise _one_process_only(f"run.{args[0]}")
        raise result

    def _request(self, body: bytes) -> Tuple[bool, Any]:
        while True:
            connection = _connection(self.payload)
            with connection.lock:
                if connection.busy:
                    # By this thread, for the lock is reentrant: a signal's handler has interrupted
                    # its call, whose answer would come for this one. So this one gets a
                    # connection of its own.
                    break
                if not connection.closed:  # as it is where another thread's call has failed
                    return connection.request(body)
        connection = OwnerConnection(self.payload)
        try:
            return connection.request(body)
        finally:
            connection.close()

    def resume(self, run: Any) -> bool:
        return True  # the connection has stayed


def _one_process_only(what: str) -> Exception:
    version = sys.modules["wandb"].__version__
    return usage_error(
        f"{what} does not work in a worker with wandb {version}: use it in the process that"
        f" called wandb.init(). What works in a worker: {_WORKS}, finish, config and summary."
    )


def _absolute(
    glob_str: Any = None, base_path: Any = None, *args: Any, **kwargs: Any
) -> Tuple[Any, Dict[str, Any]]:
    if isinstance(glob_str, (str, bytes)) and not os.path.isabs(glob_str):
        glob_str = os.path.abspath(glob_str)
        base_path = os.path.abspath(base_path or os.curdir)
    return (glob_str, base_path, *args), kwargs


class OwnerConnection:
    """A connection to the owner of a run, for one call at a time, which is waited for.

    Attributes:
        lock: Held during a call.
        busy: Whether a call is under way.
        closed: Whether it is of no more use.

    Raises:
        RunUnreachableError: The owner is gone, or this is no worker of its process tree.
    """

    def __init__(self, payload: Payload) -> None:
        address = payload["local_address"]
        assert address is not None  # see selection.py
        self._address, self._pid = address, payload["owner_pid"]
        self._owner = payload["owner_fingerprint"]  # None where no system tells it
        self.lock = threading.RLock()
        self.busy = self.closed = False
        self._connection = self._connect(payload["key"].encode())

    def _connect(self, key: bytes) -> Any:
        deadline, refused = time.monotonic() + _TIMEOUT_SECONDS, 0.0
        while True:
            begun = time.monotonic()
            try:
                return self._authenticated(key)
            except (AuthenticationError, AssertionError):
                raise RunUnreachableError(_STRANGE) from None
            except (ConnectionRefusedError, FileNotFoundError):
                raise RunUnreachableError(self._why_gone()) from None
            except (EOFError, ConnectionError):  # it has no descriptors, or takes us for a stranger
                refused = refused or time.monotonic()
            except OSError:  # we have no descriptors
                refused = 0.0
            now = time.monotonic()
            if now > begun + _REFUSED_SECONDS:
                # A refusal comes at once: this process was stopped, or too slow, to answer in time.
                refused = 0.0
            late = self._owner is None and begun > deadline
            if late or (refused and now > refused + _REFUSED_SECONDS) or has_exited(self._owner):
                raise RunUnreachableError(self._why_refused() if refused else self._why_gone())
            time.sleep(0.1)

    def _authenticated(self, key: bytes) -> Any:
        connection = Client(self._address)
        try:
            # Here, and not by Client: an owner that is stopped says nothing, and is waited for.
            self._await(connection)
            answer_challenge(connection, tree_token())
            deliver_challenge(connection, tree_token())
            connection.send_bytes(key)
            return connection
        except BaseException:
            connection.close()
            raise

    def _await(self, connection: Any) -> None:
        """Wait until something has come; raises EOFError where nothing will."""
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not connection.poll(1):
            # Another process may have inherited its sockets, and hold them open.
            late = self._owner is None and time.monotonic() > deadline
            if late or has_exited(self._owner):
                raise EOFError

    def request(self, body: bytes) -> Tuple[bool, Any]:
        """Have a call executed; return whether it has returned, and what it has returned or raised.

        Raises:
            RunUnreachableError: The owner has finished the run, has ended, or does not answer.
        """
        try:
            self.busy = True
            # If the owner has closed the connection, its reply, FINISHED_REPLY, may still be there.
            with contextlib.suppress(ConnectionError):
                self._connection.send_bytes(body)
            self._await(self._connection)
            reply = self._connection.recv_bytes()
            self.busy = False
        except (EOFError, OSError):
            self.close()
            raise RunUnreachableError(self._why_gone()) from None
        except BaseException:
            # KeyboardInterrupt, say: an answer that comes late must not be read by the next call.
            self.close()
            raise
        if reply == FINISHED_REPLY:
            self.close()
            raise RunUnreachableError(FINISHED)
        try:
            done, result = pickle.loads(reply)
        except Exception as error:
            done, result = False, RuntimeError(f"the owner's answer can't be read here: {error}")
        return done, result

    def is_over(self) -> bool:
        """Return True if the owner has said that the run is finished, or has gone."""
        if self.busy or not self.lock.acquire(blocking=False):
            return False  # it is being used
        try:
            # Nothing else comes unasked.
            if not self.closed and self._connection.poll(0):
                self.close()
        except (EOFError, OSError):
            self.close()
        finally:
            self.lock.release()
        return self.closed

    def close(self) -> None:
        self.closed, self.busy = True, False
        with contextlib.suppress(OSError):
            self._connection.close()

    def _why_refused(self) -> str:
        # local_server.py refuses other users, without a word. Only Linux tells it who we are.
        with contextlib.suppress(OSError, AttributeError):
            if os.geteuid() not in (os.stat(f"/proc/{self._pid}").st_uid, 0):
                return "this process and the one that called wandb.init() belong to different users"
        return FINISHED

    def _why_gone(self) -> str:
        """Return why nobody answers at the owner's address, as far as it can be told."""
        here, deadline = process_fingerprint(), time.monotonic() + _END_SECONDS
        if self._owner is None or here is None:
            return FINISHED
        while not has_exited(self._owner):  # its sockets are closed a little before
            if time.monotonic() > deadline:
                return (
                    "the process that called wandb.init() does not answer: it has ended, or this"
                    " process is in another container or network namespace"
                )
            time.sleep(0.01)
        return FINISHED


# --- this process's connections -------------------------------------------------

# By the run's key.
_connections: Dict[str, OwnerConnection] = {}
_connecting = threading.RLock()


def _connection(payload: Payload) -> OwnerConnection:
    """Return this process's connection to the owner of a run; connect, if there is none."""
    key = payload["key"]
    connection = _connections.get(key)
    if connection is None or connection.closed:
        with _connecting:
            connection = _connections.get(key)
            if connection is None or connection.closed:
                # A pool's worker may have had thousands of runs.
                for known, other in list(_connections.items()):
                    if other.is_over():
                        _connections.pop(known, None)
                connection = _connections[key] = OwnerConnection(payload)
    return connection


# --- what both ends prove that they hold ----------------------------------------

# The parent's key, in a fork: billiard replaces the current process there by one with another.
_inherited: Optional[bytes] = None


def tree_token() -> bytes:
    """Return the key by which workers of this process's tree are recognised: no payload holds it.

    multiprocessing gives one key to all processes of a tree.
    https://docs.python.org/3/library/multiprocessing.html#authentication-keys
    """
    current: Any = process.current_process()
    is_pythons = isinstance(current, process.BaseProcess)
    authkey = current.authkey if is_pythons else _inherited or current.authkey
    return hmac.digest(authkey, b"wandb_ddp_patch token", "sha256")


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of the parent's connections; keep its key before anything else is run here."""
    global _connecting, _inherited
    _inherited = _inherited or bytes(process.current_process().authkey)
    _connecting = threading.RLock()
    for connection in _connections.values():
        connection.close()
    _connections.clear()
