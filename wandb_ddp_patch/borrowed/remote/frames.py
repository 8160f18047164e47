"""Frames: what goes over the wire after the handshake, each with its number and its MAC.

A frame holds items, each with a number of its own: see lanes.py. Nothing in a frame is
looked at before its MAC has been.
"""

from __future__ import annotations

import hmac
import struct
from typing import Iterator, List, NamedTuple

# Length of what follows, number of the frame on its connection, the last item that the
# sender has made of those it got, and whether it wants to hear that at once.
_HEADER = struct.Struct(">IQQB")
_LENGTH = struct.Struct(">I")
_ITEM = struct.Struct(">QBI")
_MAC_BYTES = 32

# What one item may hold, and one frame: what is longer is cut into pieces.
PIECE_BYTES = 1 << 18
FRAME_BYTES = 1 << 18
_MOST_BYTES = 2 * (PIECE_BYTES + FRAME_BYTES)


class BrokenError(Exception):
    """What came can't be what a holder of the key has sent in this place."""


class Item(NamedTuple):
    """One message: its number, what it is, and what it holds."""

    number: int
    kind: int
    body: bytes


class Frame(NamedTuple):
    """What a frame says: the last item made, whether to answer at once, and items."""

    made: int
    asks: bool
    items: List[Item]


def mac(key: bytes, *parts: bytes) -> bytes:
    """Make the HMAC-SHA256 of some bytes."""
    return hmac.digest(key, b"".join(parts), "sha256")


class Sealer:
    """Makes the frames of one direction of a connection.

    Args:
        key: That direction's, on that connection.
    """

    def __init__(self, key: bytes) -> None:
        self._key, self._number = key, 0

    def seal(self, made: int, items: List[Item], asks: bool = False) -> bytes:
        """Make the next frame."""
        parts = [b""]
        for number, kind, body in items:
            parts += (_ITEM.pack(number, kind, len(body)), body)
        length = _HEADER.size - _LENGTH.size + sum(map(len, parts)) + _MAC_BYTES
        parts[0] = _HEADER.pack(length, self._number, made, asks)
        self._number += 1
        content = b"".join(parts)
        return content + mac(self._key, content)


class Opener:
    """Reads the frames of one direction of a connection, as they come.

    Args:
        key: That direction's, on that connection.
    """

    def __init__(self, key: bytes) -> None:
        self._key, self._number = key, 0
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Give the frames that are whole, now that more has come.

        Raises:
            BrokenError: A frame was changed, sent again, left out or made by a stranger.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if not _HEADER.size - _LENGTH.size + _MAC_BYTES <= length <= _MOST_BYTES:
                raise BrokenError("a frame of no possible length")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            frame = bytes(self._buffer[:end])
            del self._buffer[:end]
            yield self._open(frame)

    def _open(self, frame: bytes) -> Frame:
        content, proof = frame[:-_MAC_BYTES], frame[-_MAC_BYTES:]
        if not hmac.compare_digest(mac(self._key, content), proof):
            raise BrokenError("a frame that does not prove itself")
        _, number, made, asks = _HEADER.unpack_from(content)
        if number != self._number:
            raise BrokenError("a frame out of its turn")
        self._number += 1
        items, at = [], _HEADER.size
        while at < len(content):
            item, kind, size = _ITEM.unpack_from(content, at)
            at += _ITEM.size
            items.append(Item(item, kind, content[at : at + size]))
            at += size
        return Frame(made, bool(asks), items)
