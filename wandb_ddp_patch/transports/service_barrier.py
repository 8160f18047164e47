"""Asks a run's service something: when it answers, it has read all that was sent before."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Optional


def queues_before_sending(interface: Any) -> bool:
    """Say whether wandb sends rows later than log() returns (0.21.2 to 0.22.0)."""
    publish = getattr(type(getattr(interface, "_client", None)), "publish", None)
    return "run_soon" in getattr(getattr(publish, "__code__", None), "co_names", ())


class ServiceBarrier:
    """A round trip to the service, in a thread: even to ask may have to wait."""

    def __init__(self, interface: Any, seconds: float) -> None:
        self.interface, self.seconds = interface, seconds
        self.answered = False
        self.error: Optional[Exception] = None  # why it could not be asked
        self.thread = threading.Thread(target=self._ask, name="wandb_ddp_patch", daemon=True)

    def _ask(self) -> None:
        try:
            handle = self.interface.deliver_get_summary()
            wait = getattr(handle, "wait_or", None) or handle.wait
            self.answered = wait(timeout=self.seconds) is not None
        except TimeoutError:
            pass  # not answered
        except Exception as error:
            self.error = error

    def wait(self, is_over: Callable[[], bool]) -> bool:
        """Wait for the answer, but not for that of a run that is over."""
        deadline = time.monotonic() + self.seconds
        try:
            self.thread.start()
        except RuntimeError:  # none can be had, as at the interpreter's end
            self._ask()
            return self.answered
        while self.thread.is_alive() and time.monotonic() < deadline:
            self.thread.join(1)
            if self.thread.is_alive() and is_over():
                self.thread.join(1)
                break
        return self.answered
