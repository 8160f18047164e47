"""Calls that a worker makes on a run, made in the process that owns it.

For releases whose runs work in one process only (up to 0.12). The worker sends
a call over a local socket and waits until the owner has made it, so the order
within a worker is kept and nothing is under way when it ends. Both sides know
each other by the key that multiprocessing gives to all processes of one tree,
so nothing in a payload opens the socket.
https://docs.python.org/3/library/multiprocessing.html#authentication-keys
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from multiprocessing import AuthenticationError, process
from typing import Any, Callable, Dict, Optional, Set

from .service import FINISHED, Unreachable

# What a worker may call. The rest would have to give it the run's inside.
CALLS = ("log", "define_metric", "_define_metric", "save", "alert")
# An owner that is alive answers a new connection; one that is stopped does not.
_PATIENCE_SECONDS = 30
# For the call itself: images and tables take their time.
_CALL_SECONDS = 300

# Held while the owner makes a call, for itself or for a worker.
one_at_a_time = threading.RLock()


def _connection() -> Any:
    # Not with this module: importing wandb must stay quick where nothing is relayed.
    from multiprocessing import connection

    return connection


# --- in the process that owns runs ------------------------------------------


class NotPlain(Exception):
    """What was asked for is an object that belongs to the owner."""


class _Server:
    def __init__(self, find: Callable[[str], Any]) -> None:
        self.find = find
        self.connections: Set[Any] = set()
        self.authkey = bytes(process.current_process().authkey)
        self.listener = _connection().Listener(backlog=128)
        threading.Thread(target=self._accept, name="wandb_ddp_patch", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection = self.listener.accept()
            except Exception:  # one that has gone already; or too many at once
                time.sleep(0.01)
                continue
            self.connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Any) -> None:
        # The worker has ended, only looks whether we live, or is a stranger.
        with contextlib.suppress(EOFError, OSError, AuthenticationError):
            # Not by the listener: who says nothing would keep the others waiting.
            _connection().deliver_challenge(connection, self.authkey)
            _connection().answer_challenge(connection, self.authkey)
            while True:
                connection.send_bytes(self._answer(connection.recv_bytes()))
        self.connections.discard(connection)
        connection.close()

    def _answer(self, request: bytes) -> bytes:
        try:
            key, name, args, kwargs = pickle.loads(request)
            with one_at_a_time:
                run = self.find(key)
                if run is None or "_ddp_ended" in run.__dict__:
                    raise Unreachable(FINISHED)
                result = _make(run, name, args, kwargs)
        except Exception as error:
            return pickle.dumps((False, _portable(error)))
        try:
            return pickle.dumps((True, result))
        except Exception:
            return pickle.dumps((True, None))  # nothing that a worker could use

    def close(self) -> None:
        for connection in [self.listener, *self.connections]:
            with contextlib.suppress(OSError):
                connection.close()


def _make(run: Any, name: str, args: Any, kwargs: Any) -> Any:
    if name == "_config_callback":  # of the owner's config, which then makes its own
        key, val, data = (lambda key=None, val=None, data=None: (key, val, data))(*args, **kwargs)
        return run.config.update({key: val} if key else data, allow_val_change=True)
    result = getattr(run, name)(*args, **kwargs)
    if name == "__getattribute__" and not is_plain(result):
        raise NotPlain
    return result


def is_plain(value: Any) -> bool:
    """Say whether a value is made of numbers, strings, lists and dicts only."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))


def _portable(error: Exception) -> Exception:
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


_server: Optional[_Server] = None
_starting = threading.RLock()


def address(find: Callable[[str], Any]) -> Optional[str]:
    """Say where workers can call the runs of this process; start to listen there.

    Args:
        find: Finds the run that a payload's key stands for.

    Returns:
        None where there can be no local socket.
    """
    global _server
    with _starting:
        if _server is None:
            try:
                _server = _Server(find)
            except OSError:
                return None
        return str(_server.listener.address)


def end(run: Any) -> None:
    """Refuse all further calls on a run, after the one under way."""
    with one_at_a_time:
        run.__dict__["_ddp_ended"] = True


def end_all() -> None:
    """Refuse all further calls: this process ends."""
    if _server is not None:
        _server.find = lambda key: None
        if one_at_a_time.acquire(timeout=5):  # the call under way
            one_at_a_time.release()


# --- in workers -------------------------------------------------------------


class _Line:
    """A worker's connection to the owner of runs."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lock = threading.Lock()
        if not _lives(address):
            raise Unreachable(FINISHED)
        authkey = process.current_process().authkey
        self.connection = _connection().Client(address, authkey=authkey)

    def ask(self, request: bytes) -> Any:
        with self.lock:
            if self.connection.closed:  # another thread's call has failed
                return connect(self.address).ask(request)
            try:
                self.connection.send_bytes(request)
                deadline = time.monotonic() + _CALL_SECONDS
                while not self.connection.poll(1):
                    if time.monotonic() > deadline or not _lives(self.address):
                        raise EOFError
                return pickle.loads(self.connection.recv_bytes())
            except BaseException:
                # An answer that comes late must not be taken for the next one.
                _lines.pop(self.address, None)
                self.connection.close()
                raise


_lines: Dict[str, _Line] = {}


def _lives(address: str) -> bool:
    try:
        with _connection().Client(address) as connection:
            return bool(connection.poll(_PATIENCE_SECONDS))
    except OSError:
        return False


def connect(address: str) -> _Line:
    """Get this process's connection to the owner of runs.

    Raises:
        Unreachable: The owner is gone, or this is no worker of its process tree.
    """
    with _starting:
        if address not in _lines:
            try:
                _lines[address] = _Line(address)
            except AuthenticationError:
                raise Unreachable(
                    "this process was not started with multiprocessing by the one that"
                    " called wandb.init()"
                ) from None
            except (EOFError, OSError):
                raise Unreachable(FINISHED) from None
        return _lines[address]


def call(payload: Dict[str, Any], name: str, args: Any, kwargs: Any) -> Any:
    """Have the owner of a run make a call on it.

    Returns:
        What the call returned, or None where that can't be sent.

    Raises:
        Unreachable: The owner has finished the run, has ended or does not answer.
        TypeError: What the call was given can't be pickled.
        NotPlain: A property holds more than plain values.
        Exception: What the call itself raised.
    """
    try:
        request = pickle.dumps((payload["key"], name, args, kwargs), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TypeError(
            f"What run.{name}() was given can't be sent from this worker to the process that"
            f" called wandb.init(), because it can't be pickled: {error}"
        ) from error
    try:
        done, result = connect(payload["relay"]).ask(request)
    except (EOFError, OSError):
        raise Unreachable(FINISHED) from None
    if not done:
        raise result
    return result


def after_fork_in_child() -> None:
    """Let go of what belongs to the parent: else it would seem to live when it does not."""
    global _server, one_at_a_time, _starting
    one_at_a_time, _starting = threading.RLock(), threading.RLock()
    for line in _lines.values():
        with contextlib.suppress(OSError):
            line.connection.close()
    _lines.clear()
    if _server is not None:
        _server.close()
        _server = None
