"""One connection to an owner: a stranger until it has proven that it is a worker."""

from __future__ import annotations

import time
from typing import Any, Optional

from . import handshake
from .frames import Opener, Sealer
from .session import Session

# More than 1 << 17, malloc takes from the kernel and gives back each time: 7 times as long.
_READ_BYTES = 1 << 16
# A worker hears of what was made after so many items or bytes, or when the hub says so.
_ITEMS, _BYTES = 256, 1 << 18


class Peer:
    """What is at the other end of a connection.

    Args:
        hub: Whose it is.
        connection: A socket that does not block.

    Attributes:
        session: The worker's; None while it is a stranger's.
        begun: When it was made.
        urgent: Whether what came last is waited for.
        writes: Whether something waits to be written.
    """

    def __init__(self, hub: Any, connection: Any) -> None:
        self._hub, self.connection = hub, connection
        self.session: Optional[Session] = None
        self.begun = time.monotonic()
        self.urgent = self.writes = False
        self._read = self._read_hello
        self._came, self._out = bytearray(), bytearray()
        self._told = self._untold_bytes = 0

    def read(self) -> int:
        """Read what has come.

        Returns:
            How many bytes that was.

        Raises:
            Exception: There is no more, or it is no worker's.
        """
        try:
            data = self.connection.recv(_READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            raise EOFError
        self._read(data)
        return len(data)

    def _read_hello(self, data: bytes) -> None:
        self._came += data
        if len(self._came) < handshake.HELLO_BYTES:
            return
        hello = bytes(self._came)
        run, self._name = handshake.names(hello)
        self._run = self._hub.runs[run]  # KeyError: a stranger, who hears nothing
        self.begun = time.monotonic()  # it may have waited for us, if we were stopped
        self._door = handshake.Door(hello, self._run.token, self._run.taken(self._name))
        self._came.clear()
        self._read, self.urgent = self._read_proof, True
        self._write(self._door.answer)

    def _read_proof(self, data: bytes) -> None:
        self._came += data
        if len(self._came) < handshake.PROOF_BYTES:
            return
        proof = bytes(self._came[: handshake.PROOF_BYTES])
        has, keys = self._door.check(proof)
        self._opener, self._sealer = Opener(keys.of_worker), Sealer(keys.of_owner)
        self.session = self._hub.admit(self, self._run, self._name)
        self.session.outgoing.is_made(has)
        self.session.outgoing.resume(has)
        self._read = self._read_frames
        rest = bytes(self._came[handshake.PROOF_BYTES :])
        self._came.clear()
        self.push()
        self._read_frames(rest)

    def _read_frames(self, data: bytes) -> None:
        session: Any = self.session
        self.urgent = False
        self._untold_bytes += len(data)
        for frame in self._opener.feed(data):
            session.outgoing.is_made(frame.made)
            session.take(frame.items)
            self.urgent = self.urgent or frame.asks
        if session.ended:
            self._run.leaves(self._name)
        untold = session.incoming.made - self._told
        if (
            self.urgent
            or session.outgoing.unsent
            or untold >= _ITEMS
            or self._untold_bytes >= _BYTES
        ):
            self.push()
        elif untold:
            self._hub.owes(self)

    def is_lost(self) -> None:
        """Note that the connection is no more."""
        if self.session is not None and self.session.peer is self:
            self.session.peer, self.session.lost = None, time.monotonic()
            self._run.loses(self._name)

    def push(self) -> None:
        """Tell the worker what was made, and send what waits for it."""
        session: Any = self.session
        while True:
            items = session.outgoing.take()
            self._told, self._untold_bytes = session.incoming.made, 0
            self._write(self._sealer.seal(self._told, items))
            if not session.outgoing.unsent:
                return

    def _write(self, data: bytes) -> None:
        self._out += data
        self.write()

    def write(self) -> None:
        """Write what waits, as far as that can be done at once."""
        try:
            while self._out:
                del self._out[: self.connection.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()  # it has gone; what it has sent before is still to be read
        if self.writes != bool(self._out):
            self.writes = bool(self._out)
            self._hub.watch(self)
