"""The end of a tunnel that connects, and connects again where that breaks."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Callable, Optional

from . import event_loop, tls
from .connecting import Address, connect_to_host
from .connection import ClientConnection
from .protocol import LEAST_SECONDS, TunnelProtocol
from .stream import Stream
from .tls import AuthenticationError, ProtocolError

# How long an end that has something to acknowledge may be silent before the connection counts
# as broken. A router that forgets a connection drops its packets without a word, and TCP itself
# would try for a quarter of an hour.
_SILENT_SECONDS = 20.0
# How long nobody may be at the address, or not let us in, before the other end counts as gone.
# Not at once: while its machine runs out of descriptors, or a network comes back, it lives.
_GONE_SECONDS = 3.0
_TICK_SECONDS = 1.0
# Between two attempts to connect; each at random within half of it, so that a thousand workers
# whose owner's network has failed don't come back in the same instant.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0


class TunnelError(Exception):
    """A tunnel can't be connected, or reconnected; the message says why."""


class RefusedError(TunnelError):
    """Nobody listens at the address."""


class UnknownError(TunnelError):
    """The process that listens at the address does not know the name, or not by this token."""


class ImpostorError(UnknownError):
    """The process that answers at the address does not hold the token."""


class Client:
    """A tunnel to another process.

    Args:
        stream: What it carries.
        address: Host and port.
        name: What the other end knows the token by, 16 bytes.
        token: What both ends hold.
        timeout: Seconds that the other end is waited for while it can't be reached.
        on_end: Called, in the loop's thread, once it can't be reached any more, with why.
        on_connected: Called there each time that it has connected.

    Raises:
        TlsUnavailableError: This Python's OpenSSL does not offer what is needed.
    """

    def __init__(
        self,
        stream: Stream,
        address: Address,
        name: bytes,
        token: bytes,
        timeout: float,
        on_end: Callable[[TunnelError], None],
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        tls.require()
        self.stream, self.address, self.timeout = stream, address, timeout
        self._name, self._token = name, token
        self._on_end, self._on_connected = on_end, on_connected
        self._protocol: Optional[_ClientProtocol] = None
        self.is_closed = self.was_connected = False
        self._task: Optional[asyncio.Future[None]] = None

    def start(self) -> None:
        """Begin to connect; for the loop's thread."""
        self._task = asyncio.ensure_future(self._run())

    def close(self) -> None:
        """Close it at once; for the loop's thread."""
        self.is_closed = True
        if self._protocol is not None:
            self._protocol.close()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while not self.is_closed:
                protocol = await self._connect()
                self.was_connected = True
                self._on_connected()
                await self._watch(protocol)
        except TunnelError as error:
            self._end(error)
        except Exception as error:
            # Nobody looks at this task: whoever waits for the tunnel would wait for ever.
            self._end(TunnelError(f"the connection to {self._where()} has failed: {error!r}"))

    def _end(self, error: TunnelError) -> None:
        self.is_closed = True
        self._on_end(error)

    async def _watch(self, protocol: _ClientProtocol) -> None:
        """Wait for the connection's end; close it where nothing comes back."""
        while not protocol.ended.is_set():
            try:
                await asyncio.wait_for(protocol.ended.wait(), _TICK_SECONDS)
            except asyncio.TimeoutError:
                if not len(self.stream.outbox):
                    protocol.heard_at = time.monotonic()
                elif time.monotonic() > protocol.heard_at + min(_SILENT_SECONDS, self.timeout):
                    protocol.close()

    async def _connect(self) -> _ClientProtocol:
        """Connect, for the first time or anew.

        Raises:
            TunnelError: It can't, within the time there is for it.
        """
        begun, gone, pause = time.monotonic(), 0.0, _FIRST_PAUSE_SECONDS
        while True:
            # What counts is when an attempt began, not when it has failed: this process may have
            # been stopped meanwhile, for an hour, and has not looked for the other end since.
            tried = time.monotonic()
            try:
                return await self._try_to_connect()
            except AuthenticationError:
                raise ImpostorError(
                    f"the process that answers at {self._where()} does not have this run's token"
                ) from None
            except (ConnectionRefusedError, EOFError) as error:
                gone = gone or time.monotonic()
                # Nobody has ever been there: it is a wrong address, and no failure that passes.
                at_once = isinstance(error, ConnectionRefusedError) and not self.was_connected
                if at_once or tried > gone + _GONE_SECONDS:
                    raise self._refusal(error) from None
            except (OSError, asyncio.TimeoutError) as error:
                gone = 0.0
                if tried > begun + self.timeout:
                    raise TunnelError(
                        f"its owner has not answered at {self._where()} within"
                        f" {self.timeout:.0f} s ({str(error) or 'no answer'})"
                    ) from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    async def _try_to_connect(self) -> _ClientProtocol:
        limit = min(_SILENT_SECONDS, self.timeout)
        connection = ClientConnection(self.stream, self._name, self._token)
        protocol = _ClientProtocol(connection)
        connected = await connect_to_host(self.address, limit)
        await event_loop.get().create_connection(lambda: protocol, sock=connected)
        self._protocol = protocol
        try:
            await asyncio.wait_for(protocol.authenticated.wait(), limit)
        except asyncio.TimeoutError:
            protocol.close()
            raise
        if connection.stream is None:
            raise protocol.verdict()
        return protocol

    def _where(self) -> str:
        return "%s, port %d" % self.address

    def _refusal(self, error: Exception) -> TunnelError:
        # No more can be told: a wrong address and a firewall refuse while the other end lives.
        if isinstance(error, EOFError):
            return UnknownError(
                f"the process that answers at {self._where()} does not know this run"
            )
        return RefusedError(f"connections to {self._where()} are refused")


class _ClientProtocol(TunnelProtocol):
    """The connection of a client.

    Attributes:
        authenticated: Set once the other end has proven itself, or is gone.
        ended: Set once the connection is no more.
        begun, heard_at: When it was begun, and when something has come last, by the monotonic
            clock.
    """

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__(connection)
        self.authenticated, self.ended = asyncio.Event(), asyncio.Event()
        self.begun = self.heard_at = time.monotonic()

    def verdict(self) -> Exception:
        """Return what it means that the other end has just closed the connection."""
        if isinstance(self.error, AuthenticationError):
            return self.error
        if isinstance(self.error, ProtocolError):
            return EOFError()  # it speaks something else
        # It also sends those away who take too long, as a process does that was stopped, or one
        # behind a slow network. And what only passes bytes on, such as ssh -L, accepts and closes
        # at once while nothing is behind it. Neither has said that it does not know us.
        if self.connection.is_encrypted and time.monotonic() < self.begun + LEAST_SECONDS:
            return EOFError()
        return ConnectionResetError("connections are closed there before an answer comes")

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        super().data_received(data)

    def on_authenticated(self) -> None:
        self.authenticated.set()

    def on_lost(self) -> None:
        self.authenticated.set()
        self.ended.set()
