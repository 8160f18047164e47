"""How worker and owner prove to each other that they hold a run's token.

Three messages of fixed size. The worker speaks first: who does not name a run of the
owner's hears nothing at all. The token itself is never sent, nothing is unpickled, and
the keys of the connection are made of what both have said, so that nothing said on one
connection means anything on another.
"""

from __future__ import annotations

import hmac
import os
import struct
from typing import NamedTuple, Tuple

from .frames import mac

_NAME = b"wddp\x00\x00\x00\x01"  # with the version of the protocol
_NONCE_BYTES, _PROOF_BYTES, _ID_BYTES = 32, 32, 16
_COUNT = struct.Struct(">Q")

HELLO_BYTES = len(_NAME) + 2 * _ID_BYTES + _NONCE_BYTES
ANSWER_BYTES = _NONCE_BYTES + _COUNT.size + _PROOF_BYTES
PROOF_BYTES = _COUNT.size + _PROOF_BYTES
TOKEN_BYTES = 32


class NotProvenError(Exception):
    """The other side has not shown that it holds the token."""


class Keys(NamedTuple):
    """The keys of a connection's two directions."""

    of_worker: bytes
    of_owner: bytes


class Knock:
    """The worker's side.

    Args:
        run: What identifies the run, 16 bytes.
        session: What identifies this worker, 16 bytes: the same when it connects again.
        token: The run's.

    Attributes:
        hello: What is to be sent first.
    """

    def __init__(self, run: bytes, session: bytes, token: bytes) -> None:
        self._token = token
        self.hello = _NAME + run + session + os.urandom(_NONCE_BYTES)

    def prove(self, answer: bytes, taken: int) -> Tuple[bytes, int, Keys]:
        """Check the owner's answer, and make the proof that it waits for.

        Args:
            answer: ``ANSWER_BYTES`` of the owner's.
            taken: The last item of the owner's that has come here.

        Returns:
            The proof, the last item of ours that the owner has, and the keys.

        Raises:
            NotProvenError: It is not the owner's.
        """
        said, proof = answer[:-_PROOF_BYTES], answer[-_PROOF_BYTES:]
        if not hmac.compare_digest(mac(self._token, b"owner", self.hello, said), proof):
            raise NotProvenError
        count = _COUNT.pack(taken)
        transcript = self.hello + answer + count
        (owner_has,) = _COUNT.unpack_from(said, _NONCE_BYTES)
        ours = mac(self._token, b"worker", transcript)
        return count + ours, owner_has, _keys(self._token, transcript)


def names(hello: bytes) -> Tuple[bytes, bytes]:
    """Say which run and which session a worker's first message names.

    Raises:
        NotProvenError: It is no such message.
    """
    if len(hello) != HELLO_BYTES or not hello.startswith(_NAME):
        raise NotProvenError
    at = len(_NAME)
    return hello[at : at + _ID_BYTES], hello[at + _ID_BYTES : at + 2 * _ID_BYTES]


class Door:
    """The owner's side.

    Args:
        hello: What the worker has sent first.
        token: That of the run that it names.
        taken: The last item of this session's that has come here.

    Attributes:
        answer: What is to be sent to the worker.
    """

    def __init__(self, hello: bytes, token: bytes, taken: int) -> None:
        self._hello, self._token = hello, token
        said = os.urandom(_NONCE_BYTES) + _COUNT.pack(taken)
        self.answer = said + mac(token, b"owner", hello, said)

    def check(self, proof: bytes) -> Tuple[int, Keys]:
        """Check the worker's proof.

        Returns:
            The last item of ours that it has, and the keys.

        Raises:
            NotProvenError: It does not hold the token.
        """
        count, given = proof[: _COUNT.size], proof[_COUNT.size :]
        transcript = self._hello + self.answer + count
        if not hmac.compare_digest(mac(self._token, b"worker", transcript), given):
            raise NotProvenError
        return _COUNT.unpack(count)[0], _keys(self._token, transcript)


def _keys(token: bytes, transcript: bytes) -> Keys:
    return Keys(mac(token, b"from worker", transcript), mac(token, b"from owner", transcript))
