"""A worker's connection to an owner: made, proven, and the frames that go over it."""

from __future__ import annotations

import select
import socket
from typing import Any, Iterator, List, Tuple, Union

from . import handshake
from .frames import Frame, Item, Opener, Sealer

Address = Union[str, Tuple[str, int]]

# How long one try to connect may take, how long the owner may take to answer, and how
# long a write may wait: it may be stopped, or in a long call.
_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 30.0
_READ_BYTES = 1 << 16


class Wire:
    """A connection.

    Args:
        address: Host and port, or the path of a local socket.
        knock: This worker's side of the handshake.
        taken: The last item of the owner's that has come here.
        patience: Seconds within which all that is to be had; or less, see below.

    Attributes:
        taken: The last item of ours that the owner had.

    Raises:
        OSError: It can't be had now; ConnectionRefusedError where nobody is there.
        EOFError: Who is there does not speak with us.
        handshake.NotProvenError: Who is there does not hold the token.
    """

    def __init__(
        self, address: Address, knock: handshake.Knock, taken: int, patience: float = 60.0
    ) -> None:
        self._socket = connect(address, min(_CONNECT_SECONDS, patience))
        try:
            self._socket.settimeout(min(_ANSWER_SECONDS, patience))
            self._socket.sendall(knock.hello)
            proof, self.taken, keys = knock.prove(self._exactly(handshake.ANSWER_BYTES), taken)
            self._socket.sendall(proof)
        except BaseException:
            self.close()
            raise
        self._sealer, self._opener = Sealer(keys.of_worker), Opener(keys.of_owner)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def send(self, made: int, items: List[Item], asks: bool) -> None:
        """Send a frame; wait until it is on its way."""
        self._socket.sendall(self._sealer.seal(made, items, asks))

    def wait(self, other: socket.socket, seconds: float) -> bool:
        """Wait until something has come here, or to another socket.

        Returns:
            Whether it has come here.
        """
        return _is_readable(self._socket, seconds, other)

    def has_come(self, seconds: float) -> bool:
        """Wait until something has come, within a limit; say whether it has."""
        return _is_readable(self._socket, seconds)

    def limit_nothing(self) -> None:
        """Let a write wait for as long as it takes."""
        self._socket.settimeout(None)

    def receive(self) -> Iterator[Frame]:
        """Give the frames that have come."""
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise EOFError
        return self._opener.feed(data)

    def close(self) -> None:
        self._socket.close()


def _is_readable(one: socket.socket, seconds: float, *others: socket.socket) -> bool:
    if hasattr(select, "poll"):  # select() can't have descriptors from 1024 on
        poll = select.poll()
        for each in (one, *others):
            poll.register(each, select.POLLIN)
        return any(ready == one.fileno() for ready, _ in poll.poll(1000 * seconds))
    return bool(select.select([one, *others], [], [], seconds)[0].count(one))


def connect(address: Address, seconds: float) -> Any:
    """Connect to an address, within a limit."""
    if not isinstance(address, str):
        host: Any = address[0]
        if host.isascii():  # as bytes: else Python imports a codec, while a handler may come
            host = host.encode()
        connection = socket.create_connection((host, address[1]), seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection
    local = socket.socket(socket.AF_UNIX)
    try:
        local.settimeout(seconds)
        local.connect(address)
    except BaseException:
        local.close()
        raise
    return local
