"""What the two ends of a tunnel say to each other: records, in a stream of bytes.

=========  ========  ====================================================================
message    both      one message of wandb's own protocol
file       worker    a file of a message that follows begins: see files.py
data       worker    a piece of it
end        worker    its end: SHA-256
drain      owner     the run is about to end: send what was logged before
drained    worker    that is done, and the service has it
bye        worker    this worker will send nothing more
refused    owner     a message was not let through: why
closed     owner     nothing is taken any more: why
=========  ========  ====================================================================
"""

from __future__ import annotations

import struct
from typing import Iterator, Tuple

from ...tunnel.tls import ProtocolError

MESSAGE, FILE, DATA, END, DRAIN, DRAINED, BYE, REFUSED, CLOSED = range(1, 10)

_HEADER = struct.Struct(">BI")
# What protobuf allows a message to have.
_LIMIT_BYTES = 1 << 31


def encode(kind: int, body: bytes = b"") -> bytes:
    """Return a record as bytes."""
    return _HEADER.pack(kind, len(body)) + body


class Decoder:
    """Finds records in a stream of bytes."""

    def __init__(self) -> None:
        self._kept = bytearray()
        # Until so much is kept there is nothing to look at: a long one comes in many pieces.
        self._needed = 0

    def feed(self, data: bytes) -> Iterator[Tuple[int, bytes]]:
        """Yield each record that is whole, now that more has come: kind and body.

        Raises:
            ProtocolError: It is none.
        """
        if self._kept:
            self._kept += data
            if len(self._kept) < self._needed:
                return
            data = bytes(self._kept)
        at = 0
        while True:
            self._needed = _HEADER.size
            if len(data) - at < _HEADER.size:
                break
            kind, length = _HEADER.unpack_from(data, at)
            if not MESSAGE <= kind <= CLOSED or length > _LIMIT_BYTES:
                raise ProtocolError("a record of no known kind or size")
            self._needed += length
            if len(data) - at < self._needed:
                break
            at += self._needed
            yield kind, data[at - length : at]
        self._kept = bytearray(data[at:])
