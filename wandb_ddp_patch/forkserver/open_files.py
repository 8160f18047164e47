"""The files that a worker still holds at its end, which the end of an interpreter closes.

A forked worker ends by os._exit(), which would lose what is still in their buffers.
"""

from __future__ import annotations

import contextlib
import gc
import io
import sys
import weakref
from typing import Any, Dict, Iterator, List, Optional

# The class of C itself: isinstance() with the ABC takes longer, and may run the user's code.
_FILE = io.IOBase.__mro__[1]
_INNER = io.BufferedWriter, io.BufferedRandom, io.BufferedReader, io.FileIO
# The forkserver's files. By id, for they need not be hashable; by weak references, for a worker
# may drop one, and a file of its own may then get the same id.
_inherited: Dict[int, weakref.ref[Any]] = {}
# Collections of these generations move young objects to the oldest one.
_FIRST_PROMOTING = 0 if sys.version_info >= (3, 14) else 1
_collections_at_start: Optional[List[int]] = None


def mark_inherited() -> None:
    """Note, in the forkserver, the files that are no worker's."""
    _inherited.update((id(file), weakref.ref(file)) for file in _live_files())


def mark_start() -> None:
    """Note, in a worker, that it begins."""
    global _collections_at_start
    _collections_at_start = _promoting_collections()


def close_own() -> None:
    """Close the files that the worker has opened and still holds."""
    files = [
        file
        for file in _live_files()
        if not (id(file) in _inherited and _inherited[id(file)]() is file)
    ]
    # From the outside in: closing a text file writes to the buffer below it, which would fail if
    # that were closed already.
    for file in sorted(files, key=_depth):
        with contextlib.suppress(Exception):
            file.close()


def flush_c_streams() -> None:
    """Write what C code has printed and stdio still buffers."""
    ctypes: Any = sys.modules.get("ctypes")  # torch has it
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)


def _live_files() -> List[Any]:
    kinds = {_FILE, getattr(sys.modules.get("tempfile"), "_TemporaryFileWrapper", _FILE)}
    return [each for each in _live_objects() if not kinds.isdisjoint(type(each).__mro__)]


def _live_objects() -> Iterator[object]:
    # To look at an object writes its reference count: looking at all of them would copy all the
    # memory that the worker shares with the forkserver. The oldest generation holds only the
    # forkserver's objects, unless a collection has moved some of the worker's there.
    unmoved = _promoting_collections() == _collections_at_start
    generations: List[Optional[int]] = [0, 1] if unmoved else [None]
    for generation in generations:
        yield from gc.get_objects(generation=generation)


def _promoting_collections() -> List[int]:
    return [each["collections"] for each in gc.get_stats()[_FIRST_PROMOTING:]]


def _depth(file: object) -> int:
    return 2 if type(file) in _INNER else 0 if type(file) is io.TextIOWrapper else 1
