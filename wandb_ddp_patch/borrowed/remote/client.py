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
from typing import List, Optional

from ...errors import Unreachable
from . import handshake
from .frames import BrokenError
from .window import Window
from .wire import Address, Wire

# How long rows may come together before they are sent, while nobody waits for them.
_PAUSE_SECONDS = 0.005
# How long an owner that has something to say may be silent before the connection is
# taken for broken.
_SILENT_SECONDS = 20.0
# How long nobody may be at the address, or not know us, before the owner counts as gone.
_GONE_SECONDS = 3.0
_TICK_SECONDS = 1.0

GONE = "the process that called wandb.init() may have ended, or is reached by another address"
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

    def __init__(self, address: Address, run: bytes, token: bytes, patience: float) -> None:
        self._address, self._run, self._token = address, run, token
        self._patience = patience
        self._session = os.urandom(16)
        self.window = Window(patience, self._wake)
        self._heard = self._sent = 0.0
        self._wakes, self._wakened = socket.socketpair()
        self._wakes.setblocking(False)
        self._wakened.setblocking(False)
        self._wire = self._connected(first=True)
        if self._wire is None:
            self._close_pair()
            raise Unreachable(str(self.window.over))
        self._thread = threading.Thread(target=self._work, name="wandb_ddp_patch", daemon=True)
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
                    self._wire.close()
                self._wire = self._connected()
        except BaseException as error:
            self.window.end(f"its line has failed: {error!r}")
            raise
        finally:
            if self._wire is not None:
                self._wire.close()
            self.window.end(LEFT)
            self._close_pair()

    def _serve(self, wire: Wire) -> None:
        """Send and receive, until the run is over or this worker has left it."""
        window = self.window
        while window.over is None and not (window.leaving and not window.count()):
            pause = self._sent + _PAUSE_SECONDS - time.monotonic()
            load = window.load(paused=pause > 0)
            if load is not None:
                wire.send(load.made, load.items, load.asks)
                self._sent = time.monotonic()
                if load.more:
                    continue
            seconds = pause if load is None and pause > 0 else _PAUSE_SECONDS
            if load is None and pause <= 0:
                seconds = _TICK_SECONDS  # until somebody wakes us
            if wire.wait(self._wakened, seconds):
                for frame in wire.receive():
                    window.receive(frame)
                self._heard = time.monotonic()
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

    def _connected(self, first: bool = False) -> Optional[Wire]:
        """Connect, for the first time or anew; None where that can't be."""
        begun, gone, pause = time.monotonic(), 0.0, 0.05
        while True:
            try:
                knock = handshake.Knock(self._run, self._session, self._token)
                wire = Wire(self._address, knock, self.window.taken, self._patience)
                self.window.resume(wire.taken)
                self._heard = time.monotonic()
                return wire
            except handshake.NotProvenError:
                self.window.end(f"who answers at {self._where()} does not hold its token")
                return None
            except (ConnectionRefusedError, FileNotFoundError, EOFError) as error:
                gone = gone or time.monotonic()
                nobody = first and not isinstance(error, EOFError)
                if nobody or time.monotonic() > gone + _GONE_SECONDS:
                    self.window.end(self._gone(error))
                    return None
            except OSError as error:
                gone = 0.0
                if time.monotonic() > begun + self._patience:
                    self.window.end(self._unreachable(error))
                    return None
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 1.0)

    def _where(self) -> str:
        return self._address if isinstance(self._address, str) else "%s, port %d" % self._address

    def _gone(self, error: Exception) -> str:
        if isinstance(error, EOFError):
            return f"who answers at {self._where()} does not know it: {GONE}"
        # No more can be told: a wrong address and a firewall refuse while the owner lives.
        return f"connections to {self._where()} are refused: {GONE}"

    def _unreachable(self, error: OSError) -> str:
        return (
            f"its owner has not answered at {self._where()} within {self._patience:.0f} s ({error})"
        )
