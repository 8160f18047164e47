"""Where workers from other machines are heard: one thread, whatever their number."""

from __future__ import annotations

import collections
import contextlib
import selectors
import socket
import sys
import threading
import time
from typing import Any, Callable, Deque, Dict, Set

from . import doors
from .crew import Crew
from .peer import Peer
from .session import Session
from .shared import SharedRun

# Strangers: so many at a time, and so long to prove that they are none. Where there are
# more, the first ones go, unless they have just come.
_STRANGERS, _PROOF_SECONDS, _JUST_SECONDS = 256, 5.0, 1.0
_BACKLOG = 1024
# Windows' select() takes 512 sockets, and fails with more. The others wait in the line.
_MOST = 500 if sys.platform == "win32" else sys.maxsize
_FULL = "500 workers are connected, as many as Windows allows: others wait until one leaves."
# How long the thread lets rows come together while nobody waits: each time it wakes, the
# owner's own threads wait for it. Not where so many bytes have come: they are together.
_PAUSE_SECONDS, _MANY_BYTES = 0.005, 2048
# How late workers may hear of what was made, while they do not ask.
_TELL_SECONDS = 0.05
_TICK_SECONDS = 0.05


class Hub:
    """Hears workers and makes their calls.

    Attributes:
        runs: The runs that are open, by what workers call them.
    """

    def __init__(self) -> None:
        self.runs: Dict[bytes, SharedRun] = {}
        self._crew = Crew()
        self._selector = selectors.DefaultSelector()
        self._doors: Set[socket.socket] = set()
        self._peers: Set[Peer] = set()
        self._strangers: Dict[Peer, None] = {}
        self._owed: Dict[Peer, float] = {}
        self._commands: Deque[Callable[[], None]] = collections.deque()
        self._wakes, self._wakened = socket.socketpair()
        self._wakes.setblocking(False)
        self._wakened.setblocking(False)
        self._selector.register(self._wakened, selectors.EVENT_READ)
        self._shut = 0.0
        self._asked = False
        threading.Thread(target=self._run, name="wandb_ddp_patch", daemon=True).start()

    # --- for any thread -------------------------------------------------------

    def soon(self, command: Callable[[], None]) -> None:
        """Have the hub's thread do something."""
        self._commands.append(command)
        with contextlib.suppress(BlockingIOError):  # it has been told
            self._wakes.send(b"\0")

    def open(self, door: socket.socket) -> None:
        """Listen at a socket that is bound."""
        door.listen(_BACKLOG)
        door.setblocking(False)
        self._doors.add(door)
        self.soon(lambda: self._listen(door, True))

    def end(self, run: SharedRun) -> int:
        """End a run, after all that its workers have logged so far has been made.

        Returns:
            The number of workers that have not said whether that is all.
        """
        self.soon(run.begin_to_end)
        run.ended.wait(60)
        return run.silent

    def close(self) -> None:
        """Let go of all sockets, without a word: they are another process's."""
        self._selector.close()
        for opened in [self._wakes, self._wakened, *self._doors]:
            opened.close()
        for peer in self._peers:
            peer.connection.close()

    # --- for its own ----------------------------------------------------------

    def admit(self, peer: Peer, run: SharedRun, name: bytes) -> Session:
        """Take in a worker that has proven itself."""
        self._strangers.pop(peer, None)
        session = run.sessions.get(name)
        if session is None:
            session = Session(run.key, self._crew, self.soon)
            session.over = run.over
            run.add(name, session)
        elif session.peer is not None:
            self._drop(session.peer)
        run.tell(session)
        session.peer = peer
        return session

    def owes(self, peer: Peer) -> None:
        """Have a worker told, a little later, what was made."""
        self._owed.setdefault(peer, time.monotonic() + _TELL_SECONDS)

    def watch(self, peer: Peer) -> None:
        """Watch for what a connection is ready for now."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.writes else 0)
        if peer in self._peers:
            self._selector.modify(peer.connection, events, peer)

    def _drop(self, peer: Peer) -> None:
        if peer not in self._peers:
            return
        self._peers.discard(peer)
        self._strangers.pop(peer, None)
        self._owed.pop(peer, None)
        self._selector.unregister(peer.connection)
        peer.connection.close()
        peer.is_lost()

    # --- the thread -----------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                self._round()
            except Exception:
                if self._selector.get_map() is None:  # closed
                    return
                time.sleep(_TICK_SECONDS)  # whatever it was, the others go on

    def _round(self) -> None:
        self._asked = bool(self._commands)
        events = self._selector.select(self._timeout())
        for key, ready in events:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    self._wakened.recv(4096)
                self._asked = True
            elif isinstance(key.data, Peer):
                self._serve(key.data, ready)
            else:
                self._accept(key.data)
        while self._commands:
            self._commands.popleft()()
        self._look_around()
        if events and not self._asked:
            time.sleep(_PAUSE_SECONDS)

    def _serve(self, peer: Peer, ready: int) -> None:
        try:
            if ready & selectors.EVENT_WRITE:
                peer.write()
            if ready & selectors.EVENT_READ:
                many = peer.read() > _MANY_BYTES
                self._asked = self._asked or peer.urgent or many
        except Exception:  # it has gone, or is a stranger
            self._drop(peer)

    def _timeout(self) -> Any:
        if self._commands:
            return 0
        if any(run.is_ending for run in self.runs.values()):
            return _TICK_SECONDS
        if self._shut:
            return _TICK_SECONDS
        if self._owed:
            return max(0.0, next(iter(self._owed.values())) - time.monotonic())
        return 1.0 if self._strangers else None

    def _look_around(self) -> None:
        now = time.monotonic()
        while self._owed and next(iter(self._owed.values())) <= now:
            peer = next(iter(self._owed))
            del self._owed[peer]
            peer.push()
        for peer in [each for each in self._strangers if each.begun < now - _PROOF_SECONDS]:
            self._serve(peer, selectors.EVENT_READ)  # this process may have been stopped
            if peer in self._strangers and peer.begun < now:
                self._drop(peer)
        for name, run in list(self.runs.items()):
            if run.is_ending:
                run.end_if_all_is_said()
            elif run.is_past:  # a process may have thousands, one after the other
                del self.runs[name]
        if self._shut and now > self._shut:
            self._shut = 0.0
            for door in self._doors:
                self._listen(door, True)

    # --- doors ----------------------------------------------------------------

    def _listen(self, door: socket.socket, on: bool) -> None:
        with contextlib.suppress(KeyError):  # it is so already
            if on:
                self._selector.register(door, selectors.EVENT_READ, door)
            else:
                self._selector.unregister(door)

    def _accept(self, door: socket.socket) -> None:
        for _ in range(64):
            first = next(iter(self._strangers), None)
            full = len(self._peers) >= _MOST
            if full and first is None:
                _say_full()
                return self._shut_doors()
            if first is not None and (full or len(self._strangers) >= _STRANGERS):
                if first.begun > time.monotonic() - _JUST_SECONDS:
                    return self._shut_doors()
                self._drop(first)
            try:
                connection, _ = door.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptors are left, or it has gone already
                doors.allow_more()
                return self._shut_doors()
            if doors.is_of_another_user(connection):
                connection.close()
            else:
                self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        self._asked = True
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # not of a local socket
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer = Peer(self, connection)
        self._peers.add(peer)
        self._strangers[peer] = None
        self._selector.register(connection, selectors.EVENT_READ, peer)

    def _shut_doors(self) -> None:
        if not self._shut:
            self._shut = time.monotonic() + _TICK_SECONDS
            for door in self._doors:
                self._listen(door, False)


def _say_full() -> None:
    wandb: Any = sys.modules["wandb"]
    wandb.termwarn(_FULL, repeat=False)
