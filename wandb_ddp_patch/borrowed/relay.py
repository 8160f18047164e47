"""A way home by which the owner makes each call: for releases up to 0.12.

The worker sends a call and waits until the owner has made it, so the order within
a worker is kept and nothing is under way when it ends. See serving.py.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
from multiprocessing import AuthenticationError, connection, process
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Optional, Tuple

from ..errors import FINISHED, NotPlain, Unreachable
from .current import make_current
from .link import Way, usage_error
from .processes import has_ended, identity

if TYPE_CHECKING:
    from .link import Address

# What a worker may call, besides what the run calls itself. The rest would have to give
# it the run's inside.
CALLS = ("log", "define_metric", "_define_metric", "save", "alert")
_OWN_CALLS = (
    "__getattribute__",
    "__setattr__",
    "_config_callback",
    "_config_artifact_callback",
    "_history_callback",
    "_log",
    "_metric_callback",
    "_partial_history_callback",
    "_summary_get_current_summary_callback",
    "_summary_update_callback",
    "_tensorboard_callback",
)
# How long an owner may be silent where it can't be told whether its process lives. Else
# it is waited for: it may be stopped, or in a long call of its own.
_PATIENCE_SECONDS = 300
# How long a process may take from the end of its sockets to its own.
_END_SECONDS = 1


class Relay(Way):
    """Calls on a run, made by its owner.

    Args:
        payload: What the run came with.
    """

    def __init__(self, payload: Dict[str, Any]) -> None:
        self.address, self.key = payload["relay"], payload["key"]
        self.owner = payload.get("process")  # not in payloads of 0.1.0

    def connecting(self) -> ContextManager[Any]:
        return _connecting

    def connect(self, run: Any) -> None:
        _connected(self.address, self.owner)
        make_current(run)

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Have the owner make a call.

        Returns:
            What the call returned, or None where that can't be sent.

        Raises:
            Unreachable: The owner has finished the run, has ended or does not answer.
            TypeError: What the call was given can't be pickled.
            wandb.errors.UsageError: It is one that only the owner itself can make.
            Exception: What the call itself raised.
        """
        if name not in CALLS and name not in _OWN_CALLS:
            raise _one_process_only(f"run.{name}()")
        if name == "save":
            args, kwargs = _absolute(*args, **kwargs)
        elif name == "_tensorboard_callback":
            args = (os.path.abspath(args[0]), *args[1:])
        try:
            request = pickle.dumps((self.key, name, args, kwargs), pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise TypeError(
                f"What run.{name}() was given can't be sent from this worker to the process"
                f" that called wandb.init(), because it can't be pickled: {error}"
            ) from error
        try:
            done, result = _connected(self.address, self.owner).ask(request)
        except (EOFError, OSError):
            raise Unreachable(_why_gone(self.owner)) from None
        if done:
            return result
        if isinstance(result, NotPlain):
            raise _one_process_only(f"run.{args[0]}")
        raise result

    def resume(self, run: Any) -> bool:
        return True  # the line is this process's, for all runs


def _absolute(
    glob_str: Any = None, base_path: Any = None, *args: Any, **kwargs: Any
) -> Tuple[Any, Dict[str, Any]]:
    # The owner may be in another folder.
    if isinstance(glob_str, (str, bytes)) and not os.path.isabs(glob_str):
        glob_str = os.path.abspath(glob_str)
        base_path = os.path.abspath(base_path or os.curdir)
    return (glob_str, base_path, *args), kwargs


def _one_process_only(what: str) -> Exception:
    works = ", ".join(name for name in CALLS if name[0] != "_")
    version = sys.modules["wandb"].__version__
    return usage_error(
        f"{what} does not work in a worker in wandb {version}: use it in the process that"
        f" called wandb.init(). What works in a worker: {works}, finish, config and summary."
    )


# --- this process's connections ---------------------------------------------


class _Line:
    """A worker's connection to the owner of runs."""

    def __init__(self, address: Address, owner: Optional[str]) -> None:
        self.address, self.owner = address, owner
        self.lock = threading.RLock()
        self.busy = False
        self.connection = self._connection()

    def _connection(self) -> Any:
        authkey = process.current_process().authkey
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return connection.Client(self.address, authkey=authkey)
            except (ConnectionRefusedError, FileNotFoundError):
                raise
            except (EOFError, OSError):  # too many at once: it will have time
                if has_ended(self.owner) or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def ask(self, request: bytes) -> Any:
        with self.lock:
            if self.busy:  # this thread's own call: a signal's handler has come between
                return self._ask_apart(request)
            if self.connection.closed:  # another thread's call has failed
                return _connected(self.address, self.owner).ask(request)
            self.busy = True
            try:
                self.connection.send_bytes(request)
                deadline = time.monotonic() + _PATIENCE_SECONDS
                while not self.connection.poll(1):
                    late = self.owner is None and time.monotonic() > deadline
                    if late or has_ended(self.owner):
                        raise EOFError
                return pickle.loads(self.connection.recv_bytes())
            except BaseException:
                # An answer that comes late must not be taken for the next one.
                _lines.pop(self.address, None)
                self.connection.close()
                raise
            finally:
                self.busy = False

    def _ask_apart(self, request: bytes) -> Any:
        line = _Line(self.address, self.owner)
        try:
            return line.ask(request)
        finally:
            line.connection.close()


_lines: Dict[Address, _Line] = {}
_connecting = threading.RLock()


def _connected(address: Address, owner: Optional[str]) -> _Line:
    """Get this process's connection to the owner of runs.

    Raises:
        Unreachable: The owner is gone, or this is no worker of its process tree.
    """
    with _connecting:
        if address not in _lines:
            try:
                _lines.setdefault(address, _Line(address, owner))
            except AuthenticationError:
                raise Unreachable(
                    "this process was not started with multiprocessing by the one that"
                    " called wandb.init()"
                ) from None
            except (EOFError, OSError):
                raise Unreachable(_why_gone(owner)) from None
        return _lines[address]


def _why_gone(owner: Optional[str]) -> str:
    """Say why nobody answers at an owner's address, as far as it can be told."""
    here, deadline = identity(), time.monotonic() + _END_SECONDS
    if owner is None or here is None:
        return FINISHED
    while not has_ended(owner):  # its sockets are closed a little before
        if time.monotonic() > deadline:
            return (
                "nobody answers where the process that called wandb.init() takes calls: it has"
                " ended, or this process is in another container or network namespace"
            )
        time.sleep(0.01)
    return FINISHED


def after_fork_in_child() -> None:
    """Let go of the parent's connections: each process has its own."""
    global _connecting
    _connecting = threading.RLock()
    for line in _lines.values():
        with contextlib.suppress(OSError):
            line.connection.close()
    _lines.clear()
