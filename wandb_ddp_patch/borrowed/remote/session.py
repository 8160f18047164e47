"""What an owner keeps of one worker: what has come, what was made, what it has to hear.

It outlives the worker's connection, so that the next one goes on where that has ended.
"""

from __future__ import annotations

import collections
import functools
import pickle
import time
from typing import Any, Callable, Deque, List, Optional, Tuple

from ...errors import FINISHED, Unreachable
from .. import link
from ..making import make, portable
from . import files, messages
from .crew import Crew
from .frames import BrokenError, Item
from .lanes import Incoming, Outgoing


class Session:
    """One worker's part of a run.

    All its calls are made in their order, one after the other.

    Args:
        run: The run's key.
        crew: Makes the calls that may take long.
        soon: Has something done by the thread that all else here is done by.

    Attributes:
        peer: The worker's connection, where it has one.
        lost: Since when it has none.
        ended: Whether it has said goodbye.
        said_all: Whether it has sent all that it had logged before the run's end.
    """

    def __init__(self, run: str, crew: Crew, soon: Callable[[Callable[[], None]], None]) -> None:
        self.incoming, self.outgoing = Incoming(), Outgoing()
        self.peer: Any = None
        self.lost = time.monotonic()
        self.ended = self.said_all = self.over = False
        self._run, self._crew, self._soon = run, crew, soon
        self._files = files.Files()
        self._waiting: Deque[Item] = collections.deque()
        self._busy = False

    @property
    def is_at_work(self) -> bool:
        """Whether something that has come is not made yet, also where the worker has gone."""
        return self._busy or bool(self._waiting)

    def take(self, items: List[Item]) -> None:
        """Take in what has come, and make what can be made now.

        Raises:
            BrokenError: It makes no sense.
        """
        for item in items:
            whole = self.incoming.take(item)
            if whole is not None:
                self._waiting.append(whole)
        self._work()

    def _work(self) -> None:
        while self._waiting and not self._busy:
            item = self._waiting.popleft()
            if item.kind in messages.APART:
                self._busy = True
                self._crew.do(functools.partial(self._make_apart, item))
                return
            self._do(item)
            self.incoming.made = item.number

    def _do(self, item: Item) -> None:
        kind = item.kind
        if kind in messages.CALLS:
            self._tell(item, *self._call(item))
        elif kind == messages.PIECE:
            self._files.add(item.body)
        elif kind == messages.WHOLE:
            self._files.end(item.body)
        elif kind == messages.ALL:
            self.said_all = True
        elif kind == messages.BYE:
            self.end()
        else:
            raise BrokenError("an item of no known kind")

    def _make_apart(self, item: Item) -> None:
        result = self._call(item)
        self._soon(lambda: self._made_apart(item, result))

    def _made_apart(self, item: Item, result: Tuple[bool, Any]) -> None:
        self._busy = False
        self.incoming.made = item.number
        self._tell(item, *result)
        self._work()
        if self.peer is not None:
            self.peer.push()

    def _call(self, item: Item) -> Tuple[bool, Any]:
        used: List[str] = []
        kept = False
        try:
            if item.kind in messages.APART:
                (name, args, kwargs), used = self._files.load(item.body)
            else:
                name, args, kwargs = pickle.loads(item.body)
            run = None if self.over else link.find(self._run)
            if run is None or link.own(run).over:
                raise Unreachable(FINISHED)
            if name == "save" and isinstance(args[0], tuple):
                return True, files.save(run, self._files, *args)
            # Up to 0.12, what is not committed is put together later.
            kept = kwargs.get("commit") is False
            return True, make(run, name, args, kwargs)
        except BaseException as error:  # also SystemExit, of a module that it imports
            return False, portable(error)
        finally:
            if used and not kept:
                files.remove(used)

    def _tell(self, item: Item, done: bool, result: Optional[Any]) -> None:
        if item.kind in messages.ANSWERED or not done:
            self.outgoing.put(messages.ANSWER, messages.answer(item.number, done, result))

    def end(self) -> None:
        """Let go of what is not needed any more: nothing comes after this."""
        self.ended = True
        self._files.close()
