"""What the script's process and the one that gets ready for workers tell each other."""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any, List, Sequence, Tuple

# Python passes a forkserver two or three descriptors; the others are standard streams.
_MOST_DESCRIPTORS = 16
# Answers: what has been prepared fits, and the process is the forkserver now.
FITS, TAKEN_OVER = b"fits", b"taken over"


def send(channel: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send a message, of any length, without waiting for the other end to read it.

    Args:
        message: What JSON can hold; other objects are sent as their text.
        descriptors: Files that the other end gets as well.

    Raises:
        OSError: The other end has closed, or too many messages are unread.
    """
    # A file, because the environment may be longer than what a socket buffers. It has no name, so
    # nothing is left of it whoever is killed.
    file = os.memfd_create("message", os.MFD_CLOEXEC)
    try:
        with open(file, "w", encoding="ascii", closefd=False) as text:
            json.dump(message, text, default=str)
        passed = array.array("i", [file, *descriptors])
        channel.sendmsg([b"m"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
    finally:
        os.close(file)


def receive(channel: socket.socket) -> Tuple[Any, List[int]]:
    """Wait for a message, and return it and the descriptors that came with it.

    Raises:
        EOFError: The other end has closed.
    """
    passed = array.array("i")
    size = socket.CMSG_SPACE(_MOST_DESCRIPTORS * passed.itemsize)
    data, rights, *_ = channel.recvmsg(1, size)
    if not data:
        raise EOFError
    for _, _, each in rights:
        passed.frombytes(each[: len(each) - len(each) % passed.itemsize])
    file, *descriptors = passed
    with open(file, "rb") as text:
        text.seek(0)
        return json.loads(text.read()), descriptors
