"""The owner's end of tunnels: what workers elsewhere say goes on to W&B's own service.

Everything here is done by the thread of the tunnel's event loop, but for what is said to be
for any thread.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import re
import time
from typing import Any, Deque, Dict, List, Optional, Tuple

from ...errors import FINISHED
from ...runs.liveness import SERVICE
from ...tunnel import event_loop
from ...tunnel.server import Server
from ...tunnel.stream import Stream
from . import listeners, records, wandb_protocol, wandb_requests, wandb_responses
from .received_files import ReceivedFiles
from .wandb_rules import Action

# How long a run that ends waits for what its workers have logged before: for one that is
# connected, and for one whose connection has been lost.
_CONNECTED_SECONDS, _LOST_SECONDS = 30.0, 5.0
# How long one that is connecting when the run ends is given to say who it is.
_CONNECTING_SECONDS = 1.0
# How long a worker that was not told of the end may come back to hear of it.
_GONE_SECONDS = 300.0
_TICK_SECONDS = 0.02
# How much may wait for the service before no more is read for it.
_WAITING_BYTES = 1 << 20


class Session:
    """One stream of a worker's, and the connection to the service that it leads to.

    Args:
        run: The run that it is of.
        id: The stream's.

    Attributes:
        is_drained: Whether the worker has sent all that it had logged before the run's end.
        is_over: Whether nothing more comes of it.
    """

    def __init__(self, run: SharedRun, id: bytes) -> None:
        self.stream = Stream(id, self._receive)
        self.stream.on_room = self._on_room
        self.is_drained = self.is_over = False
        self._run = run
        self._records = records.decoder()
        self._responses = wandb_protocol.MessageDecoder()
        self._files = ReceivedFiles(run.files_dir, self._say_refused)
        self._check = wandb_requests.RequestCheck(
            run.id, self._files.landing, run.entity, run.project
        )
        self._connecting: Any = None
        self._service: Any = None  # asyncio's transport
        self._waiting: List[bytes] = []  # for it
        self._unconsumed = 0
        self._is_asked = False  # for what it has logged, because the run is about to end
        self.has_unanswered = False

    # --- from the worker ------------------------------------------------------

    def _receive(self, data: bytes) -> bool:
        urgent = False
        for kind, body in self._records.feed(data):
            if kind == records.MESSAGE:
                urgent = self._on_request(body) or urgent
            elif kind in (records.FILE, records.DATA, records.END):
                self._files.receive(kind, body)
            elif kind == records.DRAINED:
                self.is_drained = True
            elif kind == records.BYE:
                self._flush()
                self.close("")
        self._flush()
        if self._service is not None and self._service.get_write_buffer_size() <= _WAITING_BYTES:
            self.stream.consume(len(data))
        else:
            self._unconsumed += len(data)
        return urgent

    def _on_request(self, message: bytes) -> bool:
        """Let a message through, or not; return True if its answer is waited for."""
        if self.is_over:
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

    def _refuse(self, message: bytes, verdict: Any) -> None:
        answer = wandb_requests.refusal(message, verdict.reason)
        if answer is not None:
            self.stream.write(records.encode(records.MESSAGE, answer))
        else:
            self._say_refused(verdict.reason, verdict.is_waited_for)

    def _say_refused(self, why: str, is_waited_for: bool = False) -> None:
        body = (b"\1" if is_waited_for else b"\0") + why.encode("utf-8", "replace")
        self.stream.write(records.encode(records.REFUSED, body))

    def _flush(self) -> None:
        """Send what was let through, all at once: each write is a call of the kernel's."""
        if self._waiting and self._service is not None:
            self._service.write(b"".join(self._waiting))
            self._waiting.clear()

    # --- the service ----------------------------------------------------------

    def begin(self) -> None:
        """Begin to connect to the service."""
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        loop = event_loop.get()
        match = re.fullmatch(SERVICE, self._run.service)
        try:
            if match is None:
                raise OSError(f"WANDB_SERVICE={self._run.service} has no known form")
            unix, path, host, port = match.groups()
            if unix:
                connecting = loop.create_unix_connection(lambda: _Service(self), path)
            else:
                connecting = loop.create_connection(lambda: _Service(self), host, int(port))
            self._service, _ = await connecting
        except OSError as error:
            self.close(f"W&B's service can't be reached by its owner: {error}")
            return
        self._flush()
        self.on_service_ready()
        if self.is_over:  # its worker has left meanwhile
            self._service.close()

    def on_service_ready(self) -> None:
        """Go on reading: the service has taken what waited."""
        count, self._unconsumed = self._unconsumed, 0
        self.stream.consume(count)

    def on_response(self, data: bytes) -> None:
        """Pass on what the service answers, without what is the owner's own."""
        for message in self._responses.feed(data):
            clean = wandb_responses.clean_response(message)
            self.stream.write(records.encode(records.MESSAGE, clean))
        if self.stream.is_full:
            self._service.pause_reading()

    def _on_room(self) -> None:
        if self._service is not None and not self.stream.is_full:
            with contextlib.suppress(RuntimeError):  # it was not paused
                self._service.resume_reading()

    def on_service_lost(self) -> None:
        """React to the end of the connection to the service."""
        self.close("W&B's service has ended")

    # --- the end --------------------------------------------------------------

    def drain(self) -> None:
        """Ask the worker for what it has logged."""
        if not self.is_over and not self._is_asked:
            self._is_asked = True
            self.stream.write(records.encode(records.DRAIN))

    def is_waited_for(self, now: float) -> bool:
        """Return True if a run that ends has to wait for it."""
        if self.is_over or self.is_drained:
            return False
        if self.stream.carrier is None and not self.has_unanswered:
            return False  # all that it has logged was answered for, and then it went
        return self.stream.carrier is not None or now < self.stream.lost_at + _LOST_SECONDS

    def close(self, why: str) -> None:
        """Take nothing more; tell the worker why."""
        if self.is_over:
            return
        self.is_over = True
        self.stream.write(records.encode(records.CLOSED, why.encode()))
        if self._service is not None:
            self._service.close()
        self._files.close()
        self._run.has_ended(self)


