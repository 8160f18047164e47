"""Moves the bytes of one connection between a socket and a :class:`Connection`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Optional

from . import event_loop
from .connection import Connection
from .event_loop import SocketProtocol

# How much waits in asyncio's own buffer before no more is put into it.
_BUFFER_BYTES = 1 << 18
# The other end is told what was consumed after so many bytes, or so long. Not for each row:
# that would be as many messages back as there are rows.
_ACKNOWLEDGE_BYTES, _ACKNOWLEDGE_SECONDS = 1 << 16, 0.25
# So long a server leaves each stranger its time, whatever happens (see server.py). One that is
# sent away sooner is unknown there, and its client has to know how long that is: never less.
LEAST_SECONDS = 1.0
# A connection whose other end is not heard from at all is closed after about a minute.
_KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))


class TunnelProtocol(SocketProtocol):
    """What both ends do.

    Args:
        connection: What the bytes mean.

    Attributes:
        error: Why the connection was closed from this end.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.error: Optional[Exception] = None
        self._loop = event_loop.get()
        self._can_write, self._is_flushing = True, False
        self._acknowledging: Optional[asyncio.TimerHandle] = None

    def on_authenticated(self) -> None:
        """React to the other end's proof."""

    def on_lost(self) -> None:
        """React to the end of the connection."""

    # --- called by asyncio ----------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        connected: socket.socket = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                if hasattr(socket, option):
                    connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._flush()

    def data_received(self, data: bytes) -> None:
        was_authenticated = self.connection.stream is not None
        try:
            self.connection.receive(data)
        except Exception as error:  # also EOFError: nothing more will come
            self.close(error)
            return
        stream = self.connection.stream
        if stream is not None and not was_authenticated:
            stream.carry(self)
            self.on_authenticated()
        self._flush()
        # Else what a fast writer sends, and nobody consumes, would fill this process's memory.
        if stream is not None and stream.is_behind and self.transport is not None:
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self.wake()

    def connection_lost(self, error: Optional[Exception]) -> None:
        super().connection_lost(error)
        if self._acknowledging is not None:
            self._acknowledging.cancel()
        if self.connection.stream is not None:
            self.connection.stream.lose(self)
        self.error = self.error or error
        self.on_lost()

    # --- for the loop's thread ------------------------------------------------

    def close(self, error: Optional[Exception] = None) -> None:
        """Close the connection at once; the stream can go on with another one."""
        self.error = self.error or error
        if self.transport is not None:
            # Not close(), which first sends what is buffered: to a network that is down, for ever.
            self.transport.abort()

    def wake(self) -> None:
        """Look, soon, whether there is something to send, or room for more."""
        # Once for all that is written before the loop comes round: each write to a socket is a
        # system call.
        if not self._is_flushing and self.is_open:
            self._is_flushing = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._is_flushing = False
        stream = self.connection.stream
        if self.transport is not None and stream is not None and not stream.is_behind:
            self.transport.resume_reading()  # which does nothing where it was not paused
        self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as there is room; acknowledgements may wait for more."""
        while self._can_write and (
            self.connection.has_output or self.connection.unacknowledged >= _ACKNOWLEDGE_BYTES
        ):
            if not self._write():
                return
        if self.connection.unacknowledged and self._acknowledging is None:
            self._acknowledging = self._loop.call_later(_ACKNOWLEDGE_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = None
        if self.connection.unacknowledged:
            self._write()

    def _write(self) -> bool:
        if self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(self.connection.output())
        return True
