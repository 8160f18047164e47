"""A worker's line to an owner on this machine: for one call at a time, which is waited for.

So it needs no thread, and when a call has returned, nothing is under way.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Any, Dict, Optional, Tuple

from ...errors import FINISHED, Unreachable
from ..processes import has_ended, identity
from . import handshake, kin, messages
from .frames import BrokenError
from .lanes import Incoming, Outgoing
from .wire import Wire

# How long an owner may be silent where it can't be told whether its process lives. Else
# it is waited for: it may be stopped, or in a long call of its own.
_PATIENCE_SECONDS = 300.0
# How long an owner that lives may refuse to speak with us before it counts as not ours.
_REFUSED_SECONDS = 3.0
# How long a process may take from the end of its sockets to its own.
_END_SECONDS = 1
_STRANGE = "this process was not started with multiprocessing by the one that called wandb.init()"


class Line:
    """A connection to the owner of a run, for one call at a time.

    Raises:
        Unreachable: The owner is gone, or this is no worker of its process tree.
    """

    def __init__(self, payload: Dict[str, Any]) -> None:
        self._address, self._pid, key = payload["relay"], payload["owner"], payload["key"]
        self._owner: Optional[str] = payload.get("process")  # not in payloads of 0.1.0
        self._out, self._in = Outgoing(), Incoming()
        self.lock = threading.RLock()
        self.busy = self.closed = self._over = False
        self._wire = self._connected(kin.name(key), kin.token(key))
        self._wire.limit_nothing()

    def _connected(self, run: bytes, token: bytes) -> Wire:
        deadline, refused = time.monotonic() + _PATIENCE_SECONDS, 0.0
        while True:
            try:
                knock = handshake.Knock(run, os.urandom(16), token)
                return Wire(self._address, knock, 0, _PATIENCE_SECONDS)
            except handshake.NotProvenError:
                raise Unreachable(_STRANGE) from None
            except (ConnectionRefusedError, FileNotFoundError):
                raise Unreachable(self._why_gone()) from None
            except (EOFError, ConnectionError):  # too many at once: it will have time
                refused = refused or time.monotonic()
            except OSError:  # it is stopped, or busy
                refused = 0.0
            now = time.monotonic()
            late = self._owner is None and now > deadline
            if late or (refused and now > refused + _REFUSED_SECONDS) or has_ended(self._owner):
                raise Unreachable(self._why_refused() if refused else self._why_gone())
            time.sleep(0.1)

    def ask(self, kind: int, body: bytes) -> Tuple[bool, Any]:
        """Have a call made; give whether it has returned, and what it has returned or raised.

        Raises:
            Unreachable: The owner has ended, or does not answer.
        """
        try:
            self.busy = True
            number, answers = self._out.put(kind, body), {}
            while self._out.unsent:
                items = self._out.take()
                self._wire.send(self._in.made, items, not self._out.unsent)
            while number not in answers:
                answers.update(self._heard())
            self.busy = False
            return answers[number]
        except (EOFError, OSError, BrokenError):
            self.close()
            raise Unreachable(self._why_gone()) from None
        except BaseException:
            # An answer that comes late must not be taken for the next one.
            self.close()
            raise

    def _heard(self) -> Dict[int, Tuple[bool, Any]]:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._wire.has_come(1):
            late = self._owner is None and time.monotonic() > deadline
            if late or has_ended(self._owner):
                raise EOFError
        answers = {}
        for frame in self._wire.receive():
            self._out.is_made(frame.made)
            for item in frame.items:
                whole = self._in.take(item)
                self._in.made = self._in.taken
                if whole is not None and whole.kind == messages.ANSWER:
                    number, done, result = messages.read_answer(whole.body)
                    answers[number] = done, result
                elif whole is not None:
                    self._over = self._over or whole.kind == messages.OVER
        return answers

    def is_over(self) -> bool:
        """Say whether the owner has said that the run is over, or has gone."""
        if self.busy or not self.lock.acquire(blocking=False):
            return False  # it is being used
        try:
            self.busy = True
            while not self.closed and self._wire.has_come(0):
                self._heard()
            self.busy = False
        except (EOFError, OSError, BrokenError):
            self.close()
        finally:
            self.lock.release()
        return self._over or self.closed

    def close(self) -> None:
        self.closed, self.busy = True, False
        with contextlib.suppress(OSError):
            self._wire.close()

    def _why_refused(self) -> str:
        # As doors.py tells it the owner, who then says nothing: on Linux alone.
        with contextlib.suppress(OSError, AttributeError):
            if os.geteuid() not in (os.stat(f"/proc/{self._pid}").st_uid, 0):
                return "this process runs as another user than the one that called wandb.init()"
        return FINISHED

    def _why_gone(self) -> str:
        """Say why nobody answers at the owner's address, as far as it can be told."""
        here, deadline = identity(), time.monotonic() + _END_SECONDS
        if self._owner is None or here is None:
            return FINISHED
        while not has_ended(self._owner):  # its sockets are closed a little before
            if time.monotonic() > deadline:
                return (
                    "nobody answers where the process that called wandb.init() takes calls: it has"
                    " ended, or this process is in another container or network namespace"
                )
            time.sleep(0.01)
        return FINISHED
