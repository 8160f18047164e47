"""One stream of bytes in each direction, which outlives the connections that carry it.

Positions are counted in bytes from the stream's start. What is written is kept until the
other end has acknowledged it; a new connection goes on where the other end has got to.
"""

from __future__ import annotations

import time
from typing import Callable, Optional, Protocol

from .tls import ProtocolError

ID_BYTES = 16
# Memory, for each direction: a writer that looks at `is_full` waits above it.
LIMIT_BYTES = 4 << 20


class Outbox:
    """Bytes that are kept until the other end has them.

    Attributes:
        acknowledged: The position up to which the other end has them.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._sent = 0  # how many of these are under way
        self.acknowledged = 0

    def __len__(self) -> int:
        """Return how many bytes the other end has not acknowledged."""
        return len(self._kept)

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent on the connection that there is."""
        return len(self._kept) - self._sent

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        self._kept += data

    def next(self, limit: int) -> bytes:
        """Take at most so many bytes to be sent."""
        piece = bytes(memoryview(self._kept)[self._sent : self._sent + limit])
        self._sent += len(piece)
        return piece

    def acknowledge(self, position: int) -> None:
        """Drop what the other end has.

        Raises:
            ProtocolError: It says that it has what it was not sent.
        """
        # An acknowledgement tells what was consumed, but when the other end connected it told
        # what it had received, which is more: an older position that comes later is no error.
        count = max(0, position - self.acknowledged)
        if count > self._sent:
            raise ProtocolError("an acknowledgement of what was not sent")
        del self._kept[:count]
        self._sent -= count
        self.acknowledged += count

    def rewind(self, position: int) -> None:
        """Go on from where the other end is, on a new connection.

        Raises:
            ProtocolError: It lacks what it has acknowledged: it is another process now.
        """
        if position < self.acknowledged:
            raise ProtocolError("what was acknowledged is lost")
        # What was under way on the old connection may have arrived, or not: up to the position
        # it has, and from there all is sent again.
        self._sent = len(self._kept)
        self.acknowledge(position)
        self._sent = 0


class Carrier(Protocol):
    """What moves a stream's bytes: a connection, see protocol.py."""

    def wake(self) -> None:
        """Look, soon, whether there is something to send, or room for more."""

    def close(self) -> None:
        """Close the connection."""


class Stream:
    """Both directions of a tunnel, as one of its ends sees them.

    Args:
        id: What identifies the stream, ``ID_BYTES``; chosen by the end that connects.
        on_data: Called with bytes that have come, in order and each once. It returns True if
            somebody waits for what is done with them. It has to tell by :meth:`consume` what
            there is room for again.

    Attributes:
        received: The position up to which bytes have come.
        consumed: The position up to which they were consumed, which the other end is told.
        carrier: The connection that there is; None between two of them.
        lost_at: When the last one was lost, by the monotonic clock.
        on_room: Called once the other end has acknowledged something, if it is set.
    """

    def __init__(self, id: bytes, on_data: Callable[[bytes], bool]) -> None:
        self.id, self._on_data = id, on_data
        self.outbox = Outbox()
        self.received = self.consumed = 0
        self.carrier: Optional[Carrier] = None
        self.lost_at = time.monotonic()
        self.on_room: Optional[Callable[[], None]] = None

    def write(self, data: bytes) -> None:
        """Send bytes. They are kept, however many: see :attr:`is_full`."""
        self.outbox.append(data)
        if self.carrier is not None:
            self.carrier.wake()

    def carry(self, carrier: Carrier) -> None:
        """Go on with another connection, instead of the one that there may be.

        There is one where the other end has seen its connection break, and this end has not yet.
        """
        before, self.carrier = self.carrier, carrier
        if before is not None:
            before.close()

    def lose(self, carrier: Carrier) -> None:
        """Note that a connection is no more."""
        if self.carrier is carrier:
            self.carrier, self.lost_at = None, time.monotonic()

    @property
    def is_full(self) -> bool:
        """Whether a writer should wait until the other end has acknowledged more."""
        return len(self.outbox) >= LIMIT_BYTES

    @property
    def is_behind(self) -> bool:
        """Whether so much has come and is not consumed that no more is to be read."""
        return self.received - self.consumed >= LIMIT_BYTES

    def acknowledge(self, position: int) -> None:
        """Note up to where the other end has what was written.

        Raises:
            ProtocolError: It says that it has what it was not sent.
        """
        self.outbox.acknowledge(position)
        if self.on_room is not None:
            self.on_room()

    def receive(self, position: int, data: bytes) -> bool:
        """Take bytes in; return True if somebody waits for what is done with them.

        Raises:
            ProtocolError: Bytes before them are missing.
        """
        if position > self.received:
            raise ProtocolError("bytes are missing")
        # What was sent again may overlap what has come before.
        data = data[self.received - position :]
        self.received += len(data)
        return bool(data) and self._on_data(data)

    def consume(self, count: int) -> None:
        """Note that there is room again for so many of the bytes that have come."""
        self.consumed += count
        if self.carrier is not None:
            self.carrier.wake()
