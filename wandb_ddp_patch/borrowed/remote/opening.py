"""Opening a run of this process to workers, near and far, and closing it again."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import threading
from typing import Any, Dict, Optional, Tuple

from .. import link
from ..processes import machine
from . import doors, handshake, kin
from .hub import Hub
from .shared import SharedRun
from .wire import Address

_hub: Optional[Hub] = None
_starting = threading.RLock()
# Ports that this process listens at, by the host and port that were asked for.
_doors: Dict[Tuple[Optional[str], int], Tuple[str, int]] = {}
# The address at which it listens for its own machine.
_within: Optional[Address] = None


class NoAddressError(OSError):
    """It can't be told by which address other machines reach this one."""


def open_to_machines(owned: link.Owned, host: Optional[str], port: int) -> Dict[str, Any]:
    """Let workers on other machines connect to a run of this process.

    Args:
        owned: The run's link.
        host: The address by which they reach this machine; None for the likely one.
        port: The port; 0 for any that is free.

    Returns:
        What payloads carry: host, port, token and this machine.

    Raises:
        OSError: It can't listen there.
    """
    with _starting:
        if owned.share is not None:
            return owned.share
        where = _doors.get((host, port)) or _open(host, port)
        _doors[host, port] = where
        run = SharedRun(owned.key, secrets.token_bytes(handshake.TOKEN_BYTES))
        hub().runs[bytes.fromhex(owned.key)] = run
        owned.share = {
            "host": where[0],
            "port": where[1],
            "token": run.token,
            "machine": machine(),
        }
        return owned.share


def open_to_workers(owned: link.Owned) -> Optional[Address]:
    """Let workers of this process's tree, and on this machine, connect to a run of its.

    Returns:
        The address for payloads; None where there can be no local socket.
    """
    global _within
    with _starting:
        try:
            if _within is None:
                door = doors.within()
                hub().open(door)
                _within = doors.address(door)
        except (OSError, RuntimeError):  # no descriptors, or threads, are left
            return None
        run = SharedRun(owned.key, kin.token(owned.key), is_near=True)
        hub().runs.setdefault(kin.name(owned.key), run)
        return _within


def hub() -> Hub:
    """Get this process's hub; start it if there is none."""
    global _hub
    with _starting:
        if _hub is None:
            _hub = Hub()
        return _hub


def _open(host: Optional[str], port: int) -> Tuple[str, int]:
    told = host or likely_host()
    # A host that is not this machine's own stands for it elsewhere, as behind a
    # translated address.
    door = doors.towards_others(told, port) or doors.towards_others(likely_host(), port)
    if door is None:
        raise OSError(errno.EADDRNOTAVAIL, f"{told} is no address of this machine")
    hub().open(door)
    return told, door.getsockname()[1]


def likely_host() -> str:
    """Guess by which address other machines reach this one.

    That by which torch's processes find each other, or Slurm's name of this machine, or
    that of the way out of it.

    Raises:
        NoAddressError: There is none.
    """
    for told in (os.environ.get("MASTER_ADDR"), os.environ.get("SLURMD_NODENAME")):
        found = told and _own_address_towards(told)
        if found:
            return found
    # Nothing is sent: the system only says which way that would go.
    for anywhere in ("192.0.2.1", "2001:db8::1", socket.gethostname()):
        found = _own_address_towards(anywhere)
        if found and not found.startswith("127.") and found != "::1":
            return found
    raise NoAddressError(
        "it can't be told by which address other machines reach this one: give it,"
        " as share(host=...) or WANDB_DDP_PATCH_SHARE=HOST"
    )


def _own_address_towards(host: str) -> Optional[str]:
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as asking:
                asking.connect(address)
                return str(asking.getsockname()[0])
    except OSError:
        pass
    return None


def by_environment(owned: link.Owned) -> None:
    """Open a run where WANDB_DDP_PATCH_SHARE says so; a failure is said, once."""
    told = os.environ.get("WANDB_DDP_PATCH_SHARE", "")
    if told in ("", "0") or owned.share is not None:
        return
    try:
        open_to_machines(owned, *parse(told))
    except (OSError, ValueError) as error:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(f"The run is not shared with other machines: {error}.", repeat=False)


def parse(told: str) -> Tuple[Optional[str], int]:
    """Read WANDB_DDP_PATCH_SHARE: 1, HOST or HOST:PORT, with [] around an IPv6 address.

    Raises:
        ValueError: It is none of these.
    """
    if told == "1":
        return None, 0
    host, port = told, "0"
    if told.startswith("["):
        host, _, rest = told[1:].partition("]")
        port = rest[1:] or "0"
    elif told.count(":") == 1:
        host, _, port = told.partition(":")
    if not port.isdigit():
        raise ValueError(f"WANDB_DDP_PATCH_SHARE={told} is not 1, HOST or HOST:PORT")
    return host or None, int(port)


def end(owned: link.Owned) -> None:
    """End a run for its workers, after what they have logged before."""
    if _hub is not None:
        for name in (bytes.fromhex(owned.key), kin.name(owned.key)):
            run = _hub.runs.get(name)
            if run is not None:
                _end(_hub, run)


def _end(hub: Hub, run: SharedRun) -> None:
    if run.over:
        return
    silent = hub.end(run)
    if silent:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(
            f"{silent} worker(s) of the run have not been heard from when it ended: what they"
            " have logged last may be lost."
        )


def end_all() -> None:
    """End all runs of this process for workers: it ends."""
    if _hub is not None:
        for run in list(_hub.runs.values()):
            _end(_hub, run)


def after_fork_in_child() -> None:
    """Let go of what belongs to the parent."""
    global _hub, _starting, _within
    _starting = threading.RLock()
    _doors.clear()
    _within = None
    if _hub is not None:
        _hub.close()
        _hub = None
