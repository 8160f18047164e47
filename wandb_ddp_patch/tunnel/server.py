"""The end of tunnels that is connected to: one thread, whatever their number."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Callable, Dict, List, Optional

from . import event_loop, tls
from .connection import Known, ServerConnection
from .protocol import TunnelProtocol
from .stream import Stream

# Strangers, who have not proven anything yet: so many at a time, and so long. Where there are
# as many, nobody else is let in until one goes: the first, if it has had its time.
_STRANGERS, _PROOF_SECONDS, _LEAST_SECONDS = 256, 5.0, 1.0
_BACKLOG = 1024
# How long bytes come together while nobody waits for them; the longer, the longer nobody has
# waited. Where so many have come at once, they are together.
_SHORTEST_SECONDS, _LONGEST_SECONDS, _MANY_BYTES = 0.005, 0.05, 1 << 14
_RETRY_SECONDS = 0.05


class Server:
    """Hears those who connect, and takes in those who hold the token of a name.

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
        self._tasks: List[Any] = []

    # --- for any thread -------------------------------------------------------

    def listen(self, listener: Any) -> None:
        """Accept connections at a socket that is bound."""
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        event_loop.keep_out_of_forks(listener)
        self._tasks.append(asyncio.run_coroutine_threadsafe(self._accept(listener), self.loop))

    def add(self, name: bytes, token: bytes, open_stream: Callable[[bytes], Stream]) -> None:
        """Let in those who name this name and hold the token.

        Args:
            name: ``NAME_BYTES``.
            token: What they hold.
            open_stream: Called, in the loop's thread, with a stream's id of ``ID_BYTES``;
                returns the stream: the one of before, where that is known.
        """
        self._names[name] = token, open_stream

    def remove(self, name: bytes) -> None:
        """Let nobody in any more who names this name."""
        self._names.pop(name, None)

    # --- for the loop's thread ------------------------------------------------

    async def _accept(self, listener: Any) -> None:
        while True:
            await self._wait_for_room()
            try:
                connected, _ = await self.loop.sock_accept(listener)
            except OSError:
                # No descriptors are left, or it has gone already. Others may go.
                self._on_no_descriptor()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                protocol = _ServerProtocol(self)
                await self.loop.connect_accepted_socket(lambda p=protocol: p, connected)  # type: ignore[misc]
            except Exception:  # it has gone already; the others go on
                connected.close()

    async def _wait_for_room(self) -> None:
        while len(self._strangers) >= _STRANGERS:
            first = next(iter(self._strangers))
            wait = first.begun + _LEAST_SECONDS - time.monotonic()
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
        """Return True if one who has connected since then has not proven anything yet."""
        return any(stranger.begun >= begun for stranger in self._strangers)

    def meet(self, protocol: _ServerProtocol) -> None:
        """Give one who has connected its time to prove itself."""
        self._strangers[protocol] = None
        self.loop.call_later(_PROOF_SECONDS, self._expect_proof, protocol)

    def _expect_proof(self, protocol: _ServerProtocol) -> None:
        if protocol in self._strangers:
            protocol.close()

    def is_no_stranger(self, protocol: _ServerProtocol) -> None:
        """Note that one has proven itself, or has gone."""
        self._strangers.pop(protocol, None)
        if self._left is not None:
            self._left.set()

    def rest(self, is_waited_for: bool) -> None:
        """Let what comes next come together, unless somebody waits."""
        if is_waited_for:
            self._pause_seconds = _SHORTEST_SECONDS
        elif event_loop.pause(self._pause_seconds):
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_SECONDS)


class _ServerProtocol(TunnelProtocol):
    def __init__(self, server: Server) -> None:
        super().__init__(ServerConnection(server.knows))
        self._server = server
        self.begun = time.monotonic()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._server.meet(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.connection.is_urgent or len(data) < _MANY_BYTES:
            self._server.rest(self.connection.is_urgent)

    def on_authenticated(self) -> None:
        self._server.is_no_stranger(self)

    def on_lost(self) -> None:
        self._server.is_no_stranger(self)
