"""By which address other machines reach this one, and where it listens for them."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from typing import Any, List, Optional, Set, Tuple

# A family of addresses, and an address as its sockets take them.
Place = Tuple[int, Tuple[Any, ...]]


class NoAddressError(OSError):
    """It can't be told by which address other machines reach this one."""


def resolve(host: str) -> List[Place]:
    """Look up a host: all that it is, as this machine sees it.

    Raises:
        OSError: There is none; with its name.
    """
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise OSError(errno.EADDRNOTAVAIL, f"{host}: {why}") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def all_interfaces() -> List[Place]:
    """Give all addresses of this machine, of both families where a socket can have both."""
    return resolve("::" if socket.has_dualstack_ipv6() else "0.0.0.0")


def is_literal(host: str) -> bool:
    """Return True if a host means the same everywhere: an address, or localhost."""
    if "localhost" in host.lower():
        return True
    with contextlib.suppress(OSError, UnicodeError):
        return bool(socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST))
    return False


def is_own(place: Place) -> bool:
    """Return True if it is an address of this machine."""
    with contextlib.suppress(OSError), socket.socket(place[0], socket.SOCK_DGRAM) as trying:
        trying.bind(place[1])
        return True
    return False


def is_wildcard(place: Place) -> bool:
    """Return True if to listen there is to listen at every address."""
    return place[1][0] in ("0.0.0.0", "::")


def is_loopback(place: Place) -> bool:
    """Return True if only this machine itself is reached by it."""
    address = ipaddress.ip_address(place[1][0].partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_covered(place: Place, heard: Set[str]) -> bool:
    """Return True if it is among addresses at which somebody listens."""
    everywhere = {"::"} if place[0] == socket.AF_INET6 else {"::", "0.0.0.0"}
    return not heard.isdisjoint({place[1][0], *everywhere})


def own_address_towards(place: Place) -> Optional[str]:
    """Say by which address of this machine others at a place reach it, if they do."""
    family, address = place
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.connect((address[0], 9, *address[2:]))
        own: str = asking.getsockname()[0]
        # An address of a link's own (fe80::) is of no use without the link's name.
        if not is_loopback((family, (own,))) and not own.startswith("fe80:"):
            return own
    return None


def parse_address(told: str) -> Tuple[Optional[str], int]:
    """Read HOST or HOST:PORT, with [] around an IPv6 address that a port follows.

    Raises:
        ValueError: It is neither.
    """
    host, port = told, ""
    if told.startswith("["):
        host, closed, port = told[1:].partition("]")
        if not closed or (port and port[0] != ":"):
            raise ValueError(f"{told} is not HOST or HOST:PORT")
        port = port[1:]
    elif told.count(":") == 1:
        host, _, port = told.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"{told} is not HOST or HOST:PORT")
    return host or None, int(port or 0)


def plan(host: str) -> Tuple[str, List[Place]]:
    """Say what workers are told for a host, and where to listen for that."""
    found = resolve(host)
    if any(map(is_wildcard, found)):
        return guess_host(found[0][0] if found[0][0] == socket.AF_INET else 0), found
    own = [place for place in found if is_own(place)]
    if own and (is_literal(host) or not all(map(is_loopback, own))):
        return host, own
    address = _own_address()
    if address is None and own:
        return host, all_interfaces()
    if address is None:
        what = f"{host} is no address of this machine, which has none that others reach"
        raise OSError(errno.EADDRNOTAVAIL, what)
    # What is a loopback address here, as Debian has a machine's own name, is something else
    # elsewhere. What is no address of this machine stands for it elsewhere, as behind a
    # translated address.
    return address if own else host, resolve(address)


def guess_host(family: int = 0) -> str:
    """Guess by which address other machines reach this one.

    That by which torch's processes find each other, or Slurm's name of this machine, or
    that of the way out of it; else a name of these two that others know, too.

    Raises:
        NoAddressError: There is none.
    """
    address = _own_address(family)
    if address is not None:
        return address
    for name in _names():
        with contextlib.suppress(OSError):
            if not is_literal(name) and any(map(is_own, resolve(name))):
                return name
    raise NoAddressError(
        "it can't be told by which address other machines reach this one: give it,"
        " as share(host=...) or WANDB_DDP_PATCH_SHARE=HOST"
    )


def _names() -> List[str]:
    told = (os.environ.get("MASTER_ADDR"), os.environ.get("SLURMD_NODENAME"))
    return [name for name in told if name]


def _own_address(family: int = 0) -> Optional[str]:
    # Nothing is sent: the system only says which way that would go.
    for host in (*_names(), "192.0.2.1", "2001:db8::1", socket.gethostname()):
        with contextlib.suppress(OSError):
            for place in resolve(host):
                own = own_address_towards(place)
                if own is not None and family in (0, place[0]):
                    return own
    return None
