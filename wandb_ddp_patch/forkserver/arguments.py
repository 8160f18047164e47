"""Whether a worker's function and arguments can be pickled, tried before anything starts."""

from __future__ import annotations

import functools
import types
from multiprocessing import context, reduction
from typing import Any, Callable, Dict, Optional, Tuple

# What is larger is not looked at to its end: it will be pickled once for each worker.
_BYTES = 1 << 18


def pickling_problem(fn: Callable[..., object], args: Tuple[Any, ...]) -> Optional[str]:
    """Say which of them can't be sent to a new process, and why; None where all can."""
    name = getattr(fn, "__qualname__", f"the {type(fn).__qualname__}")
    named = [(name, fn), *((f"args[{n}]", arg) for n, arg in enumerate(args))]
    # Locks and queues let themselves be pickled only while a process is being started.
    set_popen: Any = context.set_spawning_popen
    set_popen(_Popen)
    try:
        for what, value in named:
            try:
                _Pickler(_Sink()).dump(value)
            except _Enough:
                pass
            except Exception as error:
                why = " ".join(str(error).split()).rstrip(".")
                return f"{what} can't be sent to a new process: {why or type(error).__name__}"
    finally:
        set_popen(None)
    return None


class _Enough(BaseException):
    pass


class _Sink:
    """A file that keeps nothing."""

    def __init__(self) -> None:
        self.left = _BYTES

    def write(self, data: Any) -> None:
        self.left -= len(data)
        if self.left < 0:
            raise _Enough


class _Pickler(reduction.ForkingPickler):
    """Passes over tensors, connections and the like, and arrays.

    They can be sent. To pickle them moves tensors to shared memory, opens descriptors, or
    copies all of an array.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        known: Any = getattr(self, "_extra_reducers", {})
        self._passed = known.keys() - {functools.partial, types.MethodType}
        self._seen: Dict[type, Optional[bool]] = {}

    def persistent_id(self, obj: Any) -> Optional[bool]:
        cls = type(obj)
        if cls not in self._seen:
            # Not with isinstance(), of which torch's classes make something slow.
            passed = self._passed & set(cls.__mro__) or hasattr(cls, "__array_interface__")
            self._seen[cls] = True if passed else None
        return self._seen[cls]


class _Popen:
    """Stands for the process that is being started."""

    @staticmethod
    def duplicate_for_child(handle: Any) -> Any:
        return handle

    @staticmethod
    def DupFd(descriptor: Any) -> Any:
        return descriptor
