"""The protocol between wandb's client and W&B's service: its framing and its classes.

On the socket a message is the byte ``W``, its length as a little-endian 32-bit number, and a
serialized ServerRequest towards the service, or ServerResponse back. This
holds for all releases from 0.13 on.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Any, List, Optional, Tuple, Type

from ...tunnel.tls import ProtocolError
from .records import FrameDecoder

if TYPE_CHECKING:
    from google.protobuf.message import Message

_HEADER = struct.Struct("<BI")
_MAGIC = b"W"
# No message of a client is near it, and protobuf itself ends at twice that.
MAX_BYTES = 1 << 30


def frame(message: bytes) -> bytes:
    """Return a message as it is sent on the socket."""
    return _HEADER.pack(_MAGIC[0], len(message)) + message


class MessageDecoder:
    """Splits what came from a socket into messages.

    Args:
        limit: The longest message that is accepted, in bytes.
    """

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._frames = FrameDecoder(_HEADER, _MAGIC, limit)

    def feed(self, data: bytes) -> List[bytes]:
        """Return the messages that are complete, now that more has come.

        Raises:
            ProtocolError: This is not wandb's protocol, or a message is too long.
        """
        return [message for _, message in self._frames.feed(data)]


@functools.lru_cache(maxsize=None)
def server_messages() -> Any:
    """Return wandb's own module of the messages, for the protobuf that is installed."""
    from wandb.proto import wandb_server_pb2

    return wandb_server_pb2


def parse_request(message: bytes) -> Message:
    """Return the ServerRequest that a message is.

    Raises:
        ProtocolError: It is not one.
    """
    return _parse(server_messages().ServerRequest, message)


def parse_response(message: bytes) -> Message:
    """Return the ServerResponse that a message is.

    Raises:
        ProtocolError: It is not one.
    """
    return _parse(server_messages().ServerResponse, message)


def _parse(cls: Type[Message], message: bytes) -> Message:
    try:
        return cls.FromString(message)
    except Exception as error:  # each implementation of protobuf has its own
        raise ProtocolError(f"a message can't be read: {error}") from None


def is_known(message: Message, size: int) -> bool:
    """Return True if a message had that size, and no field that these classes don't know.

    Such fields are dropped from it.
    """
    message.DiscardUnknownFields()
    return bool(message.ByteSize() == size)


def has_field(message: Message, name: str) -> bool:
    """Return True if this release of wandb has that field in such a message."""
    return name in message.DESCRIPTOR.fields_by_name


def record_of(request: Message) -> Optional[Message]:
    """Return the Record in a ServerRequest, if it has one."""
    kind = request.WhichOneof("server_request_type")
    return getattr(request, kind) if kind in ("record_publish", "record_communicate") else None


def kind_and_body(request: Message) -> Tuple[str, Message]:
    """Return the kind of a ServerRequest and the message of that kind.

    Kinds are named as wandb's messages name them: ``inform_attach``, ``record.history``,
    ``request.partial_history``. What has none, or one that these classes don't know, has
    the kind "".
    """
    prefix, oneof, body = "", "server_request_type", request
    while True:
        kind = body.WhichOneof(oneof)
        if kind is None:
            return "", body
        body = getattr(body, kind)
        if kind in ("record_publish", "record_communicate"):
            prefix, oneof = "record.", "record_type"
        elif prefix == "record." and kind == "request":
            prefix, oneof = "request.", "request_type"
        else:
            return prefix + kind, body


@functools.lru_cache(maxsize=None)
def _numbers_questions() -> bool:
    return has_field(server_messages().ServerRequest, "request_id")


def is_plain_row(request: Message) -> bool:
    """Return True if a ServerRequest is a row that nobody waits for, as nearly all are."""
    if not request.record_publish.request.HasField("partial_history"):
        return False
    return not (request.request_id if _numbers_questions() else is_waited_for(request))


def is_waited_for(request: Message) -> bool:
    """Return True if the client waits for an answer to a ServerRequest."""
    # Releases from 0.19 on number what they wait for, whatever its kind.
    if has_field(request, "request_id") and request.request_id:
        return True
    kind = request.WhichOneof("server_request_type")
    if kind in ("record_communicate", "inform_attach", "authenticate"):
        return True
    control = request.record_publish.control
    return bool(control.mailbox_slot or control.req_resp)
