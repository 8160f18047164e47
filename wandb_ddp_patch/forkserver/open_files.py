"""The files that a worker still holds at its end, which the end of an interpreter closes."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import weakref
from typing import Any, Dict, Iterator, List, Optional

_FILE = io.IOBase.__mro__[1]  # to ask an ABC takes longer, and may run the user's code
_INNER = io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.FileIO
# The forkserver's, by their numbers, for they need not be hashable; weakly, for a worker may let
# go of them.
_had: Dict[int, Any] = {}
# The collections that move young objects among the oldest.
_MOVING = 0 if sys.version_info >= (3, 14) else 1
_moved: Any = None


def mark_inherited() -> None:
    """Note, in the forkserver, those that are no worker's."""
    _had.update((id(file), weakref.ref(file)) for file in _held())


def mark_start() -> None:
    """Note, in a worker, that it begins."""
    global _moved
    _moved = _moves()


def close() -> None:
    """Close what the worker has opened and still holds."""
    files = [file for file in _held() if not (id(file) in _had and _had[id(file)]() is file)]
    # From the outside in: what one writes at its end, another has to take.
    for file in sorted(files, key=_depth):
        with contextlib.suppress(Exception):
            file.close()


def flush_c() -> None:
    """Write what C code has printed, which the end of an interpreter does."""
    ctypes: Any = sys.modules.get("ctypes")  # torch has it
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)


def _held() -> List[Any]:
    kinds = {_FILE, getattr(sys.modules.get("tempfile"), "_TemporaryFileWrapper", _FILE)}
    return [each for each in _objects() if not kinds.isdisjoint(type(each).__mro__)]


def _objects() -> Iterator[Any]:
    # To look at each object copies all memory that the worker shares with the forkserver. The
    # oldest are the forkserver's, as long as none has been moved there.
    generations: List[Optional[int]] = [0, 1] if _moves() == _moved else [None]
    for generation in generations:
        yield from gc.get_objects(generation=generation)


def _moves() -> List[int]:
    return [each["collections"] for each in gc.get_stats()[_MOVING:]]


def _depth(file: Any) -> int:
    return 2 if type(file) in _INNER else 0 if type(file) is io.TextIOWrapper else 1
