"""The owner's end of tunnels: what workers elsewhere say goes on to W&B's own service.

Everything here is done by the thread of the tunnel's event loop, unless it is said to be for
any thread.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import socket
import time
from typing import Deque, Dict, List, Optional, Tuple

from ..._process import raise_fd_limit
from ...errors import FINISHED
from ...runs.liveness import service_address
from ...tunnel import event_loop
from ...tunnel.connecting import connect, connect_to_host
from ...tunnel.server import Server
from ...tunnel.stream import Stream
from . import records, wandb_protocol, wandb_requests, wandb_responses
from .received_files import ReceivedFiles
from .session import Session
from .wandb_requests import Verdict
from .wandb_rules import Action

# How long a run that ends waits for what its workers have logged before: for one that is
# connected, and for one whose connection has been lost. The first may be busy sending; of the
# second it can't be told whether it will ever come back.
_DRAIN_SECONDS, _DRAIN_LOST_SECONDS = 30.0, 5.0
# How long one that is connecting when the run ends may take to say who it is.
_CONNECTING_SECONDS = 1.0
# How long a worker that was not told of the end may come back to hear of it.
_GONE_SECONDS = 300.0
_TICK_SECONDS = 0.02
# How long the service is tried to be reached where this process lacks descriptors, or too many
# others are connecting: a worker whose connection is given up can log no more.
_CONNECT_SECONDS, _CONNECT_PAUSE_SECONDS = 30.0, 0.1
# How much may wait for the service before no more is read for it.
_WAITING_BYTES = 1 << 20


class OwnerSession(Session):
    """One stream of a worker's, and the connection to the service that it leads to.

    Args:
        run: The run that it is of.
        id: The stream's.

    Attributes:
        is_drained: Whether the worker has sent all that it had logged before the run's end.
        is_closed: Whether nothing more is accepted from it.
        has_unanswered: Whether it has sent something after the last answer it waited for.
    """

    def __init__(self, run: SharedRun, id: bytes) -> None:
        super().__init__(id)
        self.is_drained = self.is_closed = self.has_unanswered = False
        self._run = run
        self._files = ReceivedFiles(run.files_dir, self._send_refused)
        self._check = wandb_requests.RequestCheck(
            run.id, self._files.landing, run.entity, run.project
        )
        self._connecting: Optional[asyncio.Future[None]] = None
        self._waiting: List[bytes] = []  # for the service
        # Bytes from the tunnel that wait here, or in the service's socket: as long as they are
        # not consumed, the worker has no room for more.
        self._unconsumed = 0
        self._is_asked = False  # for what it has logged, because the run is about to end

    # --- from the worker ------------------------------------------------------

    def on_stream_data(self, data: bytes) -> bool:
        is_urgent = False
        for kind, body in self._records.feed(data):
            if kind == records.MESSAGE:
                is_urgent = self._on_request(body) or is_urgent
            elif kind in (records.FILE, records.DATA, records.END):
                self._files.receive(kind, body)
            elif kind == records.DRAINED:
                self.is_drained = True
            elif kind == records.BYE:
                self._flush()
                self.close("")
        self._flush()
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size() <= _WAITING_BYTES:
            self.stream.consume(len(data))
        else:
            self._unconsumed += len(data)
        return is_urgent

    def _on_request(self, message: bytes) -> bool:
        """Forward a message, or not; return True if its answer is waited for."""
        if self.is_closed:
            return True
        verdict = self._check.check(message)
        if verdict.action is Action.FORWARD:
            self._waiting.append(wandb_protocol.frame(verdict.changed or message))
            self.has_unanswered = not verdict.is_waited_for
        elif verdict.action is Action.CLOSE:
            self._flush()
            self.close(verdict.reason)
        else:
            self._refuse(message, verdict)
        return verdict.is_waited_for

    def _refuse(self, message: bytes, verdict: Verdict) -> None:
        answer = wandb_requests.refusal(message, verdict.reason)
        if answer is not None:
            self.send_record(records.MESSAGE, answer)
        else:
            self._send_refused(verdict.reason, verdict.is_waited_for)

    def _send_refused(self, why: str, is_waited_for: bool = False) -> None:
        body = (b"\1" if is_waited_for else b"\0") + why.encode("utf-8", "replace")
        self.send_record(records.REFUSED, body)

    def _flush(self) -> None:
        """Send what was forwarded, all at once: each write is a system call."""
        if self._waiting and self.transport is not None:
            self.transport.write(b"".join(self._waiting))
            self._waiting.clear()

    # --- the service ----------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect to the service."""
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        deadline = time.monotonic() + _CONNECT_SECONDS
        while not self.is_closed:
            tried = time.monotonic()  # not when it failed: this process may be stopped meanwhile
            try:
                await self._try_to_connect()
                return
            except (OSError, asyncio.TimeoutError) as error:
                refused = isinstance(error, (ConnectionRefusedError, FileNotFoundError))
                if refused or tried > deadline:
                    why = str(error) or "no answer"
                    self.close(f"its owner can't reach W&B's service: {why}")
                    return
            # To accept this worker may have taken the last descriptor.
            raise_fd_limit()
            await asyncio.sleep(_CONNECT_PAUSE_SECONDS)

    async def _try_to_connect(self) -> None:
        loop = event_loop.get()
        address = service_address(self._run.service)
        if address is None:
            raise FileNotFoundError(f"WANDB_SERVICE={self._run.service} has an unknown format")
        if isinstance(address, str):
            connected = await connect(socket.AF_UNIX, socket.SOCK_STREAM, 0, address)
            await loop.create_unix_connection(lambda: self, sock=connected)
        else:
            connected = await connect_to_host(address, _CONNECT_SECONDS)
            await loop.create_connection(lambda: self, sock=connected)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.set_write_buffer_limits(high=_WAITING_BYTES)
        self._flush()
        self.resume_writing()
        if self.is_closed and self.transport is not None:  # its worker has left meanwhile
            self.transport.close()

    def resume_writing(self) -> None:
        """Read from the tunnel again: the service has taken what waited."""
        count, self._unconsumed = self._unconsumed, 0
        self.stream.consume(count)

    def data_received(self, data: bytes) -> None:
        """Pass on what the service answers, without what is the owner's own."""
        try:
            for message in self._messages.feed(data):
                self.send_record(records.MESSAGE, wandb_responses.clean_response(message))
        except Exception as error:
            self.close(f"its owner can't read a response from W&B's service: {error}")
        self.pause_reading_if(self.stream.is_full)

    def connection_lost(self, error: Optional[Exception]) -> None:
        super().connection_lost(error)
        self.close("its owner's W&B service has ended")

    # --- the end --------------------------------------------------------------

    def drain(self) -> None:
        """Ask the worker for what it has logged."""
        if not self.is_closed and not self._is_asked:
            self._is_asked = True
            self.send_record(records.DRAIN)

    def is_waited_for(self, now: float) -> bool:
        """Return True if a run that ends has to wait for it."""
        if self.is_closed or self.is_drained:
            return False
        if self.stream.carrier is None and not self.has_unanswered:
            return False  # all that it has logged was answered for, and then it went
        return self.stream.carrier is not None or now < self.stream.lost_at + _DRAIN_LOST_SECONDS

    def close(self, why: str) -> None:
        """Accept nothing more; tell the worker why, or "" where it has left by itself."""
        if self.is_closed:
            return
        self.is_closed = True
        self.send_record(records.CLOSED, why.encode())
        if self.transport is not None:
            self.transport.close()
        self._files.close()
        self._run.on_session_closed(self)


