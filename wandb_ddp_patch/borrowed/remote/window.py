"""What a worker has sent and is not made yet: a bounded window that its threads fill.

Who logs puts a row in, and goes on; who asks waits for the answer.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from ...errors import FINISHED, Unreachable
from . import messages
from .frames import FRAME_BYTES, Frame, Item
from .lanes import Incoming, Outgoing

_ITEMS, _BYTES = 10_000, 1 << 24
_TICK_SECONDS = 1.0
# How long an owner that has asked for all may take to say that the run is over.
_ENDING_SECONDS = 35.0
_IN_BETWEEN = (
    "a signal's handler has come in the middle of another call of this thread: there it can"
    " log, but not ask"
)


class Load(NamedTuple):
    """What is to be sent: see :meth:`Window.load`."""

    made: int
    items: List[Item]
    asks: bool
    more: bool


class Window:
    """Calls on their way.

    Args:
        patience: Seconds without progress after which nobody waits any more.
        wake: Called when there is something to send that the sender does not know of.

    Attributes:
        over: Why nothing can be sent any more, or None.
        leaving: Whether this worker has said goodbye.
    """

    def __init__(self, patience: float, wake: Callable[[], None]) -> None:
        self._patience, self._wake_sender = patience, wake
        # The lock is taken as such: a handler's exception in Condition's own code, which is
        # Python, would leave it held.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._out, self._in = Outgoing(), Incoming()
        self._answers: Dict[int, Optional[Tuple[bool, Any]]] = {}
        self._errors: List[Exception] = []
        self._urgent = self._idle = False
        self._ending = 0.0
        self.over: Optional[str] = None
        self.leaving = False

    # --- for the worker's threads ---------------------------------------------

    def post(self, kind: int, body: bytes, urgent: bool = False) -> int:
        """Send something without waiting for it; return its number.

        Raises:
            Unreachable: The owner can't be reached, or has finished the run.
            Exception: What an earlier call has raised there.
        """
        with self._lock:
            while True:
                if self._errors:
                    raise self._errors.pop(0)
                if self.over is not None:
                    raise Unreachable(self.over)
                full = len(self._out) >= _ITEMS or self._out.size >= _BYTES
                if not full and not self._is_ending():
                    break
                self._changed.wait(_TICK_SECONDS)
            if kind in messages.ANSWERED and self._out.is_busy:
                raise RuntimeError(_IN_BETWEEN)
            number = self._out.put(kind, body)
            if kind in messages.ANSWERED:
                self._answers[number] = None
            self._wake(urgent)
            return number

    def ask(self, kind: int, body: bytes) -> Any:
        """Have a call made, and wait for it.

        Raises:
            Unreachable: As for :meth:`post`.
            Exception: What the call has raised.
        """
        number = self.post(kind, body, urgent=True)
        with self._lock:
            try:
                while self._answers[number] is None and self.over is None:
                    self._changed.wait(_TICK_SECONDS)
            finally:
                answer = self._answers.pop(number)
            if answer is None:
                raise Unreachable(str(self.over))
        done, result = answer
        if not done:
            raise result
        return result

    def flush(self) -> int:
        """Wait until all that was sent has been made, as long as that goes on.

        Returns:
            The number of items that are missing, as far as can be known.
        """
        with self._lock:
            target, made = self._out.last, self._out.made
            late = time.monotonic() + self._patience
            while self._out.made < target and self.over is None:
                self._wake(urgent=True)
                self._changed.wait(_TICK_SECONDS)
                if self._out.made != made:
                    made, late = self._out.made, time.monotonic() + self._patience
                elif time.monotonic() > late:
                    break
            return max(0, target - self._out.made)

    def leave(self) -> None:
        """Say goodbye, after what was sent before."""
        with self._lock:
            if self.over is None and not self.leaving:
                self.leaving = True
                self._out.put(messages.BYE, b"")
                self._wake(urgent=True)

    def take_errors(self) -> List[Exception]:
        """Give what calls have raised that nobody has heard of."""
        errors, self._errors = self._errors, []
        return errors

    def _is_ending(self) -> bool:
        # What is logged after the owner has asked for all comes too late: it is about to say so.
        return 0 < time.monotonic() - self._ending < _ENDING_SECONDS

    def _wake(self, urgent: bool) -> None:
        self._urgent = self._urgent or urgent
        if self._idle or urgent or self._out.size > FRAME_BYTES:
            self._idle = False
            self._wake_sender()

    # --- for who sends --------------------------------------------------------

    @property
    def taken(self) -> int:
        """The last item of the owner's that has come."""
        return self._in.taken

    def count(self) -> int:
        """Count what is not made yet."""
        with self._lock:
            return len(self._out)

    def load(self, paused: bool) -> Optional[Load]:
        """Take what is to be sent now; None where that is nothing.

        Args:
            paused: Whether what nobody waits for is to be kept together a little longer.
        """
        with self._lock:
            if not self._urgent and (paused or not self._out.unsent):
                self._idle = not self._out.unsent
                return None
            items, asks = self._out.take(), self._urgent
            more = bool(self._out.unsent)
            self._urgent = self._urgent and more
            return Load(self._in.made, items, asks, more)

    def resume(self, taken: int) -> None:
        """Begin again on a new connection, from the last item that the owner has."""
        with self._lock:
            self._out.resume(taken)
            self._urgent = True  # what was made meanwhile

    def receive(self, frame: Frame) -> None:
        """Take in what has come.

        Raises:
            BrokenError: It makes no sense.
        """
        with self._lock:
            self._out.is_made(frame.made)
            for item in frame.items:
                whole = self._in.take(item)
                self._in.made = self._in.taken
                if whole is not None:
                    self._take(whole)
            self._changed.notify_all()

    def _take(self, item: Item) -> None:
        if item.kind == messages.ANSWER:
            number, done, result = messages.read_answer(item.body)
            if number in self._answers:
                self._answers[number] = done, result
            elif not done:
                self._errors.append(result)
        elif item.kind == messages.ENDING:
            self._ending = time.monotonic()
            self._out.put(messages.ALL, b"")
            self._urgent = True
        elif item.kind == messages.OVER:
            self.over = self.over or FINISHED

    def end(self, why: str) -> None:
        """Let nobody wait any more."""
        with self._lock:
            self.over = self.over or why
            self._changed.notify_all()
