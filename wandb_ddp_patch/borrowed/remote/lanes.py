"""Numbered items in one direction: kept until they are made, and made once.

A connection may break at any byte. What was on its way is sent again on the next one,
from the first item that the other side does not have.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Deque, List, Optional, Tuple

from .frames import FRAME_BYTES, PIECE_BYTES, BrokenError, Item

# An item that is to be put before the one that follows it: a part of something long.
PART = 0


class Outgoing:
    """Items on their way out.

    Attributes:
        last: The number of the last one.
        made: The last one that the other side has made.
        size: The bytes of those that it has not.
        is_busy: Whether an item is being put.
    """

    def __init__(self) -> None:
        self.made = self.size = 0
        # What is not made yet, and the last of it that is on the wire.
        self._items: Deque[Item] = deque()
        self._sent = 0
        self._late: Deque[Tuple[int, bytes]] = deque()
        self.is_busy = False

    @property
    def last(self) -> int:
        return self._items[-1].number if self._items else self.made

    def __len__(self) -> int:
        """Count the items that are not made yet."""
        return self.last - self.made + len(self._late)

    @property
    def unsent(self) -> int:
        """The number of items that are not on the wire."""
        return self.last - self._sent + len(self._late)

    def put(self, kind: int, body: bytes) -> int:
        """Add an item. What is long goes in parts.

        Returns:
            Its number; 0 where it is known later, because a signal's handler has come
            between this thread and an item that it puts.
        """
        if self.is_busy:
            self._late.append((kind, body))
            return 0
        whole = self.last
        try:
            self.is_busy = True
            number = whole = self._put(kind, body)
            while self._late:
                self._put(*self._late.popleft())
            return number
        except BaseException:  # a handler may raise anything, anywhere
            while self.last > whole and self._items[-1].kind == PART:
                self.size -= len(self._items.pop().body)
            raise
        finally:
            self.is_busy = False

    def _put(self, kind: int, body: bytes) -> int:
        for at in range(0, len(body) - PIECE_BYTES, PIECE_BYTES):
            self._add(PART, body[at : at + PIECE_BYTES])
            rest = at + PIECE_BYTES
        return self._add(kind, body[rest:] if len(body) > PIECE_BYTES else body)

    def _add(self, kind: int, body: bytes) -> int:
        number = self.last + 1
        self._items.append(Item(number, kind, body))
        self.size += len(body)
        return number

    def take(self) -> List[Item]:
        """Take what goes into the next frame."""
        if self._late and not self.is_busy:
            self.put(*self._late.popleft())
        items, size = [], 0
        for item in islice(self._items, self._sent - self.made, None):
            if size >= FRAME_BYTES:
                break
            size += len(item.body)
            items.append(item)
        if items:
            self._sent = items[-1].number
        return items

    def is_made(self, number: int) -> None:
        """Let go of what the other side has made.

        Raises:
            BrokenError: It says so of what it never got.
        """
        if number > self.last:
            raise BrokenError("an acknowledgement of what was never sent")
        self.made = max(self.made, number)
        self._sent = max(self._sent, self.made)
        while self._items and self._items[0].number <= number:
            self.size -= len(self._items.popleft().body)

    def resume(self, taken: int) -> None:
        """Send again what the other side has not got, on a new connection."""
        self._sent = max(taken, self.made)


class Incoming:
    """Items that come in.

    Attributes:
        taken: The last one that has come.
        made: The last one that was made.
    """

    def __init__(self) -> None:
        self.taken = self.made = 0
        self._parts: List[bytes] = []

    def take(self, item: Item) -> Optional[Item]:
        """Take an item in; give it back where it is new, and whole.

        Raises:
            BrokenError: One before it is missing.
        """
        if item.number <= self.taken:
            return None
        if item.number != self.taken + 1:
            raise BrokenError("an item out of its turn")
        self.taken = item.number
        if item.kind == PART:
            self._parts.append(item.body)
            return None
        if self._parts:
            self._parts.append(item.body)
            item = item._replace(body=b"".join(self._parts))
            self._parts = []
        return item
