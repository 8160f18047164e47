"""The end of tunnels that is connected to: one thread, whatever their number."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import socket
import time
from typing import Callable, Dict, List, Optional

from . import event_loop, tls
from .connection import Known, ServerConnection
from .protocol import LEAST_SECONDS, TunnelProtocol
from .stream import Stream

# Those who have connected and proven nothing yet are strangers: so many at a time, for so long.
# Where there are as many, nobody else is accepted until one goes: the first, once it has had
# the least time. Without these limits, anybody who reaches the port could take all descriptors
# of the process by connecting and saying nothing.
_STRANGERS, _PROOF_SECONDS = 256, 5.0
_BACKLOG = 1024
# How long bytes accumulate while nobody waits for an answer: the longest, once nobody has waited
# for a while. Less would wake the thread, which holds up the process's own, for each row; more
# would let rows wait that a killed owner loses. If so many bytes have come at once, they have
# accumulated already.
_SHORTEST_SECONDS, _LONGEST_SECONDS, _MANY_BYTES = 0.005, 0.05, 1 << 14
_RETRY_SECONDS = 0.05


class Server:
    """Accepts connections from those who hold the token of a name.

    Args:
        on_no_descriptor: Called where no connection can be accepted for want of descriptors.

    Raises:
        TlsUnavailableError: This Python's OpenSSL does not offer what is needed.
    """

    def __init__(self, on_no_descriptor: Callable[[], None] = lambda: None) -> None:
        tls.require()
        self.loop = event_loop.get()
        self._on_no_descriptor = on_no_descriptor
        self._names: Dict[bytes, Known] = {}
        self._strangers: Dict[_ServerProtocol, None] = {}
        self._left: Optional[asyncio.Event] = None
        self._pause_seconds = _SHORTEST_SECONDS
        self._tasks: List[concurrent.futures.Future[None]] = []

    # --- for any thread -------------------------------------------------------

    def listen(self, listener: socket.socket) -> None:
        """Accept connections at a socket that is bound."""
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        event_loop.keep_out_of_forks(listener)
        self._tasks.append(asyncio.run_coroutine_threadsafe(self._accept(listener), self.loop))

    def add(self, name: bytes, token: bytes, open_stream: Callable[[bytes], Stream]) -> None:
        """Accept those who say this name and hold its token.

        Args:
            name: ``NAME_BYTES``.
            token: What they hold.
            open_stream: Called, in the loop's thread, with a stream's id of ``ID_BYTES``;
                returns the stream: the one of before, where that is known.
        """
        self._names[name] = token, open_stream

    def remove(self, name: bytes) -> None:
        """Accept nobody any more who says this name."""
        self._names.pop(name, None)

    # --- for the loop's thread ------------------------------------------------

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            await self._wait_for_room()
            try:
                accepted = await self._accept_some(listener)
            except OSError:
                # No descriptors are left, or it has gone already. Not to wait would keep the
                # thread busy, and with it the others that could go and leave some.
                self._on_no_descriptor()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await asyncio.gather(*map(self._take_in, accepted))

    async def _accept_some(self, listener: socket.socket) -> List[socket.socket]:
        """Wait for one that connects; return it, and those who have as well, if there is room."""
        accepted = [(await self.loop.sock_accept(listener))[0]]
        # Not one each time that the loop comes round: while workers log, it pauses each time, and
        # the last of a thousand that connect together would wait for longer than it is patient.
        with contextlib.suppress(OSError):  # there are no more; or the next call raises it again
            while len(self._strangers) + len(accepted) < _STRANGERS:
                accepted.append(listener.accept()[0])
        return accepted

    async def _take_in(self, connected: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: _ServerProtocol(self), connected)
        except Exception:  # it has gone already; to raise would end the loop that accepts
            connected.close()

    async def _wait_for_room(self) -> None:
        while len(self._strangers) >= _STRANGERS:
            first = next(iter(self._strangers))
            wait = first.begun + LEAST_SECONDS - time.monotonic()
            if wait <= 0:
                first.close()
                self._strangers.pop(first, None)
                return
            self._left = asyncio.Event()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._left.wait(), wait)

    def knows(self, name: bytes) -> Optional[Known]:
        return self._names.get(name)

    def has_strangers_since(self, begun: float) -> bool:
        """Return True if one that has connected since then has not proven anything yet."""
        return any(stranger.begun >= begun for stranger in self._strangers)

    def add_stranger(self, protocol: _ServerProtocol) -> None:
        """Allow one that has connected its time to prove itself."""
        self._strangers[protocol] = None
        self.loop.call_later(_PROOF_SECONDS, self._expect_proof, protocol)

    def _expect_proof(self, protocol: _ServerProtocol) -> None:
        # Its own end may be lost without a word (half-open), so nothing else would free its place.
        if protocol in self._strangers:
            protocol.close()

    def remove_stranger(self, protocol: _ServerProtocol) -> None:
        """Note that one has proven itself, or has gone."""
        self._strangers.pop(protocol, None)
        if self._left is not None:
            self._left.set()

    def pause(self, is_waited_for: bool) -> None:
        """Let bytes accumulate before they are read, unless somebody waits for an answer."""
        if is_waited_for:
            self._pause_seconds = _SHORTEST_SECONDS
        elif event_loop.pause(self._pause_seconds):
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_SECONDS)


class _ServerProtocol(TunnelProtocol):
    def __init__(self, server: Server) -> None:
        super().__init__(ServerConnection(server.knows))
        self._server = server
        self.begun = time.monotonic()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.add_stranger(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.connection.is_urgent or len(data) < _MANY_BYTES:
            self._server.pause(self.connection.is_urgent)

    def on_authenticated(self) -> None:
        self._server.remove_stranger(self)

    def on_lost(self) -> None:
        self._server.remove_stranger(self)
