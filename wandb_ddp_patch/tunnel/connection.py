"""One connection of a tunnel, without a socket: TLS, proofs, and the frames of a stream.

Inside TLS, the end that has connected first says which stream of what name it goes on with,
and proves that it holds the token; the other end answers with its own proof. Both messages
have a fixed size, and nothing else is read from an end that has not proven itself: so whoever
reaches the port can neither fill memory nor reach the code behind. Frames follow.

====================  =============================================================
hello                 magic, name, stream, bytes received so far, proof
answer                magic, bytes received so far, proof
data frame            kind 1, position of its first byte, length, bytes
acknowledgement       kind 2, position up to which bytes were consumed, zero
====================  =============================================================
"""

from __future__ import annotations

import struct
from typing import Callable, Optional, Tuple

from . import tls
from .stream import Stream
from .tls import AuthenticationError, ProtocolError, TlsChannel

NAME_BYTES = 16
_MAGIC = b"wddptun1"  # its last byte is the version of this protocol
_HELLO = struct.Struct(">8s16s16sQ")
_ANSWER = struct.Struct(">8sQ")
_FRAME = struct.Struct(">BQI")
_DATA, _ACKNOWLEDGEMENT = 1, 2
_CLIENT, _SERVER = b"client", b"server"
_FRAME_BYTES = 1 << 17
# So much is encrypted at a time: the rest waits in the outbox, where acknowledgements can
# overtake it. An acknowledgement behind 4 MiB of data would leave the other end's writer
# waiting meanwhile, and that end's acknowledgements behind its data this one's.
_OUTPUT_BYTES = 1 << 20

# What a server knows of a name: the token, and what returns a stream of it by its id.
Known = Tuple[bytes, Callable[[bytes], Stream]]


class Connection:
    """One end of a connection that carries a stream.

    Attributes:
        stream: What it carries; None until the other end has proven itself.
        is_urgent: Whether somebody waits for what came last.
    """

    def __init__(self, server_side: bool) -> None:
        self._channel = TlsChannel(server_side)
        self._plain = bytearray()
        self._acknowledged = 0
        self.stream: Optional[Stream] = None
        self.is_urgent = False

    def receive(self, data: bytes) -> None:
        """Take in bytes of the network's.

        Raises:
            AuthenticationError: The other end does not hold the token.
            ProtocolError: It sends what makes no sense, or what was changed on its way.
            EOFError: It has closed the connection.
        """
        self._plain += self._channel.receive(data)
        self.is_urgent = self.stream is None  # one that proves itself waits for the answer
        if self.stream is None and self._channel.binding:
            self.stream = self._authenticate()
            if self.stream is not None:
                self._acknowledged = self.stream.received
        if self.stream is not None:
            self._receive_frames(self.stream)

    def _authenticate(self) -> Optional[Stream]:
        """Return the stream, once the other end has proven itself."""
        raise NotImplementedError

    def _take_said(self, layout: struct.Struct) -> Optional[Tuple[bytes, bytes]]:
        """Return what the other end has said of itself, and its proof, once both have come."""
        size = layout.size + tls.PROOF_BYTES
        if len(self._plain) < size:
            return None
        said, proof = bytes(self._plain[: layout.size]), bytes(self._plain[layout.size : size])
        if not said.startswith(_MAGIC):
            raise AuthenticationError("another version of this protocol, or another protocol")
        del self._plain[:size]
        return said, proof

    def _receive_frames(self, stream: Stream) -> None:
        at, plain = 0, self._plain
        while len(plain) - at >= _FRAME.size:
            kind, position, length = _FRAME.unpack_from(plain, at)
            # What TLS has let through, only a holder of the token can have sent: but one that
            # is broken must not have this end wait for a frame of 4 GB.
            if length > _FRAME_BYTES or kind not in (_DATA, _ACKNOWLEDGEMENT):
                raise ProtocolError("a frame of no known kind or size")
            end = at + _FRAME.size + length
            if end > len(plain):
                break
            if kind == _ACKNOWLEDGEMENT:
                stream.acknowledge(position)
            else:
                data = bytes(memoryview(plain)[at + _FRAME.size : end])
                self.is_urgent = stream.receive(position, data) or self.is_urgent
            at = end
        del plain[:at]

    @property
    def is_encrypted(self) -> bool:
        """Whether the TLS handshake is done, so that the other end is one that speaks TLS."""
        return bool(self._channel.binding)

    @property
    def has_output(self) -> bool:
        """Whether something waits to be sent, besides an acknowledgement."""
        waits = self.stream is not None and self.stream.outbox.unsent > 0
        return waits or self._channel.has_output

    def output(self) -> bytes:
        """Return bytes for the network: what the stream has to send, and acknowledgements.

        There may be more: ask again once these have gone.
        """
        if self.stream is not None:
            self._send_frames(self.stream)
        return self._channel.output()

    def _send_frames(self, stream: Stream) -> None:
        if self.unacknowledged:
            self._acknowledged = stream.consumed
            self._channel.send(_FRAME.pack(_ACKNOWLEDGEMENT, self._acknowledged, 0))
        outbox, left = stream.outbox, _OUTPUT_BYTES
        while outbox.unsent and left > 0:
            position = outbox.acknowledged + len(outbox) - outbox.unsent
            piece = outbox.next(_FRAME_BYTES)
            self._channel.send(_FRAME.pack(_DATA, position, len(piece)) + piece)
            left -= len(piece)

    @property
    def unacknowledged(self) -> int:
        """How many bytes were consumed that the other end has not been told of."""
        if self.stream is None:
            return 0
        return max(0, self.stream.consumed - self._acknowledged)


