"""Addresses as people write them, and as the variable gives them."""

import errno
import socket
import sys

import pytest

from wandb_ddp_patch.transports.remote import addresses, shared_runs


@pytest.mark.skipif(sys.platform != "linux", reason="has no second loopback address")
def test_a_port_that_is_free_for_one_family_alone_is_not_taken(monkeypatch):
    bound, tried = addresses._bound, []

    def taken_at_first(place, port):
        tried.append(port)
        if len(tried) == 2:
            raise OSError(errno.EADDRINUSE, "taken")
        return bound(place, port)

    monkeypatch.setattr(addresses, "_bound", taken_at_first)
    places = addresses.resolve("127.0.0.1") + addresses.resolve("127.0.0.2")
    opened = addresses.bind_tcp(places, 0)
    ports = {door.getsockname()[1] for door in opened}
    assert ports == {tried[3]} and [port == 0 for port in tried] == [True, False] * 2
    for door in opened:
        door.close()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.0.1.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_what_a_loopback_address_is(address, expected):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    assert addresses.is_loopback((family, (address, 0))) is expected


@pytest.mark.parametrize(
    ("told", "host", "port"),
    [
        ("1", None, 0),
        ("10.0.0.1", "10.0.0.1", 0),
        ("node-1:4000", "node-1", 4000),
        ("[fe80::1]:4000", "fe80::1", 4000),
        ("[::1]", "::1", 0),
        ("fe80::1", "fe80::1", 0),
    ],
)
def test_the_variable(told, host, port):
    assert shared_runs.parse_setting(told) == (host, port)


def test_a_variable_that_makes_no_sense():
    with pytest.raises(ValueError, match="is not 1, HOST or HOST:PORT"):
        shared_runs.parse_setting("host:port")
