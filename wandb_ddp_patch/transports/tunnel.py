"""A transport to the owner of a run on another machine: W&B's own protocol through a tunnel."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from typing import Any, Callable, ContextManager, Dict, Optional

from .. import _lifecycle
from ..errors import FINISHED, RunUnreachableError
from ..runs import flush, transport
from ..runs.payload_format import Payload, Share
from ..runs.state import usage_error
from ..tunnel import event_loop
from .remote.endpoint import Endpoint
from .service import ServiceBarrier, ServiceTransport, interface_of

_TIMEOUT_SECONDS = 300.0
# How long a process that ends waits until the owner has heard it say goodbye: else the owner
# might wait for its rows when it finishes the run.
_GOODBYE_SECONDS = 2.0
# How long the service is asked, while the owner ends the run, whether it has everything. Longer
# than the owner waits, which says when it gives up; the limit for an owner that can't be reached
# may be shorter.
_DRAIN_SECONDS = 60.0
# How many refusals are told at once: where the owner's disk is full, all of a loop's files are
# refused.
_REFUSALS = 20


def timeout() -> float:
    """Return how many seconds to wait for an owner that can't be reached."""
    try:
        return float(os.environ["WANDB_DDP_PATCH_SHARE_SECONDS"])
    except (KeyError, ValueError):
        return _TIMEOUT_SECONDS


class _TunnelWatch:
    """Whether the run's owner still has it, as far as the tunnel tells: a service.Watch.

    Attributes:
        endpoint: This worker's end of the tunnel; None before it is connected.
    """

    # The tunnel tells it unasked. Nothing is to be looked up for each row, and no service on
    # this machine to be asked whether it lives.
    cached_until, sees_owner = math.inf, True

    def __init__(self) -> None:
        self.endpoint: Optional[Endpoint] = None

    def is_finished(self) -> bool:
        return self.endpoint is not None and self.endpoint.why == FINISHED

    def read_until(self) -> float:
        return self.endpoint.drained_at if self.endpoint is not None else 0.0

    def invalidate(self) -> None:
        """Nothing is cached here."""


class TunnelTransport(ServiceTransport):
    """A connection of a run to its owner's service, by a tunnel.

    Args:
        payload: What the run came with.
    """

    is_remote_host = True

    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self.watch = self._tunnel = _TunnelWatch()
        self._run: Any = None
        self._has_warned = False

    @property
    def endpoint(self) -> Endpoint:
        """This worker's end of the tunnel, once it is connected."""
        assert self._tunnel.endpoint is not None
        return self._tunnel.endpoint

    def connecting(self) -> ContextManager[Any]:
        return _connecting

    def connect(self, run: Any) -> None:
        _check_version(self.payload)
        self._run = run
        # We wait minutes for an owner that can't be reached: neither another run that attaches
        # meanwhile nor a fork may have to wait for that.
        with _opening:
            endpoint = self._tunnel.endpoint = _endpoint(self.payload)
        endpoint.wait_until_sent = self._wait_until_sent
        self.service = endpoint.service
        # But wandb attaches one run at a time, by whichever transport: else two threads would
        # exchange its one connection under each other's hands.
        with transport.connecting:
            super().connect(run)

    def has_attached(self, run: Any) -> None:
        super().has_attached(run)
        self.endpoint.files_dir = run.__dict__["_settings"].files_dir
        _log_artifacts_without_a_key(run)

    def root_dir(self) -> Optional[str]:
        return self.endpoint.folder  # what is put there is sent to the owner

    def check(self) -> None:
        endpoint = self._tunnel.endpoint
        if endpoint is not None and endpoint.why is not None:
            raise RunUnreachableError(endpoint.why)

    def _refuse_if_gone(self) -> None:
        self.check()

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if name == "_tensorboard_callback":
            raise usage_error(
                "TensorBoard's files can't be followed from another machine: use sync_tensorboard"
                " in the process that called wandb.init()"
            )
        result = super().call(run, name, upstream, args, kwargs)
        # Not before the call: that one is good, and would be lost for an earlier one's sake. Nor
        # where it returns something, which the caller needs.
        if result is None:
            self._raise_refusal()
        return result

    def leave(self, run: Any) -> None:
        try:
            super().flush(run)
        except BaseException:
            self._warn_of_refusals()
            raise
        self.detach(run)  # which raises what is refused, instead of a warning

    def detach(self, run: Any) -> None:
        super().detach(run)
        self._raise_refusal()

    def _raise_refusal(self) -> None:
        """Raise what the owner has said of earlier messages, which nobody waited for."""
        refusals = self._take_refusals()
        if refusals:
            raise usage_error(f"An earlier call failed: {refusals}")

    def _take_refusals(self) -> str:
        refusals, taken = self.endpoint.refusals, []
        while refusals:
            with contextlib.suppress(IndexError):  # another thread has taken it
                taken.append(refusals.popleft())
        if len(taken) > _REFUSALS:
            taken[_REFUSALS:] = [f"and {len(taken) - _REFUSALS} more"]
        return "; ".join(taken)

    def flush(self, run: Any) -> None:
        """Wait until the service has all that this worker has sent; say what is missing."""
        try:
            super().flush(run)
        finally:
            # The answer that was waited for came after all refusals. There may be no later call
            # that could raise them.
            self._warn_of_refusals()

    def _warn_of_refusals(self) -> None:
        refusals = self._take_refusals()
        if refusals:
            _lifecycle.termwarn(f"An earlier call failed: {refusals}")

    def _why_unconfirmed(self, run: Any) -> Optional[str]:
        endpoint = self.endpoint
        if self._is_confirmed(run, endpoint.timeout):
            return None
        was_drained = endpoint.why == FINISHED and self.called_at <= endpoint.drained_at
        if was_drained or self._has_warned:
            return None
        self._has_warned = True
        return endpoint.why or f"no answer within {endpoint.timeout:.0f} s"

    def _warn_of_loss(self, why: str) -> None:
        count = self.endpoint.unacknowledged()
        what = f"The last {count} message(s) of" if count else "What was logged last by"
        _lifecycle.termwarn(
            f"{what} this worker to run {self.payload['metadata']['id']} may be lost: {why}."
        )

    def _is_confirmed(self, run: Any, seconds: float) -> bool:
        """Return True once the service has all that was logged before; False if it won't say so."""
        endpoint = self.endpoint
        barrier = ServiceBarrier(interface_of(run), seconds)
        return endpoint.why is None and barrier.wait(lambda: endpoint.why is not None)

    def _wait_until_sent(self) -> bool:
        """Return True once the service has all that this process has logged."""
        run = self._run
        # Where it is not attached, it has logged nothing, or has flushed it.
        return run is None or not self.attached or self._is_confirmed(run, _DRAIN_SECONDS)


