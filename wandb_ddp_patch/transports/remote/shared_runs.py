"""Opens runs of this process to workers on other machines, and closes them again."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from typing import Any, Dict, Optional, Set, Tuple

from ... import _lifecycle
from ..._process import host_fingerprint
from ...runs import state
from ...runs.metadata import get_field
from ...runs.payload_format import Share
from ...tunnel import event_loop
from . import addresses
from .gateway import Gateway, SharedRun

_gateway: Optional[Gateway] = None
_starting = threading.RLock()
# Where this process listens for other machines: each port's addresses.
_heard: Dict[int, Set[str]] = {}
# Keys of the runs whose address the user has given: it is kept. One that was guessed may turn
# out otherwise once MASTER_ADDR is set.
_given: Set[str] = set()
_TOKEN_BYTES = 32


def listen_tcp(owned: state.OwnerState, host: Optional[str], port: int) -> Share:
    """Let workers on other machines connect to a run of this process.

    Where they can already, and another host or port is asked for, they can connect there as
    well, and payloads have that one from now on.

    Args:
        owned: The run's state.
        host: The address by which they reach this machine; None for the likely one.
        port: The port; 0 for any that is free.

    Returns:
        What payloads carry: host, port, token, this machine and its wandb release.

    Raises:
        OSError: It can't listen there.
        ValueError: This is no host and port.
    """
    with _starting:
        share, is_asked = owned.share, host is not None or port != 0
        if share is not None and owned.key in _given:
            if not is_asked:
                return share
            host = host or share["host"]
        try:
            host, port = _listen(host, port)
        except addresses.NoAddressError:
            if share is None or is_asked:
                raise
            return share
        if is_asked:
            _given.add(owned.key)
        # A new one: payloads may hold the other.
        owned.share = {**(share or _open(owned)), "host": host, "port": port}
        return owned.share


def _open(owned: state.OwnerState) -> Share:
    """Have the gateway let workers of a run in; return what payloads carry, but for the place."""
    token = secrets.token_bytes(_TOKEN_BYTES)
    _open_gateway().open(_shared_run(owned, token))
    wandb: Any = sys.modules["wandb"]
    return {
        "host": "",
        "port": 0,
        "token": token,
        "host_fingerprint": host_fingerprint(),
        "wandb_version": wandb.__version__,
    }


def _shared_run(owned: state.OwnerState, token: bytes) -> SharedRun:
    run = state.lookup(owned.key)
    about = get_field(run, "id"), get_field(run, "entity") or "", get_field(run, "project") or ""
    return SharedRun(bytes.fromhex(owned.key), token, about, str(owned.service), run.dir)


def _open_gateway() -> Gateway:
    global _gateway
    with _starting:
        if _gateway is None:
            _gateway = Gateway()
        return _gateway


def _listen(host: Optional[str], port: int) -> Tuple[str, int]:
    """Listen where workers reach this machine by a host; return the host and port for payloads."""
    if host is not None:
        host, in_host = addresses.parse_address(host)
        if in_host and port not in (0, in_host):
            raise ValueError(f"host and port give different ports: {in_host} and {port}")
        port = port or in_host
    if not 0 <= port < 1 << 16:
        raise ValueError(f"{port} is not a port number")
    advertised, places = addresses.plan(host or addresses.guess_host())
    for known, heard in _heard.items():
        if port in (0, known) and all(addresses.is_covered(place, heard) for place in places):
            return advertised, known
    heard = _heard.get(port, set())
    missing = [place for place in places if not addresses.is_covered(place, heard)]
    try:
        listeners = addresses.bind_tcp(missing, port)
    except OSError as error:
        if port not in _heard:
            raise
        why = f"this process already listens on port {port} of {', '.join(sorted(heard))}"
        raise OSError(error.errno, f"{why}: choose another port") from None
    for listener in listeners:
        _open_gateway().listen(listener)
    bound: int = listeners[0].getsockname()[1]
    _heard.setdefault(bound, set()).update(address[0] for _, address in places)
    return advertised, bound


def share_from_environment(owned: state.OwnerState) -> None:
    """Open a run where WANDB_DDP_PATCH_SHARE says so; warn, once, where that fails."""
    setting = os.environ.get("WANDB_DDP_PATCH_SHARE", "")
    if setting in ("", "0") or owned.share is not None:
        return
    try:
        listen_tcp(owned, *parse_setting(setting))
    except (OSError, ValueError, RuntimeError) as error:  # the last: no thread can be started
        _lifecycle.termwarn(f"The run is not shared with other machines: {error}.", repeat=False)


def parse_setting(setting: str) -> Tuple[Optional[str], int]:
    """Return the host and port in WANDB_DDP_PATCH_SHARE: 1, HOST or HOST:PORT.

    Raises:
        ValueError: It is none of them.
    """
    try:
        return (None, 0) if setting == "1" else addresses.parse_address(setting)
    except ValueError as error:
        raise ValueError(f"WANDB_DDP_PATCH_SHARE={setting} is not 1, HOST or HOST:PORT") from error


def close(owned: state.OwnerState) -> None:
    """Close a run to its workers, after what they have logged before has arrived."""
    if _gateway is not None:
        shared = _gateway.runs.get(bytes.fromhex(owned.key))
        if shared is not None:
            _close(_gateway, shared)


def close_all() -> None:
    """Close all runs of this process to workers: it ends."""
    if _gateway is not None:
        for shared in list(_gateway.runs.values()):
            _close(_gateway, shared)


def _close(gateway: Gateway, shared: SharedRun) -> None:
    silent = gateway.close(shared)
    if silent:
        _lifecycle.termwarn(
            f"{silent} worker(s) did not answer when the run was finished: the last rows that they"
            " logged may be lost."
        )


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of what belongs to the parent."""
    global _gateway, _starting
    _starting = threading.RLock()
    _heard.clear()
    _given.clear()
    if _gateway is not None:
        event_loop.drop_inherited_loop()
        _gateway = None
