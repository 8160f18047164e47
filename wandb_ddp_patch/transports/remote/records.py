"""Frames in a stream of bytes, and those that the two ends of a tunnel send to each other: records.

=========  ========  ====================================================================
record     sent by   meaning
=========  ========  ====================================================================
message    both      one message of wandb's own protocol
file       worker    a file begins, which a later message names: see received_files.py
data       worker    the next bytes of that file
end        worker    its end, with its SHA-256
drain      owner     the run is about to end: send what was logged before
drained    worker    that is done, and the service has read it
bye        worker    this worker will send nothing more
refused    owner     a message was not forwarded: why
closed     owner     nothing more is accepted: why
=========  ========  ====================================================================
"""

from __future__ import annotations

import struct
from typing import List, Tuple

from ...tunnel.tls import ProtocolError

MESSAGE, FILE, DATA, END, DRAIN, DRAINED, BYE, REFUSED, CLOSED = range(1, 10)

_HEADER = struct.Struct(">BI")
# The limit that protobuf has for a message.
_LIMIT_BYTES = 1 << 31


class FrameDecoder:
    """Splits a stream of bytes into frames: a byte for the kind, the length, and the body.

    Args:
        header: The layout of kind and length.
        kinds: The kinds that there are.
        limit: The longest body that is accepted, in bytes.
    """

    def __init__(self, header: struct.Struct, kinds: bytes, limit: int) -> None:
        self._header, self._kinds, self._limit = header, kinds, limit
        self._rest = bytearray()
        # A long frame comes in many pieces. To look for its end, and copy it, at each of them
        # would take time that grows with the square of its length.
        self._needed = header.size

    def feed(self, data: bytes) -> List[Tuple[int, bytes]]:
        """Return the kind and body of each frame that is complete, now that more has come.

        Raises:
            ProtocolError: It is no frame of a known kind, or one that is too long.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
        frames, end = self._split(data)
        self._rest = bytearray(data[end:])
        return frames

    def _split(self, data: bytes) -> Tuple[List[Tuple[int, bytes]], int]:
        """Return the frames in data, and where the last one ends."""
        frames: List[Tuple[int, bytes]] = []
        end, size, header_bytes = 0, len(data), self._header.size
        while True:
            self._needed = header_bytes
            # The first byte alone shows that it is another protocol, whose header may never come.
            if end < size and data[end] not in self._kinds:
                raise ProtocolError(
                    f"a message begins with {data[end : end + 1]!r}, not with {self._kinds!r}"
                )
            if size - end < header_bytes:
                return frames, end
            kind, length = self._header.unpack_from(data, end)
            if length > self._limit:
                raise ProtocolError(f"a message has {length} bytes, more than {self._limit}")
            self._needed += length
            if size - end < self._needed:
                return frames, end
            frames.append((kind, data[end + header_bytes : end + self._needed]))
            end += self._needed


def encode(kind: int, body: bytes = b"") -> bytes:
    """Return a record as bytes."""
    return _HEADER.pack(kind, len(body)) + body


def decoder() -> FrameDecoder:
    """Return a decoder of records."""
    return FrameDecoder(_HEADER, bytes(range(MESSAGE, CLOSED + 1)), _LIMIT_BYTES)