class ClientConnection(Connection):
    """The end that has connected.

    Args:
        stream: What is to be carried.
        name: What the other end knows the token by, ``NAME_BYTES``.
        token: What both ends hold.
    """

    def __init__(self, stream: Stream, name: bytes, token: bytes) -> None:
        super().__init__(server_side=False)
        self._wanted, self._name, self._token = stream, name, token
        self._hello = b""
        self._channel.begin()

    def _authenticate(self) -> Optional[Stream]:
        if not self._hello:
            self._hello = _HELLO.pack(_MAGIC, self._name, self._wanted.id, self._wanted.received)
            binding = self._channel.binding
            proof = tls.prove(self._token, _CLIENT, binding, self._hello)
            self._channel.send(self._hello + proof)
        answer = self._take_said(_ANSWER)
        if answer is None:
            return None
        said, proof = answer
        tls.check(proof, self._token, _SERVER, self._channel.binding, self._hello + said)
        self._wanted.outbox.rewind(_ANSWER.unpack(said)[1])
        return self._wanted


class ServerConnection(Connection):
    """The end that was connected to.

    Args:
        find: Returns what is known of a name, or None. Whoever says one that is not known, or
            does not hold its token, hears nothing: not even which of the two it was.
    """

    def __init__(self, find: Callable[[bytes], Optional[Known]]) -> None:
        super().__init__(server_side=True)
        self._find = find

    def _authenticate(self) -> Optional[Stream]:
        hello = self._take_said(_HELLO)
        if hello is None:
            return None
        said, proof = hello
        _, name, id, received = _HELLO.unpack(said)
        known = self._find(name)
        if known is None:
            raise AuthenticationError
        token, open_stream = known
        binding = self._channel.binding
        tls.check(proof, token, _CLIENT, binding, said)
        stream = open_stream(id)
        # Where each end has got to is said under the proofs: to change it would be to lose bytes,
        # or to have them twice.
        answer = _ANSWER.pack(_MAGIC, stream.received)
        self._channel.send(answer + tls.prove(token, _SERVER, binding, said + answer))
        stream.outbox.rewind(received)
        return stream
