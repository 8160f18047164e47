"""A transport to the owner of a run on another machine: W&B's own protocol through a tunnel."""

from __future__ import annotations

import atexit
import math
import os
import threading
from typing import Any, ContextManager, Dict, Optional

from ...errors import FINISHED, Unreachable
from .. import ending, multiprocessings
from ..link import usage_error
from ..question import Question
from ..service import Service, interface_of
from .endpoint import Endpoint

_TIMEOUT_SECONDS = 300.0


def timeout() -> float:
    """Return how long an owner is waited for that can't be reached, in seconds."""
    try:
        return float(os.environ["WANDB_DDP_PATCH_SHARE_SECONDS"])
    except (KeyError, ValueError):
        return _TIMEOUT_SECONDS


class _Watch:
    """Whether the run's owner still has it, as far as the tunnel tells; see alive.Watch."""

    trusted_until = math.inf
    sees_owner = True

    def __init__(self) -> None:
        self.endpoint: Optional[Endpoint] = None

    def says_over(self) -> bool:
        return self.endpoint is not None and self.endpoint.why == FINISHED

    def doubt(self) -> None:
        """Nothing is taken for granted here."""

    def read_until(self) -> float:
        return self.endpoint.drained_at if self.endpoint is not None else 0.0


class Tunnel(Service):
    """A connection of a run to its owner's service, by a tunnel.

    Args:
        payload: What the run came with.
    """

    elsewhere = True

    def __init__(self, payload: Dict[str, Any]) -> None:
        super().__init__(payload)
        self.watch = _Watch()  # type: ignore[assignment]
        self._run: Any = None
        self._warned = False

    def connecting(self) -> ContextManager[Any]:
        return _connecting

    def connect(self, run: Any) -> None:
        _check_version(self.payload)
        self._run = run
        endpoint = _endpoint(self.payload)
        endpoint.wait_until_sent = self._wait_until_sent
        self.watch.endpoint = endpoint  # type: ignore[attr-defined]
        self.service = endpoint.service
        super().connect(run)

    def has_attached(self, run: Any) -> None:
        super().has_attached(run)
        settings: Any = run.__dict__["_settings"]
        # Else wandb would put media and the like below this process's current folder.
        update = getattr(settings, "update_from_dict", None) or settings.update
        update({"root_dir": self.endpoint.folder})
        self.endpoint.files_dir = settings.files_dir

    @property
    def endpoint(self) -> Endpoint:
        endpoint: Endpoint = self.watch.endpoint  # type: ignore[attr-defined]
        return endpoint

    def check(self) -> None:
        endpoint = self.watch.endpoint  # type: ignore[attr-defined]
        if endpoint is None:
            return
        if endpoint.refusals:
            raise usage_error(endpoint.refusals.popleft())
        if endpoint.why is not None:
            raise Unreachable(endpoint.why)

    def _refuse_if_gone(self) -> None:
        self.check()

    def _wait_until_sent(self) -> None:
        """Wait until the service has all that this process has logged."""
        run = self._run
        if run is not None and self.attached:
            Question(interface_of(run), self.endpoint.timeout).is_answered(self.watch.says_over)


# --- this process's endpoints --------------------------------------------------

# By the run's key.
_endpoints: Dict[str, Endpoint] = {}
_connecting = threading.RLock()
_hooked = 0


def _endpoint(payload: Dict[str, Any]) -> Endpoint:
    key = payload["key"]
    for known, endpoint in list(_endpoints.items()):
        if endpoint.why is not None:
            _endpoints.pop(known).close()
    if key not in _endpoints:
        endpoint = Endpoint(payload["share"], bytes.fromhex(key), payload["service"], timeout())
        endpoint.open()
        _endpoints[key] = endpoint
        _hook()
    return _endpoints[key]


def _hook() -> None:
    global _hooked
    if _hooked != os.getpid():
        _hooked = os.getpid()
        multiprocessings.at_exit(_say_goodbye, 50)
        atexit.register(_say_goodbye)


def _say_goodbye() -> None:
    ending.flush_all()  # its own hook may come later
    for endpoint in list(_endpoints.values()):
        endpoint.close()
    _endpoints.clear()


def _check_version(payload: Dict[str, Any]) -> None:
    import wandb

    theirs, ours = payload["share"].get("wandb"), wandb.__version__
    if theirs is not None and theirs.split(".")[:2] != ours.split(".")[:2]:
        raise Unreachable(
            f"its owner has wandb {theirs} and this worker wandb {ours}, which may not understand"
            " each other: install the same on all machines"
        )


def after_fork_in_child() -> None:
    """Let go of the parent's endpoints: each process has its own."""
    global _connecting
    _connecting = threading.RLock()
    _endpoints.clear()
