"""The same for a run of this machine, where releases have no service: up to 0.12.

Such a run works in one process only. Its owner makes what workers log, as for those on
other machines: over a local socket, with a token that all processes of its tree can make.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Dict, Tuple

from ...errors import FINISHED
from .. import ending
from ..link import usage_error
from ..processes import has_ended, identity
from . import kin, packing
from .client import Client, NearOwner
from .way import PATIENCE_SECONDS, WORKS, Remote

# An owner that is seen to live is waited for: it may be stopped, or in a long call.
_FOR_EVER_SECONDS = 1e6
# How long a process may take from the end of its sockets to its own.
_END_SECONDS = 1
_STRANGE = "this process was not started with multiprocessing by the one that called wandb.init()"


class Near(Remote):
    """Calls on a run, made by its owner, another process of this machine."""

    elsewhere = False
    own_calls = (*Remote.own_calls, "_tensorboard_callback")

    def __init__(self, payload: Dict[str, Any]) -> None:
        super().__init__(payload)
        self._owner = payload.get("process")  # not in payloads of 0.1.0

    def new_client(self) -> Client:
        key = self.payload["key"]
        seen = self._owner is not None and identity() is not None
        patience = _FOR_EVER_SECONDS if seen else PATIENCE_SECONDS
        about = NearOwner(self._why_gone, _STRANGE)
        return Client(self.payload["relay"], kin.name(key), kin.token(key), patience, about)

    def leave(self, run: Any) -> None:
        if self.is_over():
            super().leave(run)
        else:  # the next task of a pool need not connect anew
            ending.forget(run)
            for error in self.client().window.take_errors():
                raise error

    def resume(self, run: Any) -> bool:
        if self.is_over():
            return False
        ending.flush_at_the_end(run, self)
        return True

    def pack(self, name: str, args: Any, kwargs: Any) -> packing.Packed:
        # The owner may be in another folder.
        if name == "save":
            args, kwargs = _absolute(*args, **kwargs)
        elif name == "_tensorboard_callback":
            args = (os.path.abspath(args[0]), *args[1:])
        return packing.pack(name, args, kwargs)

    def not_here(self, what: str) -> Exception:
        version = sys.modules["wandb"].__version__
        return usage_error(
            f"{what} does not work in a worker in wandb {version}: use it in the process that"
            f" called wandb.init(). What works in a worker: {WORKS}, finish, config and summary."
        )

    def _why_gone(self, error: Exception) -> str:
        """Say why nobody answers at the owner's address, as far as it can be told."""
        deadline = time.monotonic() + _END_SECONDS
        if self._is_another_users():
            return "this process runs as another user than the one that called wandb.init()"
        if not isinstance(error, OSError) or self._owner is None or identity() is None:
            return FINISHED
        while not has_ended(self._owner):  # its sockets are closed a little before
            if time.monotonic() > deadline:
                return (
                    "nobody answers where the process that called wandb.init() takes calls: it has"
                    " ended, or this process is in another container or network namespace"
                )
            time.sleep(0.01)
        return FINISHED

    def _is_another_users(self) -> bool:
        # As doors.is_of_another_user() tells it the owner, who then says nothing.
        try:
            theirs = os.stat(f"/proc/{self.payload['owner']}").st_uid
        except OSError:
            return False
        return os.geteuid() not in (theirs, 0)


def _absolute(
    glob_str: Any = None, base_path: Any = None, *args: Any, **kwargs: Any
) -> Tuple[Any, Dict[str, Any]]:
    if isinstance(glob_str, (str, bytes)) and not os.path.isabs(glob_str):
        glob_str = os.path.abspath(glob_str)
        base_path = os.path.abspath(base_path or os.curdir)
    return (glob_str, base_path, *args), kwargs
