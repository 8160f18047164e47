"""A worker's line to an owner: one thread, which connects, sends and receives.

A connection that breaks is made anew, and goes on where the owner has got to.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from typing import Any, List, Optional, Tuple, Type

from ...errors import Unreachable
from . import handshake
from .frames import BrokenError
from .window import Load, Window
from .wire import Address, Wire

# How long rows may come together before they are sent, while nobody waits for them.
_PAUSE_SECONDS = 0.005
# How long an owner that has something to say may be silent before the connection is
# taken for broken.
_SILENT_SECONDS = 20.0
# How long nobody may be at the address, or not know us, before the owner counts as gone.
_GONE_SECONDS = 3.0
_TICK_SECONDS = 1.0

_NOBODY = (ConnectionRefusedError, FileNotFoundError)

GONE = "the process that called wandb.init() has ended, or no longer has it"
LEFT = "this worker has left it"


class Client:
    """A line to the owner of a run.

    Args:
        address: Where the owner listens.
        run: What identifies the run, 16 bytes.
        token: The run's.
        patience: Seconds that an owner is waited for that can't be reached.

    Attributes:
        window: What is sent, and what comes back.

    Raises:
        Unreachable: There is no such owner at that address.
    """

    # What says that nobody is there, or that who is does not speak with us.
    gone_errors: Tuple[Type[Exception], ...] = (*_NOBODY, EOFError)
    strange = "who answers at its address does not hold its token"
    direct = False  # see Window

    def __init__(self, address: Address, run: bytes, token: bytes, patience: float) -> None:
        self._address, self._run, self._token = address, run, token
        self._patience = patience
        self._session = os.urandom(16)
        self.window = Window(patience, self._wake, self.direct)
        self._heard = self._sent = 0.0
        self._wakes, self._wakened = socket.socketpair()
        self._wakes.setblocking(False)
        self._wakened.setblocking(False)
        self._wire: Optional[Wire] = None
        self._thread = threading.Thread(target=self._work, name="wandb_ddp_patch", daemon=True)
        if not self._connect(first=True):
            self._close_pair()
            raise Unreachable(str(self.window.over))
        self._thread.start()

    def close(self, in_vain: bool = False) -> List[Exception]:
        """Say goodbye, after what was sent before.

        Args:
            in_vain: Whether the owner has been waited for already, and in vain.

        Returns:
            What calls have raised that nobody has heard of.
        """
        self.window.leave()
        self._thread.join(_GONE_SECONDS if in_vain else self._patience)
        return self.window.take_errors()

    def abandon(self) -> None:
        """Let go of the sockets, without a word: they are those of the process we forked from."""
        if self._wire is not None:
            self._wire.close()
        self._close_pair()

    def post(self, kind: int, body: bytes) -> None:
        """Send something without waiting for it.

        Raises:
            Exception: As :meth:`Window.post`.
        """
        self.window.post(kind, body)

    def ask(self, kind: int, body: bytes) -> Any:
        """Have a call made: see :meth:`Window.ask`."""
        return self.window.ask(kind, body)

    def flush(self) -> int:
        """Wait until all that was sent has been made: see :meth:`Window.flush`."""
        return self.window.flush()

    def why_gone(self, error: Exception) -> str:
        """Say why nobody speaks with us, after what connecting has raised."""
        return GONE

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has been told, or has ended
            self._wakes.send(b"\0")

    def _close_pair(self) -> None:
        for end in (self._wakes, self._wakened):
            end.close()

    # --- the thread -----------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._wire is not None:
                try:
                    self._serve(self._wire)
                    break
                except (OSError, EOFError, BrokenError):
                    pass
                if not self._connect():
                    break
        except BaseException as error:
            self.window.end(f"its line has failed: {error!r}")
            raise
        finally:
            self._let_go()
            self.window.end(LEFT)
            self._close_pair()

    def _let_go(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _use(self, wire: Wire) -> None:
        self.window.resume(wire.taken)
        self._heard = time.monotonic()
        self._wire = wire

    def _send(self, wire: Wire, paused: bool) -> Optional[Load]:
        load = self.window.load(paused)
        if load is not None:
            wire.send(load.made, load.items, load.asks)
            self._sent = time.monotonic()
        return load

    def _receive(self, wire: Wire) -> None:
        for frame in wire.receive():
            self.window.receive(frame)
        self._heard = time.monotonic()

    def _serve(self, wire: Wire) -> None:
        """Send and receive, until the run is over or this worker has left it."""
        window = self.window
        while window.over is None and not (window.leaving and not window.count()):
            pause = self._sent + _PAUSE_SECONDS - time.monotonic()
            load = self._send(wire, paused=pause > 0)
            if load is not None and load.more:
                continue
            seconds = pause if load is None and pause > 0 else _PAUSE_SECONDS
            if load is None and pause <= 0:
                seconds = _TICK_SECONDS  # until somebody wakes us
            if wire.wait(self._wakened, seconds):
                self._receive(wire)
            with contextlib.suppress(BlockingIOError):
                self._wakened.recv(4096)
            self._doubt()

    def _doubt(self) -> None:
        """Take the connection for broken where nothing comes back."""
        if not self.window.count():
            self._heard = time.monotonic()
        elif time.monotonic() > self._heard + min(_SILENT_SECONDS, self._patience):
            raise EOFError

    # --- connecting -----------------------------------------------------------

    def _connect(self, first: bool = False) -> bool:
        """Connect, for the first time or anew; False where that can't be."""
        self._let_go()
        begun, gone, pause = time.monotonic(), 0.0, 0.05
        while True:
            now = time.monotonic()
            try:
                knock = handshake.Knock(self._run, self._session, self._token)
                wire = Wire(self._address, knock, self.window.taken, self._patience)
                self._use(wire)
                return True
            except handshake.NotProvenError:
                self.window.end(self.strange)
                return False
            except self.gone_errors as error:
                gone = gone or now
                nobody = first and isinstance(error, _NOBODY)
                if nobody or time.monotonic() > gone + _GONE_SECONDS:
                    self.window.end(self.why_gone(error))
                    return False
            except OSError as error:
                gone = 0.0
                if time.monotonic() > begun + self._patience:
                    self.window.end(self._unreachable(error))
                    return False
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 1.0)

    def _unreachable(self, error: OSError) -> str:
        where = self._address if isinstance(self._address, str) else "%s, port %d" % self._address
        return f"its owner has not answered at {where} within {self._patience:.0f} s ({error})"
