"""The worker's end of tunnels: a local socket at which wandb's client finds "the service".

Each connection of the client's goes on by a tunnel of its own to the process that owns the
run. Everything here is done by the thread of the tunnel's event loop, but for what is said to
be for any thread.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import os
import re
import shutil
import socket
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Deque, List, Optional, Tuple

from ...errors import RunUnreachableError
from ...runs.payload_format import Share
from ...tunnel import event_loop
from ...tunnel.client import Client, RefusedError, TunnelError
from ...tunnel.stream import ID_BYTES, Stream
from . import records, sent_files, wandb_protocol, wandb_responses

GONE = "the process that called wandb.init() may have ended, or is reached by another address"
# WANDB_SERVICE of the owner's, as far as a worker's takes it over.
_SERVICE = r"(\d+)-(\d+)-(unix|\w+)-.+"
# Longer names of sockets do not fit into the kernel's structure; folders that may be shorter
# than the temporary one.
_LONGEST_NAME, _SHORT_FOLDERS = 100, ("/tmp", "/var/tmp", "/dev/shm")
# A local socket's buffer, and what waits here of it.
_MESSAGES = 10_000
_FULL_SECONDS = 0.01
# How long rows come together. What waits is lost where this process is killed: not for long.
_PAUSE_SECONDS = 0.005
_LOOK_SECONDS = 0.002


class Endpoint:
    """A local socket that speaks W&B's protocol, and leads to a run's owner.

    Args:
        share: Address and token, as payloads carry them.
        name: What identifies the run, 16 bytes.
        service: The owner's WANDB_SERVICE: a worker's has the same form.
        timeout: Seconds that the owner is waited for while it can't be reached.

    Attributes:
        wait_until_sent: Called, in a thread of its own, when the owner is about to end the
            run: returns once the service has all that was logged.
        service: The value of WANDB_SERVICE by which this process attaches.
        files_dir: The folder of the run's files in this process.
        why: Why the run can't be reached any more, or None.
        drained_at: When all that was logged was in the run, by the monotonic clock.
    """

    def __init__(self, share: Share, name: bytes, service: str, timeout: float) -> None:
        self._address = share["host"], share["port"]
        self._name, self._token, self.timeout = name, share["token"], timeout
        self.wait_until_sent: Callable[[], None] = lambda: None
        self.folder = self.files_dir = tempfile.mkdtemp(prefix="wandb_ddp_patch-worker-")
        self._folders = [self.folder]
        self.service, self._listener = self._bind(service)
        self.why: Optional[str] = None
        self.drained_at, self._missing = 0.0, 0
        self.refusals: Deque[str] = collections.deque()
        self._links: List[Link] = []
        self._ready: Optional[Link] = None  # connected, and not used yet
        self._task: Any = None

    # --- for any thread -------------------------------------------------------

    def open(self) -> None:
        """Connect to the owner, and listen.

        Raises:
            Unreachable: The owner can't be reached; why.
        """
        opening = asyncio.run_coroutine_threadsafe(self._open(), event_loop.get())
        try:
            opening.result()
        except BaseException:
            self.close()
            raise

    def close(self, seconds: float = 0.0) -> None:
        """Say goodbye, and let go of everything.

        Args:
            seconds: How long to wait until the owner has heard that.
        """
        event_loop.get().call_soon_threadsafe(self._close)
        deadline = time.monotonic() + seconds
        while self._links and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def is_there(self) -> bool:
        """Return True if wandb's client can connect: a cleaner may have removed the socket."""
        path = self.service.partition("-unix-")[2]
        return self.why is None and (not path or os.path.exists(path))

    def unacknowledged(self) -> int:
        """Return how many messages the owner has not said to have."""
        if self.why is not None:
            return self._missing
        return sum(link.unacknowledged() for link in list(self._links))

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
        link = self._ready = self._add()
        await link.connected.wait()
        if self.why is not None:
            raise RunUnreachableError(self.why)
        self._listener.listen(64)
        self._listener.setblocking(False)
        event_loop.keep_out_of_forks(self._listener)
        self._task = asyncio.ensure_future(self._accept())

    async def _accept(self) -> None:
        loop = event_loop.get()
        while True:
            try:
                local, peer = await loop.sock_accept(self._listener)
            except OSError:
                await asyncio.sleep(0.05)  # no descriptors are left
                continue
            if self.why is not None or not _is_own(local, peer):
                local.close()
                continue
            link = self._take()
            try:
                await loop.connect_accepted_socket(functools.partial(_Local, link), local)
            except Exception:
                local.close()
                link.close()

    def _add(self) -> Link:
        link = Link(self)
        self._links.append(link)
        link.start()
        return link

    def _take(self) -> Link:
        link, self._ready = self._ready or self._add(), None
        return link

    def forget(self, link: Link) -> None:
        if link in self._links:
            self._links.remove(link)

    def end(self, why: str) -> None:
        """Note that the run can't be reached any more, and let go of the client's connections."""
        if self.why is None:
            self.why, self._missing = why, self.unacknowledged()
        for link in list(self._links):
            link.connected.set()
            link.end_local()

    def _close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        event_loop.forget(self._listener.fileno())
        self._listener.close()
        for link in list(self._links):
            link.say_goodbye()
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def drain(self, done: Callable[[], None]) -> None:
        """Have all that was logged sent, by a thread of its own, which may have to wait."""

        def work() -> None:
            with contextlib.suppress(Exception):  # the owner waits, whatever happens
                self.wait_until_sent()
            self.drained_at = time.monotonic()
            event_loop.get().call_soon_threadsafe(done)

        try:
            threading.Thread(target=work, name="wandb_ddp_patch", daemon=True).start()
        except RuntimeError:  # none can be had: this process ends
            done()


