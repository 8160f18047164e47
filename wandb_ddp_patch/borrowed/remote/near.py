"""A way home to an owner on this machine, where releases have no service: up to 0.12.

Such a run works in one process only. Its owner makes what workers log, as for those on
other machines: over a local socket, with a token that all processes of its tree can make.
But each call is waited for, so none is under way when a worker ends, or tells anybody.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, Callable, ContextManager, Dict, Tuple

from ...errors import NotPlain
from ..current import make_current
from ..link import Way, usage_error
from . import messages, packing
from .line import Line
from .way import CALLS, OWN_CALLS, ROWS, WORKS

_OWN_CALLS = (*OWN_CALLS, "_tensorboard_callback")


class Near(Way):
    """Calls on a run, made by its owner, another process of this machine.

    Args:
        payload: What the run came with.
    """

    def __init__(self, payload: Dict[str, Any]) -> None:
        self.payload = payload

    def connecting(self) -> ContextManager[Any]:
        return _connecting

    def connect(self, run: Any) -> None:
        _line(self.payload)
        make_current(run)

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Have the owner make a call.

        Returns:
            What the call returned, or None where that can't be sent.

        Raises:
            Unreachable: The owner has finished the run, has ended or does not answer.
            TypeError: What the call was given can't be pickled.
            wandb.errors.UsageError: It is one that only the owner itself can make.
            Exception: What the call itself raised.
        """
        if name not in CALLS and name not in _OWN_CALLS:
            raise _one_process_only(f"run.{name}()")
        # The owner may be in another folder.
        if name == "save":
            args, kwargs = _absolute(*args, **kwargs)
        elif name == "_tensorboard_callback":
            args = (os.path.abspath(args[0]), *args[1:])
        if name in ROWS and packing.is_plain_row(args, kwargs):
            done, result = self._ask(messages.QUICK_CALL, packing.pack_plain(name, args, kwargs))
        else:
            done, result = self._ask(messages.CALL, _packed(name, args, kwargs))
        if done:
            return result
        if isinstance(result, NotPlain):
            raise _one_process_only(f"run.{args[0]}")
        raise result

    def _ask(self, kind: int, body: bytes) -> Tuple[bool, Any]:
        while True:
            line = _line(self.payload)
            with line.lock:
                if line.busy:  # this thread's own call: a signal's handler has come between
                    break
                if not line.closed:  # as it is where another thread's call has failed
                    return line.ask(kind, body)
        line = Line(self.payload)
        try:
            return line.ask(kind, body)
        finally:
            line.close()

    def resume(self, run: Any) -> bool:
        return True  # the line has stayed


def _packed(name: str, args: Any, kwargs: Any) -> bytes:
    try:
        return packing.pack_plain(name, args, kwargs)
    except Exception as error:
        raise packing.not_picklable(name, error) from error


def _one_process_only(what: str) -> Exception:
    version = sys.modules["wandb"].__version__
    return usage_error(
        f"{what} does not work in a worker in wandb {version}: use it in the process that"
        f" called wandb.init(). What works in a worker: {WORKS}, finish, config and summary."
    )


def _absolute(
    glob_str: Any = None, base_path: Any = None, *args: Any, **kwargs: Any
) -> Tuple[Any, Dict[str, Any]]:
    if isinstance(glob_str, (str, bytes)) and not os.path.isabs(glob_str):
        glob_str = os.path.abspath(glob_str)
        base_path = os.path.abspath(base_path or os.curdir)
    return (glob_str, base_path, *args), kwargs


# --- this process's lines ------------------------------------------------------


# By the run's key.
_lines: Dict[str, Line] = {}
_connecting = threading.RLock()


def _line(payload: Dict[str, Any]) -> Line:
    """Get this process's line to the owner of a run; connect, if there is none."""
    key = payload["key"]
    line = _lines.get(key)
    if line is None or line.closed:
        with _connecting:
            line = _lines.get(key)
            if line is None or line.closed:
                _let_go_of_others()
                line = _lines[key] = Line(payload)
    return line


def _let_go_of_others() -> None:
    """Close lines to runs that are over: a pool's worker may have had thousands."""
    for key, line in list(_lines.items()):
        if line.is_over():
            _lines.pop(key, None)
            line.close()


def after_fork_in_child() -> None:
    """Let go of the parent's lines: each process has its own."""
    global _connecting
    _connecting = threading.RLock()
    for line in _lines.values():
        line.close()
    _lines.clear()
