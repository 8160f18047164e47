"""Opening a run of this process to workers on other machines, and closing it again."""

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
from . import addresses, listeners
from . import gateway as gateways

_gateway: Optional[gateways.Gateway] = None
_starting = threading.RLock()
# Where this process listens for other machines: each port's addresses.
_doors: Dict[int, Set[str]] = {}
# Runs, by their keys, whose address was given: it is kept. One that was guessed may be
# another one once MASTER_ADDR is set.
_given: Set[str] = set()
_TOKEN_BYTES = 32


def listen_tcp(owned: state.OwnerState, host: Optional[str], port: int) -> Share:
    """Let workers on other machines connect to a run of this process.

    Where they can already, and another host or port is asked for, they can by that as well,
    and are told that one from now on.

    Args:
        owned: The run's link.
        host: The address by which they reach this machine; None for the likely one.
        port: The port; 0 for any that is free.

    Returns:
        What payloads carry: host, port, token and this machine.

    Raises:
        OSError: It can't listen there.
        ValueError: This is no host and port.
    """
    with _starting:
        share, asked = owned.share, host is not None or port != 0
        if share is not None and owned.key in _given:
            if not asked:
                return share
            host = host or share["host"]
        try:
            where = _open(host, port)
        except addresses.NoAddressError:
            if share is None or asked:
                raise
            return share
        if asked:
            _given.add(owned.key)
        if share is None:
            share = _open_gateway(owned, where)
        # A new one: payloads may hold the other.
        owned.share = {**share, "host": where[0], "port": where[1]}
        return owned.share


def _open_gateway(owned: state.OwnerState, where: Tuple[str, int]) -> Share:
    token = secrets.token_bytes(_TOKEN_BYTES)
    gateway().open(_shared(owned, token))
    wandb: Any = sys.modules["wandb"]
    return {
        "host": where[0],
        "port": where[1],
        "token": token,
        "host_fingerprint": host_fingerprint(),
        "wandb_version": wandb.__version__,
    }


def _shared(owned: state.OwnerState, token: bytes) -> gateways.SharedRun:
    run = state.lookup(owned.key)
    about = get_field(run, "id"), get_field(run, "entity") or "", get_field(run, "project") or ""
    name = bytes.fromhex(owned.key)
    return gateways.SharedRun(name, token, about, str(owned.service), run.dir)


def gateway() -> gateways.Gateway:
    """Get this process's gateway; open it if there is none."""
    global _gateway
    with _starting:
        if _gateway is None:
            _gateway = gateways.Gateway()
        return _gateway


def _open(host: Optional[str], port: int) -> Tuple[str, int]:
    """Listen where workers reach this machine by a host; give what they are to be told."""
    if host is not None:
        host, also = addresses.parse_address(host)
        if also and port not in (0, also):
            raise ValueError(f"two ports are given: {also} and {port}")
        port = port or also
    if not 0 <= port < 1 << 16:
        raise ValueError(f"{port} is no port")
    told, places = addresses.plan(host or addresses.guess_host())
    for known, heard in _doors.items():
        if port in (0, known) and all(addresses.is_covered(place, heard) for place in places):
            return told, known
    heard = _doors.get(port, set())
    missing = [place for place in places if not addresses.is_covered(place, heard)]
    try:
        opened = listeners.bind_tcp(missing, port)
    except OSError as error:
        if port not in _doors:
            raise
        why = f"this process listens at port {port} of {', '.join(sorted(heard))} already"
        raise OSError(error.errno, f"{why}: give another port") from None
    for door in opened:
        gateway().listen(door)
    known = opened[0].getsockname()[1]
    _doors.setdefault(known, set()).update(address[0] for _, address in places)
    return told, known


def share_from_environment(owned: state.OwnerState) -> None:
    """Open a run where WANDB_DDP_PATCH_SHARE says so; a failure is said, once."""
    told = os.environ.get("WANDB_DDP_PATCH_SHARE", "")
    if told in ("", "0") or owned.share is not None:
        return
    try:
        listen_tcp(owned, *parse_setting(told))
    except (OSError, ValueError) as error:
        _lifecycle.termwarn(f"The run is not shared with other machines: {error}.", repeat=False)


def parse_setting(told: str) -> Tuple[Optional[str], int]:
    """Read WANDB_DDP_PATCH_SHARE: 1, or HOST or HOST:PORT.

    Raises:
        ValueError: It is neither.
    """
    try:
        return (None, 0) if told == "1" else addresses.parse_address(told)
    except ValueError as error:
        raise ValueError(f"WANDB_DDP_PATCH_SHARE={told} is not 1, HOST or HOST:PORT") from error


def end(owned: state.OwnerState) -> None:
    """End a run for its workers, after what they have logged before."""
    shared = _gateway.runs.get(bytes.fromhex(owned.key)) if _gateway is not None else None
    if _gateway is not None and shared is not None:
        _warn(_gateway.end(shared))


def _warn(silent: int) -> None:
    if silent:
        _lifecycle.termwarn(
            f"{silent} worker(s) of the run have not been heard from when it ended: what they"
            " have logged last may be lost."
        )


def end_all() -> None:
    """End all runs of this process for workers: it ends."""
    if _gateway is not None:
        for shared in list(_gateway.runs.values()):
            _warn(_gateway.end(shared))


@_lifecycle.in_forked_child()
def after_fork_in_child() -> None:
    """Let go of what belongs to the parent."""
    global _gateway, _starting
    _starting = threading.RLock()
    _doors.clear()
    _given.clear()
    if _gateway is not None:
        event_loop.after_fork_in_child()
        _gateway = None