class SharedRun:
    """A run that workers elsewhere may write.

    Args:
        name: What workers call it, 16 bytes.
        token: What they hold.
        about: Its id, entity and project, as W&B's service knows it.
        service: The value of WANDB_SERVICE.
        files_dir: The folder of the run's files.
    """

    def __init__(
        self, name: bytes, token: bytes, about: Tuple[str, str, str], service: str, files_dir: str
    ) -> None:
        self.name, self.token = name, token
        self.id, self.entity, self.project = about
        self.service, self.files_dir = service, files_dir
        self.sessions: Dict[bytes, OwnerSession] = {}
        self.is_closing = self.is_closed = False
        self._closed: Deque[Tuple[float, bytes]] = collections.deque()

    def open_stream(self, id: bytes) -> Stream:
        """Return a worker's stream: the one from before, where it is known."""
        now = time.monotonic()
        while self._closed and self._closed[0][0] < now:
            self.sessions.pop(self._closed.popleft()[1], None)
        session = self.sessions.get(id)
        if session is None:
            session = self.sessions[id] = OwnerSession(self, id)
            if self.is_closed:
                session.close(FINISHED)
            else:
                session.connect()
                if self.is_closing:
                    session.drain()
        return session.stream

    def waited_for(self) -> List[OwnerSession]:
        """Return the sessions that a run which ends has to wait for."""
        now = time.monotonic()
        return [session for session in self.sessions.values() if session.is_waited_for(now)]

    def on_session_closed(self, session: OwnerSession) -> None:
        """Forget a session, but later: its worker may come back, and would begin a new one."""
        self._closed.append((time.monotonic() + _GONE_SECONDS, session.stream.id))


