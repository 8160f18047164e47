"""Moves the bytes of one connection between a socket and what they mean."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any, Optional

from . import event_loop
from .connection import Connection

# How much waits in asyncio's own buffer before no more is put into it.
_BUFFER_BYTES = 1 << 18
# The other end is told what was consumed after so many bytes, or so long.
_ACKNOWLEDGE_BYTES, _ACKNOWLEDGE_SECONDS = 1 << 16, 0.25
# A connection whose other end is not heard of at all is closed after about a minute.
_KEEPALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))


class TunnelProtocol(asyncio.Protocol):
    """What both ends do.

    Args:
        connection: What the bytes mean.

    Attributes:
        transport: The socket, as asyncio has it; None before there is one.
        error: Why the connection was closed from this end.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.transport: Any = None
        self.error: Optional[Exception] = None
        self._loop = event_loop.get()
        self._descriptor = -1
        self._is_open = self._can_write = True
        self._is_flushing = self._is_reading_paused = False
        self._acknowledging: Optional[asyncio.TimerHandle] = None

    def on_authenticated(self) -> None:
        """React to the other end's proof."""

    def on_lost(self) -> None:
        """React to the end of the connection."""

    # --- called by asyncio ----------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        connected = transport.get_extra_info("socket")
        self._descriptor = event_loop.keep_out_of_forks(connected)
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
        if stream is not None and stream.is_behind and not self._is_reading_paused:
            self._is_reading_paused = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._can_write = False

    def resume_writing(self) -> None:
        self._can_write = True
        self.wake()

    def connection_lost(self, error: Optional[Exception]) -> None:
        self._is_open = False
        event_loop.forget(self._descriptor)
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
            self.transport.abort()

    def wake(self) -> None:
        """Look, soon, whether there is something to send, or room for more."""
        if not self._is_flushing and self._is_open:
            self._is_flushing = True
            self._loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        self._is_flushing = False
        if not self._is_open:
            return
        stream = self.connection.stream
        if self._is_reading_paused and stream is not None and not stream.is_behind:
            self._is_reading_paused = False
            self.transport.resume_reading()
        self._flush()

    def _flush(self) -> None:
        """Send what waits, as far as there is room; acknowledgements may wait for more."""
        while self._can_write and (
            self.connection.has_output or self.connection.unacknowledged >= _ACKNOWLEDGE_BYTES
        ):
            self.transport.write(self.connection.output())
        if self.connection.unacknowledged and self._acknowledging is None:
            self._acknowledging = self._loop.call_later(_ACKNOWLEDGE_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = None
        if self._is_open and self.connection.unacknowledged:
            self.transport.write(self.connection.output())
