"""How the stand-in fails, when a test says so."""

import threading
import time


class Faults:
    """What goes wrong with each request, as long as it is set.

    Attributes:
        delay: Seconds that each answer takes.
        frozen: Whether it takes requests, and answers none until it no longer is.
        status: Answered in place of everything, as 429 and 500 are; None for nothing.
        count: How many requests were answered so.
    """

    def __init__(self):
        self.delay = 0
        self.frozen = False
        self.status = None
        self.count = 0
        self._lock = threading.Lock()

    def strike(self):
        """Give the status to answer with in place of the answer, or None."""
        time.sleep(self.delay)
        while self.frozen:
            time.sleep(0.05)
        with self._lock:
            self.count += self.status is not None
            return self.status