class Link:
    """A connection of wandb's client, and the tunnel by which it goes on."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.stream = Stream(os.urandom(ID_BYTES), self._receive)
        self.stream.on_room = self._on_room
        self._client = Client(
            self.stream,
            endpoint._address,
            endpoint._name,
            endpoint._token,
            endpoint.timeout,
            self._on_end,
            self._on_connected,
        )
        self.connected = asyncio.Event()
        self._records = records.Decoder()
        self._requests = wandb_protocol.Splitter()
        self._local: Any = None
        self._waiting: Deque[bytes] = collections.deque()
        self._sending: Any = None
        self._ends: Deque[int] = collections.deque()  # positions at which messages end
        self._is_closed = False

    def start(self) -> None:
        self._client.start()

    def unacknowledged(self) -> int:
        return len(self._ends) + len(self._waiting)

    # --- the tunnel -----------------------------------------------------------

    def _on_connected(self) -> None:
        self.connected.set()

    def _on_end(self, error: TunnelError) -> None:
        gone = f": {GONE}" if isinstance(error, RefusedError) else ""
        self._endpoint.end(f"{error}{gone}")

    def _receive(self, data: bytes) -> bool:
        for kind, body in self._records.feed(data):
            if kind == records.MESSAGE:
                if self._local is not None:
                    body = wandb_responses.localize_settings(body, self._endpoint.folder)
                    self._local.write(wandb_protocol.frame(body))
            elif kind == records.DRAIN:
                self._endpoint.drain(self._drained)
            elif kind == records.REFUSED:
                why = body[1:].decode("utf-8", "replace")
                if body[:1] == b"\1":
                    self._endpoint.end(why)  # else the client would wait for ever
                else:
                    self._endpoint.refusals.append(why)
            elif kind == records.CLOSED:
                self._closed(body.decode("utf-8", "replace"))
        self.stream.consume(len(data))
        return True

    def _drained(self) -> None:
        self.stream.write(records.encode(records.DRAINED))

    def _closed(self, why: str) -> None:
        self._is_closed = True
        self._client.close()
        if why:
            self._endpoint.end(why)
        self._endpoint.forget(self)
        if why:  # else this process ends, or its client has gone
            self.end_local()

    # --- wandb's client -------------------------------------------------------

    def on_local(self, transport: Any) -> None:
        self._local = transport

    def on_requests(self, data: bytes) -> bool:
        """Send what the client says; return True if it waits for an answer."""
        urgent = False
        at_once = not self._waiting and self._sending is None
        sent: List[bytes] = []
        for message in self._requests.feed(data):
            request = wandb_protocol.parse_request(message)
            if not wandb_protocol.is_plain_row(request):
                urgent = urgent or wandb_protocol.is_waited_for(request)
                at_once = at_once and not sent_files.has_files(request)
            (sent if at_once else self._waiting).append(message)
        self._send(sent)
        self._resume()
        if self.stream.is_full or len(self._waiting) > _MESSAGES:
            self._local.pause_reading()
        return urgent

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
                    await self._send_file(*file)
                self._send([message])
                self._waiting.popleft()
        except (OSError, wandb_protocol.ProtocolError) as error:
            self._endpoint.refusals.append(f"files can't be sent to the run's owner: {error}")
            self._waiting.popleft()
        finally:
            self._sending = None
            self._resume()

    async def _send_file(self, kind: bytes, name: str, path: str) -> None:
        try:
            for record in sent_files.read(kind, name, path):
                while self.stream.is_full and self._endpoint.why is None:
                    await asyncio.sleep(_FULL_SECONDS)
                self.stream.write(record)
        except OSError as error:  # it costs this file: it was removed meanwhile, say
            self._endpoint.refusals.append(f"{path} can't be sent to the run's owner: {error}")

    def _resume(self) -> None:
        if self._waiting and self._sending is None:
            self._sending = asyncio.ensure_future(self._send_with_files())
        self._on_room()

    def _on_room(self) -> None:
        position = self.stream.outbox.acknowledged
        while self._ends and self._ends[0] <= position:
            self._ends.popleft()
        if self._local is not None and not self.stream.is_full and not self._waiting:
            with contextlib.suppress(RuntimeError):  # it was not paused
                self._local.resume_reading()

    def on_local_lost(self) -> None:
        self._local = None
        self.say_goodbye()

    def end_local(self) -> None:
        """Have the client see that nothing more comes."""
        if self._local is not None:
            self._local.close()

    def say_goodbye(self) -> None:
        """Send what is left, and tell the owner that nothing more comes."""
        if self._endpoint.why is not None:
            self.close()  # nobody is there to hear it
        elif not self._is_closed:
            self._is_closed = True
            self.stream.write(records.encode(records.BYE))

    def close(self) -> None:
        self._is_closed = True
        self._client.close()
        self._endpoint.forget(self)


class _Local(asyncio.Protocol):
    """A connection of wandb's client."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._transport: Any = None
        self._descriptor = -1

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._descriptor = event_loop.keep_out_of_forks(transport.get_extra_info("socket"))
        self._link.on_local(transport)

    def data_received(self, data: bytes) -> None:
        try:
            if not self._link.on_requests(data):
                event_loop.pause(_PAUSE_SECONDS)
        except wandb_protocol.ProtocolError:
            self._transport.abort()

    def connection_lost(self, error: Optional[Exception]) -> None:
        event_loop.forget(self._descriptor)
        self._link.on_local_lost()


def _is_own(local: socket.socket, peer: Any) -> bool:
    """Return True if a process of this user has connected, as far as that can be told.

    Releases that read no path from WANDB_SERVICE connect to a port of this machine's, which
    every user can do. A path lies in a folder that only this user may enter.
    """
    if sys.platform != "linux" or local.family != socket.AF_INET:
        return True
    theirs, ours = (f":{port:04X}" for port in (peer[1], local.getsockname()[1]))
    with contextlib.suppress(OSError), open("/proc/net/tcp") as file:
        for line in file:
            columns = line.split()
            if columns[1].endswith(theirs) and columns[2].endswith(ours):
                return int(columns[7]) in (os.geteuid(), 0)
    return False
