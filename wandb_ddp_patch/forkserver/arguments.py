"""Whether a worker's function and arguments can be pickled, tried before anything starts."""

from __future__ import annotations

import functools
import types
from multiprocessing import context, reduction
from typing import Any, Callable, Dict, Optional, Sized, Tuple

# A larger pickle is not tried to its end: the arguments are pickled once more for each worker.
_LONGEST_BYTES = 1 << 18


def pickling_problem(fn: Callable[..., object], args: Tuple[object, ...]) -> Optional[str]:
    """Return which of them can't be sent to a new process, and why; None where all can."""
    name = getattr(fn, "__qualname__", f"the {type(fn).__qualname__}")
    named = [(name, fn), *((f"args[{n}]", arg) for n, arg in enumerate(args))]
    # Locks and queues let themselves be pickled only while a process is being started.
    set_popen: Any = context.set_spawning_popen
    set_popen(_TrialPopen)
    try:
        for what, value in named:
            try:
                _TrialPickler(_DiscardingFile()).dump(value)
            except _LongEnough:
                pass
            except Exception as error:
                why = " ".join(str(error).split()).rstrip(".")
                return f"{what} can't be sent to a new process: {why or type(error).__name__}"
    finally:
        set_popen(None)
    return None


# Not an Exception: a __reduce__ that suppresses these would have the pickle go on.
class _LongEnough(BaseException):
    pass


class _DiscardingFile:
    def __init__(self) -> None:
        self._left_bytes = _LONGEST_BYTES

    def write(self, data: Sized) -> None:
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            raise _LongEnough


class _TrialPickler(reduction.ForkingPickler):
    """Skips tensors, connections and the like, and arrays.

    They can be sent. Pickling them would move tensors to shared memory, duplicate descriptors, or
    copy all of an array.
    """

    def __init__(self, file: _DiscardingFile) -> None:
        super().__init__(file)
        reducers: Dict[Any, Any] = getattr(self, "_extra_reducers", {})
        # multiprocessing's reducers for these two only look at what they hold, which may be
        # anything.
        self._skipped = reducers.keys() - {functools.partial, types.MethodType}
        self._is_skipped: Dict[type, Optional[bool]] = {}

    def persistent_id(self, obj: object) -> Optional[bool]:
        # Anything but None stands for the object in the pickle.
        cls = type(obj)
        if cls not in self._is_skipped:
            # Not isinstance(), which is slow for torch's classes.
            skip = self._skipped & set(cls.__mro__) or hasattr(cls, "__array_interface__")
            self._is_skipped[cls] = True if skip else None
        return self._is_skipped[cls]


class _TrialPopen:
    """Stands in for the process that would be starting; duplicates no descriptor."""

    @staticmethod
    def duplicate_for_child(handle: int) -> int:
        return handle

    @staticmethod
    def DupFd(descriptor: int) -> int:
        return descriptor