def _log_artifacts_without_a_key(run: Any) -> None:
    """Let a run log artifacts where this process has no API key: the owner's service has one.

    wandb first asks its server, with a key of this process's, whether another type of artifact
    has that name, so as to say it early; and keeps what it asked by, to wait for the artifact.
    """
    own, public_api = run.__dict__, run._public_api

    def _public_api(*args: Any, **kwargs: Any) -> Any:
        try:
            return public_api(*args, **kwargs)
        except Exception as error:
            return _NoApi(error)

    own["_assert_can_log_artifact"], own["_public_api"] = (lambda artifact: None), _public_api


class _NoApi:
    """What stands for W&B's public API in a process that can't use it."""

    def __init__(self, why: Exception) -> None:
        self._why = why

    @property
    def client(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        raise usage_error(
            "this needs an API key in this worker, because the owner of the run does not send its"
            f" own: {self._why}"
        )


# --- this process's endpoints --------------------------------------------------

# By the run's key.
_endpoints: Dict[str, Endpoint] = {}
# Held while a run connects by a tunnel, and while one is opened. In this order, and then
# transport.connecting; where the tunnel is another transport's fallback, that is held first.
_connecting, _opening = threading.RLock(), threading.RLock()


def _endpoint(payload: Payload) -> Endpoint:
    key = payload["key"]
    for known, endpoint in list(_endpoints.items()):
        # One that has ended goes. One whose socket alone is gone goes only for its own run, which
        # wants to attach by it: what has attached before is connected, and needs no socket.
        if endpoint.why is not None or (known == key and not endpoint.is_there()):
            _endpoints.pop(known).close()
    if key not in _endpoints:
        endpoint = Endpoint(
            _share(payload), bytes.fromhex(key), payload["service"] or "", timeout()
        )
        endpoint.open()
        _endpoints[key] = endpoint
        _lifecycle.at_exit(_say_goodbye, _lifecycle.CLOSE_TUNNELS)
    return _endpoints[key]


def _share(payload: Payload) -> Share:
    assert payload["share"] is not None  # see selection.py
    return payload["share"]


def _say_goodbye() -> None:
    flush.flush_all()  # its own hook may come later, when the tunnel is closed
    for endpoint in list(_endpoints.values()):
        endpoint.close(_GOODBYE_SECONDS)
    _endpoints.clear()


def _check_version(payload: Payload) -> None:
    import wandb

    theirs, ours = _share(payload)["wandb_version"], wandb.__version__
    if theirs.split(".")[:2] != ours.split(".")[:2]:
        raise RunUnreachableError(
            f"its owner has wandb {theirs} and this worker has wandb {ours}, which may be"
            " incompatible: install the same release on all machines"
        )


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of the parent's endpoints: each process has its own."""
    global _connecting, _opening
    _connecting, _opening = threading.RLock(), threading.RLock()
    event_loop.drop_inherited_loop()
    _endpoints.clear()
