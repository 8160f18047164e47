"""A few threads for calls that may take long; none until there is one."""

from __future__ import annotations

import collections
import threading
from typing import Callable, Deque

# As many calls are made at the same time: more wait for their turn.
_MOST = 64
# How long a thread waits for more.
_IDLE_SECONDS = 10.0


class Crew:
    """Threads that do jobs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: Deque[Callable[[], None]] = collections.deque()
        self._threads = self._idle = 0

    def do(self, job: Callable[[], None]) -> None:
        """Have a job done, which must not raise."""
        with self._changed:
            self._jobs.append(job)
            if self._idle >= len(self._jobs) or self._threads >= _MOST:
                self._changed.notify()
                return
            self._threads += 1
        try:
            threading.Thread(target=self._work, name="wandb_ddp_patch", daemon=True).start()
        except RuntimeError:  # there are too many, or this process ends
            with self._changed:
                self._threads -= 1
                left = self._threads
            if not left:
                self._jobs.pop()()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                come = self._changed.wait_for(lambda: self._jobs, timeout=_IDLE_SECONDS)
                self._idle -= 1
                if not come:
                    self._threads -= 1
                    return
                job = self._jobs.popleft()
            job()
