"""A way home over the network: for a run that its owner has shared with other machines."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Any, Callable, ContextManager, Dict, Tuple

from ...errors import NotPlain
from .. import ending
from ..current import make_current
from ..link import Way, usage_error
from . import files, messages, packing
from .client import Client
from .frames import PIECE_BYTES

# What a worker may call, besides what the run calls itself. The rest would have to give
# it the run's inside, or a folder of the owner's.
CALLS = ("log", "define_metric", "_define_metric", "save", "alert", "mark_preempting")
OWN_CALLS = (
    "__getattribute__",
    "__setattr__",
    "_config_callback",
    "_config_artifact_callback",
    "_history_callback",
    "_log",
    "_metric_callback",
    "_partial_history_callback",
    "_summary_get_current_summary_callback",
    "_summary_update_callback",
    "pin_config_keys",
)
WORKS = ", ".join(name for name in CALLS if name[0] != "_")
ROWS = ("log", "_log", "_history_callback", "_partial_history_callback")

PATIENCE_SECONDS = 300.0


def patience() -> float:
    """Say how long an owner is waited for that can't be reached, in seconds."""
    try:
        return float(os.environ["WANDB_DDP_PATCH_SHARE_SECONDS"])
    except (KeyError, ValueError):
        return PATIENCE_SECONDS


class Remote(Way):
    """Calls on a run, made by its owner on another machine.

    Args:
        payload: What the run came with.
    """

    elsewhere = True

    def __init__(self, payload: Dict[str, Any]) -> None:
        self.payload, share = payload, payload["share"]
        self._address: Tuple[str, int] = share["host"], share["port"]
        self._token: bytes = share["token"]
        self._warned = False
        self._lock = threading.RLock()

    def connecting(self) -> ContextManager[Any]:
        return self._lock  # it may take minutes, which is nothing to other runs, and forks

    def is_over(self) -> bool:
        line = _lines.get(self.payload["key"])
        return line is None or line[0].window.over is not None

    def connect(self, run: Any) -> None:
        ending.leave_over(run)
        self._client()
        make_current(run)
        _leave_at_the_end()
        ending.flush_at_the_end(run, self)

    def _client(self) -> Client:
        key = self.payload["key"]
        with self._lock:
            if key not in _lines:
                client = Client(self._address, bytes.fromhex(key), self._token, patience())
                if _lines.setdefault(key, (client, self))[0] is not client:
                    client.close()  # a signal's handler has been here meanwhile
            return _lines[key][0]

    def call(
        self, run: Any, name: str, upstream: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Have the owner make a call: a row without waiting for it, all else with.

        Returns:
            What the call returned, or None for a row, or where that can't be sent.

        Raises:
            Unreachable: The owner has finished the run, has ended or can't be reached.
            TypeError: What the call was given can't be pickled.
            wandb.errors.UsageError: It is one that only the owner itself can make.
            Exception: What the call itself, or a row before it, has raised.
        """
        if name not in CALLS and name not in OWN_CALLS:
            raise _one_machine_only(f"run.{name}()")
        window = self._client().window
        self.unflushed = True
        if name in ROWS and packing.is_plain_row(args, kwargs):
            window.post(messages.ROW, packing.pack_plain(name, args, kwargs))
            return None
        pack = packing.pack_save if name == "save" else None
        packed = pack(*args, **kwargs) if pack else packing.pack(name, args, kwargs)
        for file in packed.files:
            _send(window, file)
        if name in ROWS and packing.is_row(args, kwargs):
            window.post(messages.LARGE_ROW, packed.body)
            return None
        try:
            return window.ask(messages.CALL, packed.body)
        except NotPlain:
            raise _one_machine_only(f"run.{args[0]}") from None

    def flush(self, run: Any) -> None:
        """Wait until the owner has made all that this worker has sent; say what is missing."""
        self.unflushed = False
        line = _lines.get(self.payload["key"])
        missing = line[0].window.flush() if line else 0
        if line and missing and not self._warned:
            self._warned = True
            why = line[0].window.over or f"no answer within {patience():.0f} s"
            ending.warn(
                f"The last {missing} message(s) of this worker to run"
                f" {self.payload['known']['id']} may be lost: {why}."
            )

    def leave(self, run: Any) -> None:
        ending.forget(run)
        line = _lines.pop(self.payload["key"], None)
        for error in line[0].close(self._warned) if line else ():
            raise error


def _send(window: Any, file: packing.Reference) -> None:
    digest = hashlib.sha256()
    with open(file.path, "rb") as content:
        while True:
            piece = content.read(PIECE_BYTES - files.ID_BYTES)
            if not piece:
                break
            digest.update(piece)
            window.post(messages.PIECE, files.piece(file.id, piece))
    window.post(messages.WHOLE, files.last_piece(file.id, digest.digest()))


def _one_machine_only(what: str) -> Exception:
    return usage_error(
        f"{what} does not work in a worker on another machine: use it in the process that"
        f" called wandb.init(). What works there: {WORKS}, finish, config and summary."
    )


# --- this process's lines -----------------------------------------------------

# By the run's key.
_lines: Dict[str, Tuple[Client, Remote]] = {}
_hooked = 0  # the process at whose end they are left


def _leave_at_the_end() -> None:
    import atexit
    from multiprocessing import util

    global _hooked
    if _hooked != os.getpid():
        _hooked = os.getpid()
        atexit.unregister(_leave_all)
        atexit.register(_leave_all)
        util.Finalize(None, _leave_all, exitpriority=99)


def _leave_all() -> None:
    lines = list(_lines.values())
    for client, way in lines:
        way.flush(None)
        for error in client.close(way._warned):
            ending.warn(
                f"What this worker has logged was refused: {type(error).__name__}: {error}."
            )


def after_fork_in_child() -> None:
    """Let go of the parent's lines: each process has its own."""
    for client, _ in _lines.values():
        client.abandon()
    _lines.clear()
