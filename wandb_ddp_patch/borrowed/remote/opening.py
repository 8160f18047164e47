"""Opening a run of this process to other machines, and closing it again."""

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
from . import handshake
from .hub import Hub
from .shared import SharedRun

_hub: Optional[Hub] = None
_starting = threading.RLock()
# Ports that this process listens at, by the host and port that were asked for.
_doors: Dict[Tuple[Optional[str], int], Tuple[str, int]] = {}


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
    door = _bound(told, port) or _bound(likely_host(), port)
    if door is None:
        raise OSError(errno.EADDRNOTAVAIL, f"{told} is no address of this machine")
    hub().open(door)
    return told, door.getsockname()[1]


def _bound(host: str, port: int) -> Optional[socket.socket]:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    door = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRNOTAVAIL:
            return None
        raise
    return door


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
    """End a run for workers on other machines, after what they have logged before."""
    if _hub is None:
        return
    run = _hub.runs.get(bytes.fromhex(owned.key))
    if run is None or run.over:
        return
    silent = _hub.end(run)
    if silent:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(
            f"{silent} worker(s) of the run have not been heard from when it ended: what they"
            " have logged last may be lost."
        )


def end_all() -> None:
    """End all runs of this process for workers on other machines: it ends."""
    for run in link.runs():
        tied = link.of(run)
        if isinstance(tied, link.Owned) and tied.share is not None:
            end(tied)


def after_fork_in_child() -> None:
    """Let go of what belongs to the parent."""
    global _hub, _starting
    _starting = threading.RLock()
    _doors.clear()
    if _hub is not None:
        _hub.close()
        _hub = None