class _Service(asyncio.Protocol):
    """The connection to W&B's service."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._descriptor = -1

    def connection_made(self, transport: Any) -> None:
        transport.set_write_buffer_limits(high=_WAITING_BYTES)
        self._descriptor = event_loop.keep_out_of_forks(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        try:
            self._session.on_response(data)
        except Exception as error:
            self._session.close(f"an answer of W&B's service is not understood: {error}")

    def resume_writing(self) -> None:
        self._session.on_service_ready()

    def connection_lost(self, error: Optional[Exception]) -> None:
        event_loop.forget(self._descriptor)
        self._session.on_service_lost()


class SharedRun:
    """A run that is open to workers elsewhere.

    Args:
        name: What workers call it, 16 bytes.
        token: What they hold.
        id, entity, project: The run's, as W&B's service knows it.
        service: The value of WANDB_SERVICE.
        files_dir: The folder of the run's files.
    """

    def __init__(
        self, name: bytes, token: bytes, about: Tuple[str, str, str], service: str, files_dir: str
    ) -> None:
        self.name, self.token = name, token
        self.id, self.entity, self.project = about
        self.service, self.files_dir = service, files_dir
        self.sessions: Dict[bytes, Session] = {}
        self.is_ending = self.is_over = False
        self._gone: Deque[Tuple[float, bytes]] = collections.deque()

    def open_stream(self, id: bytes) -> Stream:
        """Return a worker's stream: the one of before, where it is known."""
        now = time.monotonic()
        while self._gone and self._gone[0][0] < now:
            self.sessions.pop(self._gone.popleft()[1], None)
        session = self.sessions.get(id)
        if session is None:
            session = self.sessions[id] = Session(self, id)
            if self.is_over:
                session.close(FINISHED)
            else:
                session.begin()
                if self.is_ending:
                    session.drain()
        return session.stream

    def waited_for(self) -> List[Session]:
        """Return the sessions that a run which ends has to wait for."""
        now = time.monotonic()
        return [session for session in self.sessions.values() if session.is_waited_for(now)]

    def has_ended(self, session: Session) -> None:
        """Note that nothing more comes of a session; it is kept for who did not hear of it."""
        self._gone.append((time.monotonic() + _GONE_SECONDS, session.stream.id))


class Gateway:
    """All that this process shares with workers elsewhere.

    Raises:
        TlsUnavailableError: This Python's OpenSSL does not offer what is needed.
    """

    def __init__(self) -> None:
        self.runs: Dict[bytes, SharedRun] = {}
        self._server = Server(listeners.raise_fd_limit)

    # --- for any thread -------------------------------------------------------

    def listen(self, listener: Any) -> None:
        """Hear workers at a socket that is bound."""
        self._server.listen(listener)

    def open(self, run: SharedRun) -> None:
        """Let workers of a run in."""
        self.runs[run.name] = run
        self._server.add(run.name, run.token, run.open_stream)

    def end(self, run: SharedRun) -> int:
        """End a run for its workers, after all that they have logged so far has arrived.

        Returns:
            The number of workers that have not said whether that is all.
        """
        if run.is_over:
            return 0
        ending = asyncio.run_coroutine_threadsafe(self._end(run), event_loop.get())
        return ending.result(2 * _CONNECTED_SECONDS)

    # --- for the loop's thread ------------------------------------------------

    async def _end(self, run: SharedRun) -> int:
        run.is_ending = True
        begun = time.monotonic()
        for session in list(run.sessions.values()):
            session.drain()
        await asyncio.sleep(_TICK_SECONDS)  # so that who waits to be accepted is
        while time.monotonic() < begun + _CONNECTED_SECONDS:
            connecting = self._server.has_strangers_since(begun - _CONNECTING_SECONDS)
            late = time.monotonic() > begun + _CONNECTING_SECONDS
            if not run.waited_for() and (late or not connecting):
                break
            await asyncio.sleep(_TICK_SECONDS)
        silent = len(run.waited_for())
        run.is_over = True
        for session in list(run.sessions.values()):
            session.close(FINISHED)
        await asyncio.sleep(_TICK_SECONDS)  # until they are told, before this process ends
        event_loop.get().call_later(_GONE_SECONDS, self._forget, run)
        return silent

    def _forget(self, run: SharedRun) -> None:
        self.runs.pop(run.name, None)
        self._server.remove(run.name)
