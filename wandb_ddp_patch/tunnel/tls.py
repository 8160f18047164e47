"""TLS without certificates, between two ends that prove to each other that they hold a token.

Without certificates anybody could stand in between and decrypt: with one TLS connection to
each end. But then the two connections differ, and with them what TLS itself calls unique of
each (RFC 5929, "tls-unique"). Each end proves the token over that value, so that a proof
made for one connection is worth nothing on another.

Why not a certificate: the standard library can't make one, and one that the package brings
would come with a private key that everybody has. Why not TLS's own pre-shared keys: they need
Python 3.13 at both ends. Why TLS 1.2: 1.3 has neither a suite without certificates nor
"tls-unique". Why this suite: those with AEAD need parameters from a file (Diffie-Hellman's);
OpenSSL encrypts first and then authenticates with it (RFC 7366).
"""

from __future__ import annotations

import functools
import hmac
import ssl

# Level 0 because OpenSSL leaves suites without certificates out of all higher ones.
_SUITE = "AECDH-AES256-SHA:@SECLEVEL=0"
_READ_BYTES = 1 << 16
PROOF_BYTES = 32


class AuthenticationError(Exception):
    """The other end has not proven that it holds the token."""


class ProtocolError(Exception):
    """The other end has sent what makes no sense, or what was changed on its way."""


class TlsUnavailableError(OSError):
    """This Python's OpenSSL does not offer what the tunnel needs."""


@functools.lru_cache(maxsize=None)
def _context(server_side: bool) -> ssl.SSLContext:
    side = ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # A session that is resumed would have the unique value of the one before, and a connection
    # that is renegotiated another one than was proven.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_SUITE)
    except (ssl.SSLError, ValueError) as error:
        raise TlsUnavailableError(
            f"runs can't be shared with other machines: {ssl.OPENSSL_VERSION}, which this Python"
            f" uses, does not offer TLS without certificates ({error})"
        ) from None
    return context


def require() -> None:
    """Check that this Python can make such connections.

    Raises:
        TlsUnavailableError: It can't.
    """
    _context(True)
    _context(False)


class TlsChannel:
    """One end of a TLS connection, without a socket: bytes in, bytes out.

    Args:
        server_side: Whether it is the end that was connected to.

    Attributes:
        binding: What is unique to this connection, and equal at both ends; empty until the
            TLS handshake is done.

    Raises:
        TlsUnavailableError: This Python's OpenSSL does not offer what is needed.
    """

    def __init__(self, server_side: bool) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = _context(server_side).wrap_bio(
            self._incoming, self._outgoing, server_side=server_side
        )
        self.binding = b""

    def begin(self) -> None:
        """Begin the TLS handshake, as the end does that has connected."""
        self._shake_hands()

    def receive(self, data: bytes) -> bytes:
        """Return the plain bytes that are whole now that more has come.

        Raises:
            ProtocolError: It is no TLS, or was changed, repeated or reordered on its way.
            EOFError: The other end has closed the connection.
        """
        self._incoming.write(data)
        if not self.binding and not self._shake_hands():
            return b""
        plain = []
        try:
            while True:
                plain.append(self._tls.read(_READ_BYTES))
                if not plain[-1]:
                    raise EOFError
        except ssl.SSLWantReadError:
            return b"".join(plain)
        except ssl.SSLError as error:
            raise ProtocolError(str(error)) from None

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise ProtocolError(str(error)) from None
        self.binding = self._tls.get_channel_binding("tls-unique") or b""
        if not self.binding:
            raise ProtocolError("this TLS connection has nothing that is unique to it")
        return True

    def send(self, plain: bytes) -> None:
        """Encrypt bytes, for :meth:`output`; the TLS handshake has to be done."""
        self._tls.write(plain)

    @property
    def has_output(self) -> bool:
        """Whether something is to go to the other end now."""
        return self._outgoing.pending > 0

    def output(self) -> bytes:
        """Return what is to go to the other end now."""
        return self._outgoing.read()


def prove(token: bytes, role: bytes, binding: bytes, said: bytes) -> bytes:
    """Return the proof that one end of a connection holds the token.

    Args:
        token: What both ends hold.
        role: Which end it is: else a proof could be sent back as one's own.
        binding: What is unique to the connection.
        said: What has been said on it, of a fixed size, which the proof covers as well.
    """
    parts = (role, binding, said)
    # With the lengths: else the same bytes, cut elsewhere, would have the same proof.
    lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
    return hmac.new(token, lengths + b"".join(parts), "sha256").digest()


def check(proof: bytes, token: bytes, role: bytes, binding: bytes, said: bytes) -> None:
    """Check the other end's proof.

    Raises:
        AuthenticationError: It was not made with the token, or for another connection.
    """
    # Not ==, whose time tells how many bytes are right.
    if not hmac.compare_digest(proof, prove(token, role, binding, said)):
        raise AuthenticationError
