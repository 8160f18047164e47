"""One connection of wandb's protocol, joined to a stream of a tunnel: what both ends do."""

from __future__ import annotations

from ...tunnel.event_loop import SocketProtocol
from ...tunnel.stream import Stream
from . import records
from .wandb_protocol import MessageDecoder


class Session(SocketProtocol):
    """A connection on this machine, and the tunnel's stream by which it goes on as records.

    It is asyncio's protocol of that connection. Both sides push back: while the stream is full,
    nothing is read from the connection, so that its other end comes to wait, and nothing grows.

    Args:
        id: What identifies the stream.
    """

    def __init__(self, id: bytes) -> None:
        super().__init__()
        self.stream = Stream(id, self.on_stream_data)
        self.stream.on_room = self.on_room
        self._records, self._messages = records.decoder(), MessageDecoder()

    def on_stream_data(self, data: bytes) -> bool:
        """React to bytes from the tunnel; return True if somebody waits for what comes of them."""
        raise NotImplementedError

    def send_record(self, kind: int, body: bytes = b"") -> None:
        """Send a record through the tunnel. It is kept however full that is."""
        self.stream.write(records.encode(kind, body))

    def pause_reading_if(self, is_full: bool) -> None:
        """Read nothing more from the connection, until there is room."""
        if is_full and self.transport is not None:
            self.transport.pause_reading()

    def on_room(self) -> None:
        """React to an acknowledgement: read from the connection again, if there is room now."""
        if self.transport is not None and not self.stream.is_full:
            self.transport.resume_reading()  # which does nothing where it was not paused
