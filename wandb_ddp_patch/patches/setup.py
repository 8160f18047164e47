"""wandb.teardown() in a worker: drops rows, raises, or ends the owner's service (since 0.13).

W&B's guide has workers call it at their end. It ends the service of the process that owns
the run (0.13 to 0.17), raises (0.18), or drops what was not sent yet (0.21 to 0.31.0).
"""

from __future__ import annotations

import os
import sys
from typing import Any

from .._patching import IncompatibleError, Patch, patch_class, wraps_original


class Setup:
    """What the class of wandb's setup object, a singleton, should have had."""

    @wraps_original
    def _teardown(original, self, *args, **kwargs):
        if getattr(self, "_pid", os.getpid()) != os.getpid():
            return  # a fork's copy of the object: the service is its parent's
        # Not imported where it is not loaded: then this process has had no run.
        flush = sys.modules.get(f"{__package__.rpartition('.')[0]}.runs.flush")
        if flush is not None and flush.detach_all():
            from ..transports import service_connection

            service_connection.disown_service(self)
        original(self, *args, **kwargs)


_MODULE = "wandb.sdk.wandb_setup"


def _class() -> Any:
    for cls in vars(sys.modules[_MODULE]).values():  # its name has changed
        if isinstance(cls, type) and "_teardown" in vars(cls):
            return cls
    raise IncompatibleError(f"{_MODULE} has no class with _teardown")


def _is_fixed() -> bool:
    # __wrapped__: the patch is on. To see what teardown() does would end this process's service.
    has_teardown = hasattr(sys.modules[_MODULE], "teardown")  # from 0.12 on
    return not has_teardown or hasattr(_class()._teardown, "__wrapped__")


PATCHES = [
    Patch(
        modules=(_MODULE,),
        name="teardown",
        install=lambda undo: patch_class(undo, _class(), Setup),
        is_fixed=_is_fixed,
        why="a worker's wandb.teardown() loses no rows, and leaves W&B's service to its owner",
        since="0.13.0 or earlier",
    )
]
