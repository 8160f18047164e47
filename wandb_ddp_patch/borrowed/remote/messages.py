"""What items mean: what workers send to an owner, and what it sends to them."""

from __future__ import annotations

import pickle
import struct
from typing import Any, Tuple

# From a worker. A row of numbers and strings is made at once; all else by a thread of its
# own, because it may ask the network. A row is not waited for: only an error comes back.
ROW, LARGE_ROW, CALL, QUICK_CALL = 1, 2, 3, 4
CALLS, APART, ANSWERED = {ROW, LARGE_ROW, CALL, QUICK_CALL}, {LARGE_ROW, CALL}, {CALL, QUICK_CALL}
# A piece of a file, and that it is whole. A worker may send a file before it is needed.
PIECE, WHOLE = 5, 6
# All that was logged before the owner began to end the run is sent; and goodbye.
ALL, BYE = 7, 8

# From the owner: what a call has returned or raised; that it is about to end the run, and
# wants to have what was logged before; that it has ended it.
ANSWER, ENDING, OVER = 9, 10, 11

_NUMBER = struct.Struct(">Q")


def answer(number: int, done: bool, result: Any) -> bytes:
    """Make the body of an answer.

    Args:
        number: The call's.
        done: Whether it has returned; else it has raised.
        result: What it has returned, or raised.
    """
    try:
        content = pickle.dumps((done, result), 5)
    except Exception:
        content = pickle.dumps((done, None), 5)  # nothing that a worker could use
    return _NUMBER.pack(number) + content


def read_answer(body: bytes) -> Tuple[int, bool, Any]:
    """Read the body of an answer: number, whether it is done, result."""
    (number,) = _NUMBER.unpack_from(body)
    try:
        done, result = pickle.loads(body[_NUMBER.size :])
    except Exception as error:
        done, result = False, RuntimeError(f"the owner's answer can't be read here: {error}")
    return number, done, result
