"""A run that is open to workers: its token, who they are, and how it ends."""

from __future__ import annotations

import collections
import threading
import time
from typing import Deque, Dict, Optional, Tuple

from . import messages
from .session import Session

# How long a run that ends waits for what its workers have logged before: for one that is
# connected, and for one whose connection has been lost.
_CONNECTED_SECONDS, _LOST_SECONDS = 30.0, 5.0
# How long a worker that has gone may come back to hear that it has been heard.
_GONE_SECONDS = 300.0


class SharedRun:
    """One run.

    Args:
        key: The run's.
        token: What its workers hold.
        is_near: Whether they are on this machine.
    """

    def __init__(self, key: str, token: bytes, is_near: bool = False) -> None:
        self.key, self.token = key, token
        self._is_near = is_near
        self.sessions: Dict[bytes, Session] = {}
        self.over = False
        self.ended = threading.Event()
        self.silent = 0
        self._begun: Optional[float] = None
        self._gone: Deque[Tuple[float, bytes]] = collections.deque()

    def taken(self, session: bytes) -> int:
        """Say what has come from a worker, or will seem to."""
        known = self.sessions.get(session)
        return known.incoming.taken if known else 0

    def add(self, name: bytes, session: Session) -> None:
        """Take in a worker; forget those that have gone."""
        now = time.monotonic()
        while self._gone and self._gone[0][0] < now:
            self.sessions.pop(self._gone.popleft()[1], None)
        self.sessions[name] = session

    def leaves(self, name: bytes) -> None:
        """Note that a worker has said goodbye."""
        self._gone.append((time.monotonic() + _GONE_SECONDS, name))

    def loses(self, name: bytes) -> None:
        """Note that a worker's connection is no more; a near one does not come back."""
        session = self.sessions.get(name)
        if self._is_near and session is not None and not session.is_at_work:
            del self.sessions[name]

    @property
    def is_ending(self) -> bool:
        return self._begun is not None and not self.over

    @property
    def is_past(self) -> bool:
        """Whether it has been over for so long that nobody comes back for it."""
        return self.over and time.monotonic() > (self._begun or 0.0) + _GONE_SECONDS

    def begin_to_end(self) -> None:
        """Ask all workers for what they have logged; see :meth:`end_if_all_is_said`."""
        if self._begun is None:
            self._begun = time.monotonic()
            for session in self.sessions.values():
                self.tell(session)

    def tell(self, session: Session) -> None:
        """Tell a worker that the run ends, or has ended, if it does; see to it that it hears."""
        if self._begun is not None and not session.ended:
            session.outgoing.put(messages.OVER if self.over else messages.ENDING, b"")
            if session.peer is not None:
                session.peer.push()

    def end_if_all_is_said(self) -> None:
        """End the run, if no worker is to be waited for any more."""
        now = time.monotonic()
        late = now > (self._begun or now) + _CONNECTED_SECONDS
        waits = [s for s in self.sessions.values() if s.is_at_work or self._waits_for(s, now)]
        if waits and not late:
            return
        self.over, self.silent = True, 0 if self._is_near else len(waits)
        for session in list(self.sessions.values()):
            session.over = True
            self.tell(session)
            session.end()
        self.ended.set()

    def _waits_for(self, session: Session, now: float) -> bool:
        # A near worker waits for each call itself: what it has logged, is made.
        if self._is_near or session.ended or session.said_all:
            return False
        return session.peer is not None or now < session.lost + _LOST_SECONDS
