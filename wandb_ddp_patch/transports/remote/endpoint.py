"""The worker's end of tunnels: a local socket at which wandb's client finds "the service".

Each connection of the client's goes on by a tunnel of its own to the process that owns the
run. Everything here is done by the thread of the tunnel's event loop, unless it is said to be
for any thread.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from typing import Callable, Deque, List, Optional, Tuple

from ... import _lifecycle
from ...errors import RunUnreachableError
from ...runs.payload_format import Share
from ...tunnel import event_loop
from ...tunnel.client import Client, RefusedError, TunnelError, UnknownError
from ...tunnel.stream import ID_BYTES
from ...tunnel.tls import ProtocolError
from . import records, sent_files, wandb_protocol, wandb_responses
from .session import Session

# What the tunnel can't know: why nobody is at the address, or somebody else.
_GUESSES = {
    RefusedError: (
        "the process that called wandb.init() may have ended, or may have another address"
    ),
    UnknownError: "the payload is probably from an earlier run, so pass the run on again",
}
# When a user is told that this process still tries to connect: packets that a firewall drops
# look like an owner that is stopped, which is waited for.
_NOTICE_SECONDS = 10.0
# WANDB_SERVICE of the owner's, as far as a worker's has the same.
_SERVICE = r"(\d+)-(\d+)-(unix|\w+)-.+"
# Longer names of sockets do not fit into the kernel's structure; folders that may be shorter
# than the temporary one.
_LONGEST_NAME, _SHORT_FOLDERS = 100, ("/tmp", "/var/tmp", "/dev/shm")
# How many messages may wait behind one whose files are being sent.
_WAITING_MESSAGES = 10_000
_FULL_SECONDS = 0.01
# How long rows accumulate before they are read: each time the loop's thread wakes, this process's
# training step waits for it. But what waits is lost where this process is killed: so not for long.
_PAUSE_SECONDS = 0.005
_LOOK_SECONDS = 0.002
_RETRY_SECONDS = 0.05


class Endpoint:
    """A local socket that speaks W&B's protocol, and leads to a run's owner.

    Args:
        share: Address and token, as payloads carry them.
        name: What identifies the run, 16 bytes.
        service: The owner's WANDB_SERVICE: a worker's has the same form.
        timeout: Seconds that the owner is waited for while it can't be reached.

    Attributes:
        address, name, token: Where the owner listens, and for what.
        wait_until_sent: Called, in a thread of its own, when the owner is about to end the
            run: returns True once the service has all that was logged, False if that can't be had.
        service: The value of WANDB_SERVICE by which this process attaches.
        folder: What belongs to this endpoint, and goes with it.
        files_dir: The folder of the run's files in this process.
        why: Why the run can't be reached any more, or None.
        drained_at: Until when, by the monotonic clock, all that was logged is in the run; else 0.
        refusals: What the owner has said of messages that nobody waited for.
    """

    def __init__(self, share: Share, name: bytes, service: str, timeout: float) -> None:
        self.address = share["host"], share["port"]
        self.token = share["token"]
        self.name, self.timeout = name, timeout
        self.wait_until_sent: Callable[[], bool] = lambda: True
        self.folder = self.files_dir = tempfile.mkdtemp(prefix="wandb_ddp_patch-worker-")
        self._folders = [self.folder]
        self.service, self._listener = self._bind(service)
        self.why: Optional[str] = None
        self.drained_at, self._missing = 0.0, 0
        self.refusals: Deque[str] = collections.deque()
        self._sessions: List[WorkerSession] = []
        self._ready: Optional[WorkerSession] = None  # connected, and not used yet
        self._accepting: Optional[asyncio.Future[None]] = None

    # --- for any thread -------------------------------------------------------

    def open(self) -> None:
        """Connect to the owner, and listen; warn where that takes long.

        Raises:
            RunUnreachableError: The owner can't be reached; why.
        """
        try:
            loop = event_loop.get()
        except RuntimeError as error:
            self._listener.close()
            self._remove_folders()
            raise RunUnreachableError(f"no thread can be started for it: {error}") from None
        opening = asyncio.run_coroutine_threadsafe(self._open(), loop)
        try:
            if concurrent.futures.wait([opening], _NOTICE_SECONDS).not_done:
                _lifecycle.termwarn(
                    "Waiting for an answer from the run's owner at %s, port %d, for up to %.0f s: a"
                    " firewall may block the connection." % (*self.address, self.timeout)
                )
            opening.result()
        except BaseException:
            self.close()
            raise

    def close(self, seconds: float = 0.0) -> None:
        """Say goodbye, and let go of everything.

        Args:
            seconds: How long to wait until the owner has heard that.
        """
        asyncio.run_coroutine_threadsafe(self._close(), event_loop.get())
        deadline = time.monotonic() + seconds
        try:
            while self._sessions and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
        finally:
            if seconds:  # the loop's thread, which may still need them, ends with this process
                self._remove_folders()

    def is_there(self) -> bool:
        """Return True if wandb's client can connect: a cleaner may have removed the socket."""
        path = self.service.partition("-unix-")[2]
        return self.why is None and (not path or os.path.exists(path))

    def unacknowledged(self) -> int:
        """Return the number of messages that the owner has not acknowledged."""
        if self.why is not None:
            return self._missing  # as it was then: the sessions are closed since
        return sum(session.unacknowledged() for session in list(self._sessions))

    # --- for the loop's thread ------------------------------------------------

    def _bind(self, service: str) -> Tuple[str, socket.socket]:
        match = re.fullmatch(_SERVICE, service)
        version, pid, kind = match.groups() if match else ("2", str(os.getpid()), "tcp")
        if kind == "unix" and hasattr(socket, "AF_UNIX"):
            path = self._path_of_socket()
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            return f"{version}-{pid}-unix-{path}", listener
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        return f"{version}-{pid}-tcp-localhost-{listener.getsockname()[1]}", listener

    def _path_of_socket(self) -> str:
        """Return a path in a folder that only this user may enter."""
        path = os.path.join(self.folder, "s")
        for folder in _SHORT_FOLDERS:
            if len(os.fsencode(path)) <= _LONGEST_NAME:
                break
            with contextlib.suppress(OSError):
                self._folders.append(tempfile.mkdtemp(prefix="wddp-", dir=folder))
                path = os.path.join(self._folders[-1], "s")
        return path

    async def _open(self) -> None:
        # A connection to the owner is made before anybody asks for one: so an owner that can't be
        # reached is an error here, which says why, and not one of wandb's that says nothing.
        session = self._ready = self._new_session()
        await session.connected.wait()
        if self.why is not None:
            raise RunUnreachableError(self.why)
        self._listener.listen(64)
        self._listener.setblocking(False)
        event_loop.keep_out_of_forks(self._listener)
        self._accepting = asyncio.ensure_future(self._accept())

    async def _accept(self) -> None:
        loop = event_loop.get()
        while True:
            try:
                local, address = await loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(_RETRY_SECONDS)  # no descriptors are left
                continue
            if self.why is not None or not _is_of_this_user(local, address):
                local.close()
                continue
            await self._serve(local)

    async def _serve(self, local: socket.socket) -> None:
        session, self._ready = self._ready or self._new_session(), None
        try:
            await event_loop.get().connect_accepted_socket(lambda: session, local)
        except Exception:
            local.close()
            session.close()

    def _new_session(self) -> WorkerSession:
        session = WorkerSession(self)
        self._sessions.append(session)
        session.start()
        return session

    def forget(self, session: WorkerSession) -> None:
        """Note that a session is closed."""
        if session in self._sessions:
            self._sessions.remove(session)

    def end(self, why: str) -> None:
        """Note that the run can't be reached any more, and close the client's connections."""
        if self.why is None:
            # Both at once: what is missing is what the owner did not have when this was learned.
            self.why, self._missing = why, self.unacknowledged()
        for session in list(self._sessions):
            session.connected.set()
            session.close_connection()

    async def _close(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
        event_loop.forget(self._listener.fileno())
        self._listener.close()
        for session in list(self._sessions):
            session.say_goodbye()
        while any(session.has_waiting for session in self._sessions):
            await asyncio.sleep(_FULL_SECONDS)  # for files of which some are in our folder
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def drain(self, done: Callable[[], None]) -> None:
        """Have all that was logged sent, then call ``done`` in the loop's thread.

        In a thread of its own: it waits for wandb's client, whose bytes the loop's thread moves.
        Where it is not known to have arrived, nothing is called: the owner, who waits as long as
        for one that is silent, must not take it for complete.
        """

        def work() -> None:
            begun = time.monotonic()
            with contextlib.suppress(Exception):
                if self.wait_until_sent():
                    # Not now: what was logged meanwhile may still wait behind a file.
                    self.drained_at = max(begun, self.drained_at)
                    event_loop.get().call_soon_threadsafe(done)

        # Either this process ends, and says goodbye after its last rows, or it has too many threads
        # to ask whether they are there.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=work, name="wandb_ddp_patch", daemon=True).start()


class WorkerSession(Session):
    """A connection of wandb's client, and the tunnel by which it goes on.

    Attributes:
        connected: Set once the tunnel is connected, or can't be.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(os.urandom(ID_BYTES))
        self._endpoint = endpoint
        self.connected = asyncio.Event()
        self._client = Client(
            self.stream,
            endpoint.address,
            endpoint.name,
            endpoint.token,
            endpoint.timeout,
            self._on_end,
            self.connected.set,
        )
        # Messages that come after one whose files are being sent: they must not overtake it.
        self._waiting: Deque[bytes] = collections.deque()
        self._sending: Optional[asyncio.Future[None]] = None
        # Positions in the stream at which messages end that are not acknowledged.
        self._ends: Deque[int] = collections.deque()
        self._is_leaving = self._is_closed = False

    @property
    def has_waiting(self) -> bool:
        """Whether messages wait until files have been sent."""
        return bool(self._waiting)

    def start(self) -> None:
        """Begin to connect to the owner."""
        self._client.start()

    def unacknowledged(self) -> int:
        """Return the number of messages that the owner has not acknowledged."""
        return len(self._ends) + len(self._waiting)

    # --- the tunnel -----------------------------------------------------------

    def _on_end(self, error: TunnelError) -> None:
        guesses = [guess for kind, guess in _GUESSES.items() if isinstance(error, kind)]
        self._endpoint.end(": ".join([str(error), *guesses]))

    def on_stream_data(self, data: bytes) -> bool:
        for kind, body in self._records.feed(data):
            if kind == records.MESSAGE:
                self._on_response(body)
            elif kind == records.DRAIN:
                self._endpoint.drain(self._on_drained)
            elif kind == records.REFUSED:
                why = body[1:].decode("utf-8", "replace")
                if body[:1] == b"\1":
                    # The client waits for an answer, and there is none that says no: else it
                    # would wait for ever.
                    self._endpoint.end(why)
                else:
                    self._endpoint.refusals.append(why)
            elif kind == records.CLOSED:
                self._on_closed(body.decode("utf-8", "replace"))
        self.stream.consume(len(data))
        return True

    def _on_response(self, message: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            message = wandb_responses.localize_settings(message, self._endpoint.folder)
            self.transport.write(wandb_protocol.frame(message))

    def _on_drained(self) -> None:
        self.send_record(records.DRAINED)

    def _on_closed(self, why: str) -> None:
        if why:
            self._endpoint.end(why)
        self.close()
        if why:  # else this process ends, or its client has gone
            self.close_connection()

    # --- wandb's client -------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        try:
            if not self._on_requests(data):
                event_loop.pause(_PAUSE_SECONDS)
        except ProtocolError:
            if self.transport is not None:
                self.transport.abort()

    def _on_requests(self, data: bytes) -> bool:
        """Send what the client says; return True if it waits for an answer."""
        is_urgent = False
        at_once = not self._waiting and self._sending is None
        sent: List[bytes] = []
        for message in self._messages.feed(data):
            request = wandb_protocol.parse_request(message)
            if not wandb_protocol.is_plain_row(request):
                is_urgent = is_urgent or wandb_protocol.is_waited_for(request)
                at_once = at_once and not sent_files.has_files(request)
            (sent if at_once else self._waiting).append(message)
        self._send(sent)
        self._resume()
        self.pause_reading_if(self.stream.is_full or len(self._waiting) > _WAITING_MESSAGES)
        return is_urgent

    def _send(self, messages: List[bytes]) -> None:
        position = self.stream.outbox.acknowledged + len(self.stream.outbox)
        encoded = [records.encode(records.MESSAGE, message) for message in messages]
        for each in encoded:
            position += len(each)
            self._ends.append(position)
        self.stream.write(b"".join(encoded))

    async def _send_with_files(self) -> None:
        """Send the messages that wait, each after the files that it names."""
        try:
            while self._waiting:
                message, files = sent_files.prepare(self._waiting[0], self._endpoint.files_dir)
                for file in files:
                    await self._send_file(file)
                self._send([message])
                self._waiting.popleft()
        except (OSError, ProtocolError) as error:
            self._endpoint.refusals.append(f"files can't be sent to the run's owner: {error}")
            self._waiting.popleft()
        finally:
            self._sending = None
            self._resume()

    async def _send_file(self, file: sent_files.SentFile) -> None:
        try:
            for record in file.records():
                while self.stream.is_full and self._endpoint.why is None:
                    await asyncio.sleep(_FULL_SECONDS)
                self.stream.write(record)
        except OSError as error:  # it costs this file: it was removed meanwhile, say
            self._endpoint.refusals.append(f"{file.path} can't be sent to the run's owner: {error}")

    def _resume(self) -> None:
        if self._waiting and self._sending is None:
            self._sending = asyncio.ensure_future(self._send_with_files())
        if self._is_leaving and not self._waiting and not self._is_closed:
            self._is_closed = True
            self.send_record(records.BYE)  # behind all the rest: after it, nothing is accepted
        self.on_room()

    def on_room(self) -> None:
        position = self.stream.outbox.acknowledged
        while self._ends and self._ends[0] <= position:
            self._ends.popleft()
        if not self._waiting:
            super().on_room()

    def connection_lost(self, error: Optional[Exception]) -> None:
        super().connection_lost(error)
        self.say_goodbye()

    # --- the end --------------------------------------------------------------

    def close_connection(self) -> None:
        """Have the client see that nothing more comes."""
        if self.transport is not None:
            self.transport.close()

    def say_goodbye(self) -> None:
        """Send what is left, and tell the owner that nothing more comes."""
        if self._endpoint.why is not None:
            self.close()  # nobody is there to hear it
        elif not self._is_closed:
            self._is_leaving = True
            self._resume()

    def close(self) -> None:
        """Close the tunnel at once."""
        self._is_closed = True
        self._client.close()
        self._endpoint.forget(self)


def _is_of_this_user(local: socket.socket, address: Tuple[str, int]) -> bool:
    """Return True if a process of this user has connected, as far as that can be told.

    Releases that read no path from WANDB_SERVICE connect to a port of this machine's, which
    every user can do. A path lies in a folder that only this user may enter.
    """
    if sys.platform != "linux" or local.family != socket.AF_INET:
        return True
    theirs, ours = (f":{port:04X}" for port in (address[1], local.getsockname()[1]))
    with contextlib.suppress(OSError), open("/proc/net/tcp") as file:
        for line in file:
            columns = line.split()
            if columns[1].endswith(theirs) and columns[2].endswith(ours):
                return int(columns[7]) in (os.geteuid(), 0)
    return False