class Gateway:
    """All that this process shares with workers elsewhere.

    Raises:
        TlsUnavailableError: This Python's OpenSSL does not offer what is needed.
    """

    def __init__(self) -> None:
        self.runs: Dict[bytes, SharedRun] = {}
        self._server = Server(raise_fd_limit)

    # --- for any thread -------------------------------------------------------

    def listen(self, listener: socket.socket) -> None:
        """Accept workers at a socket that is bound."""
        self._server.listen(listener)

    def open(self, run: SharedRun) -> None:
        """Accept workers of a run."""
        self.runs[run.name] = run
        self._server.add(run.name, run.token, run.open_stream)

    def close(self, run: SharedRun) -> int:
        """Close a run to its workers, after all that they have logged so far has arrived.

        Returns:
            The number of workers that have not said whether that is all.
        """
        if run.is_closed:
            return 0
        closing = asyncio.run_coroutine_threadsafe(self._close(run), event_loop.get())
        # It keeps to its own limit, but may begin late, or be held up by other workers' messages.
        # Without any limit, finish() would wait for ever if the loop's thread hung.
        try:
            return closing.result(2 * _DRAIN_SECONDS)
        except concurrent.futures.TimeoutError:
            # Nothing is known of any worker then. The owner's run has to be finished all the same.
            run.is_closed = True
            return len(run.sessions)

    # --- for the loop's thread ------------------------------------------------

    async def _close(self, run: SharedRun) -> int:
        run.is_closing = True
        begun = time.monotonic()
        for session in list(run.sessions.values()):
            session.drain()
        # So that those who wait to be accepted are, and count as connecting: their rows are lost
        # if the run is finished before they have been asked for them.
        await asyncio.sleep(_TICK_SECONDS)
        while time.monotonic() < begun + _DRAIN_SECONDS:
            # A stranger may be a worker of this run. But not for long: it may be anybody.
            connecting = self._server.has_strangers_since(begun - _CONNECTING_SECONDS)
            is_late = time.monotonic() > begun + _CONNECTING_SECONDS
            if not run.waited_for() and (is_late or not connecting):
                break
            await asyncio.sleep(_TICK_SECONDS)
        silent = len(run.waited_for())
        run.is_closed = True
        for session in list(run.sessions.values()):
            session.close(FINISHED)
        await asyncio.sleep(_TICK_SECONDS)  # until they are told, before this process ends
        event_loop.get().call_later(_GONE_SECONDS, self._forget, run)
        return silent

    def _forget(self, run: SharedRun) -> None:
        self.runs.pop(run.name, None)
        self._server.remove(run.name)
