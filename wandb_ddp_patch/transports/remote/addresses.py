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
    """Return all addresses of a host, as this machine sees it.

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
    """Return all addresses of this machine, of both families where a socket can have both."""
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
    """Return the address of this machine by which others at a place reach it, if they do."""
    family, address = place
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.connect((address[0], 9, *address[2:]))
        own: str = asking.getsockname()[0]
        # An address of a link's own (fe80::) is of no use without the link's name.
        if not is_loopback((family, (own,))) and not own.startswith("fe80:"):
            return own
    return None


def parse_address(text: str) -> Tuple[Optional[str], int]:
    """Return the host and port in HOST or HOST:PORT, with [] around an IPv6 address before a port.

    Raises:
        ValueError: It is neither.
    """
    host, port = text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and port[0] != ":"):
            raise ValueError(f"{text} is not HOST or HOST:PORT")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text} is not HOST or HOST:PORT")
    return host or None, int(port or 0)


def plan(host: str) -> Tuple[str, List[Place]]:
    """Return what payloads name in place of a host, and where to listen for that."""
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
        raise OSError(
            errno.EADDRNOTAVAIL,
            f"{host} is not an address of this machine, and this machine has none that others can"
            " reach",
        )
    # What is a loopback address here, as Debian has a machine's own name, is something else
    # elsewhere. What is no address of this machine stands for it elsewhere, as behind a
    # translated address.
    return address if own else host, resolve(address)


def guess_host(family: int = 0) -> str:
    """Return the address by which other machines are likely to reach this one.

    That by which torch's processes find each other, or Slurm's name of this machine, or
    that of its default route; else one of these two names, if others know it as well.

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
        "no address was found at which other machines can reach this one: pass one as"
        " share(host=...), or set WANDB_DDP_PATCH_SHARE=HOST"
    )


def _names() -> List[str]:
    names = (os.environ.get("MASTER_ADDR"), os.environ.get("SLURMD_NODENAME"))
    return [name for name in names if name]


def _own_address(family: int = 0) -> Optional[str]:
    # Nothing is sent: the kernel only says from which address it would be. 192.0.2.1 and
    # 2001:db8::1 are nobody's (RFC 5737, RFC 3849), so they stand for the default route.
    for host in (*_names(), "192.0.2.1", "2001:db8::1", socket.gethostname()):
        with contextlib.suppress(OSError):
            for place in resolve(host):
                own = own_address_towards(place)
                if own is not None and family in (0, place[0]):
                    return own
    return None


def bind_tcp(places: List[Place], port: int) -> List[socket.socket]:
    """Bind sockets to addresses of this machine, all at the same port.

    Raises:
        OSError: Another process has it, or this one may not use it.
    """
    for attempts_left in reversed(range(10)):
        opened: List[socket.socket] = []
        try:
            for place in places:
                opened.append(_bound(place, opened[0].getsockname()[1] if opened else port))
            return opened
        except OSError as error:
            for listener in opened:
                listener.close()
            # The port that was free for the first one need not be so for the next one.
            if not (attempts_left and opened and port == 0 and error.errno == errno.EADDRINUSE):
                raise
    return opened


def _bound(place: Place, port: int) -> socket.socket:
    family, address = place
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # "::" stands for both families
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address[0], port, *address[2:]))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{address[0]}, port {port}: {error.strerror}") from None
    return listener
