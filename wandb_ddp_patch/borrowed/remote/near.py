"""A way home to an owner on this machine, where releases have no service: up to 0.12.

Such a run works in one process only. Its owner makes what workers log, as for those on
other machines: over a local socket, with a token that all processes of its tree can make.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any, Dict, Optional, Set, Tuple

from ...errors import FINISHED
from .. import ending
from ..link import usage_error
from ..processes import has_ended, identity
from . import kin, packing
from .client import Client
from .frames import BrokenError
from .way import PATIENCE_SECONDS, WORKS, Remote
from .window import IN_BETWEEN, Load
from .wire import Wire

# An owner that is seen to live is waited for: it may be stopped, or in a long call.
_FOR_EVER_SECONDS = 1e6
# How long a process may take from the end of its sockets to its own.
_END_SECONDS = 1
# How long an owner that we have just heard may take for the next word.
_WORD_SECONDS = 20
# How long to wait at once for the thread to read what has come.
_MOMENT_SECONDS = 0.01


class NearClient(Client):
    """A line to an owner on this machine: who logs sends it, and hears what has come before.

    So a row is with the owner when log() returns, should this process be killed; and no row
    is sent to a run of which the owner has said that it is over.

    Args:
        payload: What the run came with.

    Raises:
        Unreachable: There is no such owner.
    """

    # A network may reset a connection; here only the owner does.
    gone_errors = (*Client.gone_errors, ConnectionError, BrokenError)
    strange = (
        "this process was not started with multiprocessing by the one that called wandb.init()"
    )
    direct = True

    def __init__(self, payload: Dict[str, Any]) -> None:
        self._pid = payload["owner"]
        self._owner = payload.get("process")  # not in payloads of 0.1.0
        self._sending = threading.RLock()
        # Threads that post now, and the one that sends: a signal's handler may come between.
        self._posting: Set[int] = set()
        self._sender: Optional[int] = None
        seen = self._owner is not None and identity() is not None
        patience = _FOR_EVER_SECONDS if seen else PATIENCE_SECONDS
        key = payload["key"]
        super().__init__(payload["relay"], kin.name(key), kin.token(key), patience)

    def post(self, kind: int, body: bytes) -> None:
        me = threading.get_ident()
        if me in self._posting:  # in a handler: what it has come between will send that, too
            self.window.post(kind, body)
            return
        self._posting.add(me)
        try:
            self._hear()
            self.window.post(kind, body)
            self._send_now(me)
        finally:
            self._posting.discard(me)

    def ask(self, kind: int, body: bytes) -> Any:
        if self._sender == threading.get_ident():
            raise RuntimeError(IN_BETWEEN)
        return super().ask(kind, body)

    def flush(self) -> int:
        # In a handler, what it has come between holds the line.
        return 0 if self._sender == threading.get_ident() else super().flush()

    def _hear(self) -> None:
        """Wait until what has come has been read, by the thread."""
        wire = self._wire
        with contextlib.suppress(OSError, ValueError, EOFError):  # the thread connects anew
            while wire is not None and wire is self._wire and wire.is_readable:
                self.window.wait(_MOMENT_SECONDS)

    def _send_now(self, me: int) -> None:
        with self._sending:
            self._sender, wire = me, self._wire
            try:
                while wire is not None and super()._send(wire, paused=False) is not None:
                    pass
            except OSError:
                wire.cut()  # type: ignore[union-attr]  # the thread connects anew
            finally:
                self._sender = None

    def _send(self, wire: Wire, paused: bool) -> Optional[Load]:
        with self._sending:
            return super()._send(wire, paused)

    def _use(self, wire: Wire) -> None:
        with self._sending:
            super()._use(wire)
        # Its first words: it may have finished the run already.
        if wire.wait(self._wakened, _WORD_SECONDS):
            self._receive(wire)

    def _let_go(self) -> None:
        if self._wire is not None:
            self._wire.cut()  # who sends meanwhile lets go of it
        with self._sending:
            super()._let_go()

    def why_gone(self, error: Exception) -> str:
        """Say why nobody answers at the owner's address, as far as it can be told."""
        deadline = time.monotonic() + _END_SECONDS
        if self._is_of_another_user():
            return "this process runs as another user than the one that called wandb.init()"
        if not isinstance(error, OSError) or self._owner is None or identity() is None:
            return FINISHED
        while not has_ended(self._owner):  # its sockets are closed a little before
            if time.monotonic() > deadline:
                return (
                    "nobody answers where the process that called wandb.init() takes calls: it has"
                    " ended, or this process is in another container or network namespace"
                )
            time.sleep(0.01)
        return FINISHED

    def _is_of_another_user(self) -> bool:
        # As doors.py tells it the owner, who then says nothing.
        try:
            theirs = os.stat(f"/proc/{self._pid}").st_uid
        except OSError:
            return False
        return os.geteuid() not in (theirs, 0)


class Near(Remote):
    """Calls on a run, made by its owner, another process of this machine."""

    elsewhere = False
    own_calls = (*Remote.own_calls, "_tensorboard_callback")

    def new_client(self) -> Client:
        return NearClient(self.payload)

    def leave(self, run: Any) -> None:
        if self.is_over():
            super().leave(run)
        else:  # the next task of a pool need not connect anew
            ending.forget(run)
            for error in self.client().window.take_errors():
                raise error

    def resume(self, run: Any) -> bool:
        if self.is_over():
            return False
        ending.flush_at_the_end(run, self)
        return True

    def pack(self, name: str, args: Any, kwargs: Any) -> packing.Packed:
        # The owner may be in another folder.
        if name == "save":
            args, kwargs = _absolute(*args, **kwargs)
        elif name == "_tensorboard_callback":
            args = (os.path.abspath(args[0]), *args[1:])
        return packing.pack(name, args, kwargs)

    def not_here(self, what: str) -> Exception:
        version = sys.modules["wandb"].__version__
        return usage_error(
            f"{what} does not work in a worker in wandb {version}: use it in the process that"
            f" called wandb.init(). What works in a worker: {WORKS}, finish, config and summary."
        )


def _absolute(
    glob_str: Any = None, base_path: Any = None, *args: Any, **kwargs: Any
) -> Tuple[Any, Dict[str, Any]]:
    if isinstance(glob_str, (str, bytes)) and not os.path.isabs(glob_str):
        glob_str = os.path.abspath(glob_str)
        base_path = os.path.abspath(base_path or os.curdir)
    return (glob_str, base_path, *args), kwargs
